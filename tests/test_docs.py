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
from generators import generator
from PIL import Image

import lossbench
from lossbench import catalog, cli, figures, records
from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.data.splits import SPLITS
from lossbench.losses import LOSSES
from lossbench.measures import instruments
from lossbench.measures.instruments.schedule import LARGEST_SHARE
from lossbench.models import MODELS
from lossbench.user_code import modules

DOCS = Path(__file__).parents[1] / "docs"


def test_docs_records_md_is_fresh_and_has_every_column_and_every_metric():
    text = generator("records").document()
    assert (DOCS / "records.md").read_text() == text, (
        "python docs/generate/records.py > docs/records.md"
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
    text = generator("data").document()
    assert (DOCS / "data.md").read_text() == text, "python docs/generate/data.py > docs/data.md"
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == list(DATA)
    assert all(line.count(" | ") == 10 for line in lines)


# ---- docs/losses.md ------------------------------------------------------------------------------

NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.exhaustive
def test_docs_losses_md_is_fresh():
    written, fresh = (DOCS / "losses.md").read_text(), generator("losses").document()
    cure = "python docs/generate/losses.py > docs/losses.md"
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

EXTENDING = (DOCS / "extending.md").read_text()
FILES = dict(re.findall(r"`(\w+\.py)`[^`]*?:\n\n```python\n(.*?)```", EXTENDING, re.DOTALL))
"""What it says to write, by name."""

SCRIPTS = [
    text
    for text in re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
    if text not in FILES.values()
]
COMMANDS = {
    command[-1]: command
    for block in re.findall(r"```bash\n(.*?)```", EXTENDING, re.DOTALL)
    for command in map(shlex.split, block.splitlines())
}
"""What it says to type, by the last word."""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder with what docs/extending.md says to write; what it adds is forgotten afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    draw = np.random.default_rng(0)
    for place in range(120):
        path = tmp_path / "data" / "leaves" / ("ash", "birch", "cedar")[place % 3] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 80, (20, 24, 3)).astype(np.uint8)
        pixels[..., place % 3] += 100
        Image.fromarray(pixels).save(path)
    weight, power = draw.normal(1200, 200, 120), draw.normal(70, 20, 120)
    table = {
        "weight": weight,
        "fuel": ["petrol", "diesel"] * 60,
        "consumption": weight / 200 + power,
    }
    pd.DataFrame(table).to_csv(tmp_path / "cars.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(modules, "_ADDED", {})
    before = {id(registry): dict(registry) for registry in (LOSSES, DATA, MODELS)}
    yield tmp_path
    for registry in (LOSSES, DATA, MODELS):
        registry.clear()
        registry.update(before[id(registry)])
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def follow(*last_words, more=()):
    """Type commands of the page, at a size for a test."""
    for word in last_words:
        assert cli.main([*COMMANDS[word][1:], "hydra.launcher.workers=1", *more]) == cli.DONE, word


def test_docs_extending_md_tells_of_four_files_one_script_and_eight_commands():
    assert sorted(FILES) == ["more_losses.py", "my_data.py", "my_losses.py", "my_models.py"]
    assert (len(SCRIPTS), len(COMMANDS)) == (1, 8)


def test_a_function_of_a_paper_is_tried(own_folder, capsys):
    follow("wing", more=("size=smoke", "report=none"))
    out = capsys.readouterr().out
    assert "wing  (my_losses.py, line 6)" in out
    assert out.count("SMOKE: After ") == 3


@pytest.mark.exhaustive
def test_functions_of_ones_own_are_words_like_any_other(own_folder):
    follow(
        "name=wing", "name=resmlp", "name=cars", "name=leaves", more=("steps=4", "batch_size=16")
    )
    runs = records.load("runs/wing").runs
    assert set(runs.status) == {"done"}
    params = {json.loads(config)["loss"]["params"].get("w") for config in runs.config}
    assert params == {0.5, 1.0}
    assert {*records.load("runs/resmlp").runs.model} == {"resmlp"}
    assert {*records.load("runs/leaves").runs.data} == {"leaves"}


@pytest.mark.exhaustive
def test_a_table_is_compared_as_the_page_says(own_folder):
    more = ("hydra.sweeper.looks=[6]", "steps=20", "report=none", "batch_size=16")
    follow("name=compared", more=more)
    assert {*records.load("runs/compared").runs.loss} == {"mse", "mae", "huber"}


def test_the_script_of_the_page_runs_as_it_stands(own_folder, capsys):
    (script,) = SCRIPTS
    exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "soft" in out
    assert "mae" in out
    assert (own_folder / "runs" / "soft" / "sweep.json").exists()


def test_an_experiment_and_a_row_of_ones_own_are_found(own_folder, capsys):
    folder = own_folder / "myconf" / "experiment"
    folder.mkdir(parents=True)
    blocks = "    blocks: [{data: [diabetes], model: [linear], loss: [mse, laplace_nll]}] #"
    text = (lossbench.CONF / "experiment" / "compare.yaml").read_text()
    text = text.replace("name: compare\n", "name: mine\nextensions: [more_losses]\n")
    (folder / "mine.yaml").write_text(text.replace("    blocks: [] #", blocks))
    follow("experiment=mine", more=("size=smoke", "report=none"))
    assert {*records.load("runs/mine-smoke").runs.loss} == {"mse", "laplace_nll"}
    assert "laplace_nll" in capsys.readouterr().out
    (folder / "mine.yaml").write_text(text.replace("# @package _global_\n", ""))
    assert cli.main([*COMMANDS["experiment=mine"][1:]]) == cli.MISTAKE
    assert "begins with the line '# @package _global_'" in capsys.readouterr().err


def test_the_row_of_the_page_claims_what_is_measured(own_folder, capsys):
    assert cli.main(COMMANDS["extensions=[more_losses]"][1:]) == cli.DONE
    assert "laplace_nll, measured now" in capsys.readouterr().out


def test_pictures_of_ones_own_keep_their_class_and_their_colours(own_folder):
    follow("name=leaves", more=("steps=2", "batch_size=16"))
    row = DATA["leaves"]
    splits, other = (row.splits(seed, Files(), {"side": 12}) for seed in (0, 1))
    sizes = {split: tuple(rows.shape) for split, rows in splits.inputs.items()}
    assert sizes == {split: (n, 3, 12, 12) for split, n in zip(SPLITS, (72, 24, 24), strict=True)}
    assert splits.sha != other.sha
    for split, rows in splits.inputs.items():
        brightest = rows.mean((-1, -2)).argmax(-1)  # each class was given its own colour
        assert brightest.tolist() == splits.targets[split].argmax(-1).tolist()


def test_contributing_points_to_what_tells_how_to_extend():
    text = (DOCS.parent / "CONTRIBUTING.md").read_text()
    assert "(docs/extending.md)" in text
    for link in re.findall(r"\]\((docs/[^)#]+)\)", text):
        assert (DOCS.parent / link).is_file()


def test_every_file_that_a_page_names_is_there():
    root = DOCS.parent
    for page in (root / "CONTRIBUTING.md", root / "README.md", *DOCS.glob("*.md")):
        for name in re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|yaml))`", page.read_text()):
            paths = (root / name, root / "src" / "lossbench" / name)
            is_readers_own = name.startswith("myconf/")
            assert is_readers_own or any(path.exists() for path in paths), (page.name, name)


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
    files += ("user_code/test_somebody.py", "records/test_integrity.py", "ask/test_trust.py")
    files += (
        "sweep/test_plan.py",
        "fingerprints/test_fingerprints.py",
        "executors/test_clusters.py",
    )
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
