"""Generated documents are fresh, and what a document says to type works as it stands there."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from configs import TINY
from PIL import Image

import lossbench
from lossbench import catalog, cli, figures, records
from lossbench.data import DATA
from lossbench.data import __main__ as data_sets
from lossbench.data.files import Files
from lossbench.data.splits import SPLITS
from lossbench.losses import LOSSES
from lossbench.measures import instruments
from lossbench.measures.instruments.schedule import LARGEST_SHARE
from lossbench.records import __main__ as tables
from lossbench.report import page
from lossbench.runs.extensions import load_extensions

DOCS = Path(__file__).parents[1] / "docs"


def test_docs_records_md_is_fresh_and_has_every_column_and_every_metric():
    text = tables.document()
    assert (DOCS / "records.md").read_text() == text, (
        "python -m lossbench.records > docs/records.md"
    )
    names = [column.name for columns in records.COLUMNS.values() for column in columns]
    measured = [name for one in records.INSTRUMENTS.values() for name in one.metrics]
    for name in (*names, *records.METRICS, *measured):
        assert f"| `{name}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    # And loss:own, loss:NAME, accuracy:CLASS and agreement:NAME.
    assert len(rows) == len(names) + len(records.METRICS) + len(measured) + 4
    assert all(line.count(" | ") == 4 for line in rows)


def test_docs_data_md_is_fresh_whatever_files_are_here_and_has_a_line_for_every_set():
    text = data_sets.document()
    assert (DOCS / "data.md").read_text() == text, "python -m lossbench.data > docs/data.md"
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == list(DATA)
    assert all(line.count(" | ") == 10 for line in lines)


# ---- docs/losses.md ------------------------------------------------------------------------------

NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.exhaustive
def test_docs_losses_md_is_fresh():
    written, fresh = (DOCS / "losses.md").read_text(), catalog.document()
    cure = "python -m lossbench.catalog > docs/losses.md"
    assert NUMBER.sub("#", written) == NUMBER.sub("#", fresh), cure
    # On another processor a last digit may round to the other side.
    numbers = ([float(number) for number in NUMBER.findall(text)] for text in (written, fresh))
    assert list(next(numbers)) == pytest.approx(next(numbers), rel=2e-3, abs=1.1e-3), cure


@pytest.mark.parametrize("name", LOSSES)
def test_docs_losses_md_has_every_loss_in_full(name):
    row = LOSSES[name]
    (line,) = re.findall(rf"^\| `{name}` \| `.*", LOSSES_PAGE.partition("## What sampled")[0], re.M)
    cells = [cell.strip(" `").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    assert cells[1:3] == [row.formula, row.inverse_link]
    assert all(f"`{key}` = {value}" in line for key, value in row.defaults.items())
    letters = "".join(letter for key, letter in catalog.letters().items() if key in row.claims)
    assert re.sub("[ ·]", "", cells[4]) == letters
    assert cells[5:] == [row.source, row.oracle or "–"]


def test_docs_losses_md_names_those_without_an_oracle():
    section = LOSSES_PAGE.partition("## Without an independent implementation")[2]
    listed = re.findall(r"`(\w+)`", section.partition("\n## ")[0])
    assert listed == [name for name, row in LOSSES.items() if not row.oracle]


LOSSES_PAGE = (DOCS / "losses.md").read_text()
SHOWN_BY = re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", LOSSES_PAGE)


def test_no_statement_of_the_essay_goes_without_its_test():
    chapter = LOSSES_PAGE.partition("## The essay's three claims")[2]
    statements = [part for part in chapter.split("\n\n") if part.startswith("**")]
    assert len(statements) >= 18
    for statement in statements:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", statement), statement


def test_the_tests_of_the_essays_claims_are_those_that_the_page_names():
    file = "claims/test_essay_claims.py"
    tree = ast.parse((Path(__file__).parent / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {*SHOWN_BY} == {(file, name) for name in names if name.startswith("test_")}


# ---- docs/extending.md ---------------------------------------------------------------------------

EXTENDING, _, OWN_DATA = (DOCS / "extending.md").read_text().partition("\n# Data of your own\n")
PYTHON, YAML, BASH = (
    re.findall(rf"```{kind}\n(.*?)```", EXTENDING, re.DOTALL) for kind in ("python", "yaml", "bash")
)
COMMANDS = [shlex.split(line)[1:] for block in BASH for line in block.splitlines()]

TINY_ESSAY = (
    TINY.replace("tiny", "essay")
    .replace("data: [diabetes]", "data: [digits]")
    .replace("loss: [mse, mae]", "loss: [cross_entropy]")
)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder with what docs/extending.md says to write, and the catalog as it was afterwards."""
    (tmp_path / "myconf" / "loss").mkdir(parents=True)
    modules = dict(zip(("my_losses", "more_losses"), PYTHON, strict=True))
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    (wide,) = YAML
    assert "loss/wing_wide.yaml`" in EXTENDING
    (tmp_path / "myconf" / "loss" / "wing_wide.yaml").write_text(wide)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(LOSSES)
    yield tmp_path
    LOSSES.clear()
    LOSSES.update(before)
    for name in modules:
        sys.modules.pop(name, None)


MEASURE, DRAW, ONE_RUN, TRIAL, MEASURE_MORE = COMMANDS


@pytest.mark.parametrize("command", [MEASURE, MEASURE_MORE], ids=" ".join)
def test_the_own_losses_claim_what_is_measured(command, own_folder, capsys):
    assert cli.main(command) == cli.DONE, capsys.readouterr().out
    out = capsys.readouterr().out
    for name in command[1:3]:
        assert f"{name}, measured now" in out


def test_an_own_loss_gets_its_card(own_folder):
    assert cli.main(DRAW) == cli.DONE
    assert "Hui, Belkin and Wright 2023" in (own_folder / "squentropy.html").read_text()


def test_own_losses_are_trained_and_so_is_a_variant(own_folder):
    assert cli.main([*ONE_RUN, "steps=4"]) == cli.DONE
    wide = ["--config-dir", "myconf", "loss=wing_wide", "loss.params.epsilon=0.5"]
    assert cli.main([*ONE_RUN, "steps=4", *wide]) == cli.DONE
    runs = records.load("runs/default").runs.set_index("loss")
    assert runs.status.to_dict() == {"wing": "done", "wing_wide": "done"}
    params = {loss: json.loads(runs.config[loss])["loss"]["params"] for loss in runs.index}
    assert params == {
        "wing": {"w": 1.0, "epsilon": 0.2},
        "wing_wide": {"w": 3.0, "epsilon": 0.5},
    }
    for name, data in (("inverse_frequency", "digits"), ("laplace_nll", "diabetes")):
        line = ["extensions=[more_losses]", f"loss={name}", f"data={data}", "steps=4"]
        assert cli.main([*line, "name=more"]) == cli.DONE  # they ask for more than others
    assert {*records.load("runs/more").runs.status} == {"done"}


def test_an_own_loss_has_its_fair_trial_against_the_catalog(own_folder, capsys):
    (own_folder / "myconf" / "experiment").mkdir()
    (own_folder / "myconf" / "experiment" / "essay.yaml").write_text(TINY_ESSAY)
    line = ["--config-dir", "myconf", "report=none"]
    assert cli.main([*line, "experiment=essay"]) == cli.DONE
    capsys.readouterr()
    assert cli.main([*TRIAL, *line]) == cli.DONE
    assert "squentropy" in capsys.readouterr().out
    runs = records.load("runs/essay").runs
    assert set(runs.status) == {"done"}
    rates = {loss: {*rows.lr} for loss, rows in runs.groupby("loss")}
    assert rates["squentropy"] == rates["cross_entropy"]
    text = page.write(own_folder / "runs" / "essay", drawn_in=[]).read_text()
    assert "Added after the declaration, so exploratory: squentropy" in text


OWN_COMMANDS = [
    shlex.split(line)[1:] for line in OWN_DATA.splitlines() if line.startswith("lossbench --")
]


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A folder with what docs/extending.md says of data, and some; forgotten afterwards."""
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", OWN_DATA, re.DOTALL)
    names = ("my_data.py", "myconf/data/cars.yaml", "myconf/data/leaves.yaml")
    names += ("myconf/experiment/mine.yaml",)
    for group in ("data", "experiment"):
        (tmp_path / "myconf" / group).mkdir(parents=True)
    for name, (_, text) in zip(names, blocks, strict=True):
        assert f"`{name}`" in OWN_DATA
        (tmp_path / name).write_text(text)
    draw = np.random.default_rng(0)
    for place in range(120):
        path = tmp_path / "data" / "leaves" / ("ash", "birch", "cedar")[place % 3] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 80, (20, 24, 3)).astype(np.uint8)
        pixels[..., place % 3] += 100
        Image.fromarray(pixels).save(path)
    weight, power = draw.normal(1200, 200, 120), draw.normal(70, 20, 120)
    table = pd.DataFrame({"weight": weight, "power": power, "consumption": weight / 200 + power})
    table.to_csv(tmp_path / "data" / "cars.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(DATA)
    yield tmp_path
    DATA.clear()
    DATA.update(before)
    sys.modules.pop("my_data", None)


def test_data_of_ones_own_are_trained_on(own_data, capsys):
    command, *_ = OWN_COMMANDS
    assert cli.main([*command, "steps=4"]) == cli.DONE, capsys.readouterr()
    (run,) = records.load("runs/default").runs.to_dict("records")
    assert (run["data"], run["loss"], run["status"]) == ("cars", "huber", "done")


@pytest.mark.exhaustive
def test_an_experiment_of_ones_own_compares_losses_on_ones_own_data(own_data, capsys):
    *_, command = OWN_COMMANDS
    assert cli.main([*command, "size=smoke", "report=none"]) == cli.DONE, capsys.readouterr()
    out = " ".join(capsys.readouterr().out.split())
    assert "cars × mlp" in out
    assert "leaves × mlp" in out
    assert "The learning rates tried lie up to a factor of 320 apart" in out


def with_a_gap(table):
    return table.assign(power=table.power.mask(table.index == 3))


def with_a_misspelt_column(table):
    return table.rename(columns={"power": "powr"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (with_a_gap, r"data cars, seed 0: inputs of split \w+: 1 of \d+ numbers .*, column 1"),
        (
            with_a_misspelt_column,
            r"data cars, seed 0: my_data.py, line \d+, raises KeyError: .*power",
        ),
        (None, "cars.csv is not below data.root=elsewhere: put it there"),
    ],
)
def test_a_mistake_in_ones_own_data_is_refused_with_its_place(edit, message, own_data, capsys):
    line = [*OWN_COMMANDS[0], "steps=4"]
    if edit:
        edit(pd.read_csv("data/cars.csv")).to_csv("data/cars.csv", index=False)
    else:
        line.append("data.root=elsewhere")
    assert cli.main(line) == cli.MISTAKE
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


def test_an_experiment_without_its_package_line_says_so(own_data, capsys):
    path = own_data / "myconf" / "experiment" / "mine.yaml"
    path.write_text(path.read_text().replace("# @package _global_\n", ""))
    assert cli.main(OWN_COMMANDS[-1]) == cli.MISTAKE
    assert "begins with the line '# @package _global_'" in capsys.readouterr().err


def test_pictures_of_ones_own_keep_their_class_and_their_colours(own_data):
    load_extensions(["my_data"])
    row = DATA["leaves"]
    splits, other = (row.splits(seed, Files(), {"side": 12}) for seed in (0, 1))
    sizes = {split: tuple(rows.shape) for split, rows in splits.inputs.items()}
    assert sizes == {split: (n, 3, 12, 12) for split, n in zip(SPLITS, (72, 24, 24), strict=True)}
    assert splits.sha != other.sha
    for split, rows in splits.inputs.items():
        brightest = rows.mean((-1, -2)).argmax(-1)  # each class was given its own colour
        assert brightest.tolist() == splits.targets[split].argmax(-1).tolist()
    for one in splits.inputs["train"].unbind(1):
        assert float(one.mean()) == pytest.approx(0, abs=1e-5)
        assert float(one.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_contributing_points_to_what_tells_how_to_extend():
    text = (DOCS.parent / "CONTRIBUTING.md").read_text()
    assert "(docs/extending.md)" in text
    for link in re.findall(r"\]\((docs/[^)#]+)\)", text):
        assert (DOCS.parent / link).is_file()


def test_the_experiment_in_docs_protocol_md_can_be_planned_as_it_stands(
    tmp_path, monkeypatch, capsys
):
    text = re.findall(r"```yaml\n(.*?)```", (DOCS / "protocol.md").read_text(), re.DOTALL)[0]
    (tmp_path / "myconf" / "experiment").mkdir(parents=True)
    (tmp_path / "myconf" / "experiment" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--config-dir", "myconf", "experiment=mine"]) == cli.DONE
    out = capsys.readouterr().out
    assert "mine: 240 runs" in out
    assert max(map(len, out.splitlines())) <= 80


# ---- docs/figures.md -----------------------------------------------------------------------------

FIGURES = (DOCS / "figures.md").read_text()


def test_docs_figures_md_shows_every_figure_with_its_question_and_its_script():
    functions = {
        name
        for name, one in vars(figures).items()
        if inspect.isfunction(one) and {"ax", "axes"} & {*inspect.signature(one).parameters}
    }
    parts = FIGURES.split("\n### ")[1:]
    shown = {}
    for part in parts:
        (picture,) = re.findall(r"!\[.+\]\(figures/(\w+)\.png\)", part)
        ((name, sweep, out),) = re.findall(
            r"^`python analysis/(\w+)\.py runs/(\w+) (\w+)\.png", part, re.M
        )
        assert name == out == picture
        # A picture of another sweep than the essay's says how that sweep is made.
        assert sweep == "essay" or f"`lossbench experiment={sweep}`" in part
        assert (lossbench.CONF / "experiment" / f"{sweep}.yaml").is_file()
        assert part.splitlines()[0].endswith("?")
        shown[picture] = part
    assert {path.stem for path in (DOCS / "figures").iterdir()} == {*shown}
    scripts = {path.stem for path in (DOCS.parent / "analysis").glob("*.py")}
    assert {*shown} <= scripts
    drawn_by = {name: (DOCS.parent / "analysis" / f"{name}.py").read_text() for name in shown}
    for name in functions:
        assert any(f"figures.{name}(" in text for text in drawn_by.values()), name


# ---- docs/reliability.md -------------------------------------------------------------------------


def test_docs_reliability_md_tells_of_every_promise_and_of_none_that_has_no_test():
    told = {*re.findall(r"`(test_\w+)` \|$", (DOCS / "reliability.md").read_text(), re.M)}
    promised, tests = set(), set()
    files = ("sweep/test_faults.py", "slurm/test_slurm.py", "sweep/test_resume.py", "test_store.py")
    files += ("sweep/test_somebody.py", "records/test_verify.py", "config/test_trust.py")
    files += ("sweep/test_plan.py", "test_pairing.py")
    for name in files:
        tree = ast.parse((Path(__file__).parent / name).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                source = ast.unparse(node)
                tests.add(node.name)
                if "figure(" in source or "say(record_property" in source:
                    promised.add(node.name)
    assert promised <= told <= tests


# ---- docs/instruments.md -------------------------------------------------------------------------

ON_INSTRUMENTS = (DOCS / "instruments.md").read_text()


def _whole_within(name):
    """From how many updates on an instrument takes the share it may, both ends counted."""
    cost, longest = records.INSTRUMENTS[name].cost, 20_000
    due = np.arange(longest) % instruments.interval(name, eval_every=100) == 0
    times = due.cumsum() + ~due  # of a run that ends after this step, which is measured
    too_much = np.flatnonzero(cost * times > LARGEST_SHARE * np.arange(1, longest + 1)) + 2
    return f"{too_much[-1]:,}" if len(too_much) and too_much[-1] <= longest else "never"


def test_an_instrument_takes_its_share_between_the_ends_and_two_measurements_more():
    for name, one in records.INSTRUMENTS.items():
        for steps in (1, 2, 50, 301, 2_000, 7_000):
            often = instruments.times(name, steps=steps, eval_every=100)
            assert one.cost * often <= LARGEST_SHARE * steps + 2 * one.cost
    assert 70 * instruments.times("curvature", steps=7_000, eval_every=100) / 7_000 == 0.06


def test_docs_instruments_md_tells_of_every_instrument_its_metrics_and_its_cost():
    what, _, costs = ON_INSTRUMENTS.partition("## What they cost")
    for name, one in records.INSTRUMENTS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*", what, re.M)
        for metric in one.metrics:
            assert f"`{metric}`" in row or metric.startswith("loss_quantile_")
        (row,) = re.findall(rf"^\| `{name}` \|.*", costs, re.M)
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        often = instruments.times(name, steps=2_000, eval_every=100)
        share = f"{one.cost * often / 2_000:.1%}".replace("%", " %")
        assert cells[3:] == [f"{one.cost:g}", str(often), share, _whole_within(name)]
        assert max(float(cell) for cell in cells[1:3]) <= one.cost
