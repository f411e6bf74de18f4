"""The command line as its user meets it: words, messages, exit codes, what is left on disk."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from needs import skip_without
from selection import one_in

from lossbench import cli, records, store
from lossbench.claims import CLAIMS, measure
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.models import MODELS

SMALL = ["data=diabetes", "model=linear", "steps=4", "batch_size=16"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test has a current folder of its own, and leaves the catalogs as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a command with extensions adds to it
    before = [(rows, dict(rows)) for rows in (LOSSES, DATA, MODELS)]
    yield tmp_path
    for rows, known in before:
        rows.clear()
        rows.update(known)
    sys.modules.pop("my_losses", None)


def lossbench(*arguments, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lossbench.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_shows_examples(word, capsys):
    assert cli.main([word]) == cli.DONE
    out = capsys.readouterr().out
    assert "lossbench experiment=NAME" in out
    assert "lossbench report runs/NAME" in out
    assert cli.main(["--version"]) == cli.DONE
    assert capsys.readouterr().out.startswith("lossbench 0.")


def test_help_of_one_command_is_what_the_help_says_of_it(capsys):
    assert cli.main(["try", "--help"]) == cli.DONE
    out = capsys.readouterr().out
    assert "--against mse,huber" in out
    assert "lossbench report" not in out
    assert len(out.splitlines()) < 8


def test_help_and_version_import_neither_torch_nor_hydra():
    code = (
        "import sys; from lossbench import cli; cli.main([sys.argv[1]]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'hydra', 'pandas', 'omegaconf')))"
    )
    for word in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, word], check=False, stdout=subprocess.DEVNULL
        )
        assert done.returncode == 0


@pytest.mark.exhaustive
def test_a_command_whose_loss_imports_the_compiler_ends_without_a_word_of_it():
    code = "import torch._dynamo; from lossbench import cli; cli.main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plan_and_the_claims_of_a_loss_import_no_compiler_and_nothing_that_draws_or_downloads():
    code = """
import sys
from lossbench import claims, cli
from lossbench.claims import kind
from lossbench.losses import LOSSES
cli.main(["plan", "loss=mse", "data=diabetes", "steps=2"])
kind.refused(LOSSES["mse"])
claims.measure(LOSSES["mse"])
slow = {"torch._dynamo", "matplotlib", "seaborn", "scipy.optimize", "scipy.stats", "pooch"}
sys.exit(str(slow & {*sys.modules} or ""))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_cfg_prints_the_configuration_and_trains_nothing(place, capsys):
    assert cli.main(["--cfg", "job", "loss=huber", "data=diabetes"]) == cli.DONE
    assert "delta: 1.0" in capsys.readouterr().out
    assert list(place.iterdir()) == []


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "--experiment=compare": ("write it without the dashes", "as experiment=compare"),
    "--steps=3": ("write it without the dashes", "as steps=3"),
    "los=mse": ("'los'", "'loss'"),
    "+stepz=3": ("'stepz'", "'steps'"),
    "stepz=3": ("'stepz'", "'steps'"),
    "loss=huberr": ("'huberr'", "'huber'"),
    "loss=mse,huberr -m": ("'huberr'", "'huber'"),
    "loss=": ("loss ''", "lossbench --help"),
    "loss={name:mse}": ("'name'", "lossbench --help"),
    "experiment=essy": ("'essy'", "'essay'"),
    "experiment=null": ("experiment 'None'", "lossbench --help"),
    "data=digitz": ("'digitz'", "'digits'"),
    "loss=mse data=digits": ("'mse'", "cross_entropy"),
    "optimizer.lr=-1": ("optimizer.lr is -1.0", "positive"),
    "optimizer.lr=abc": ("optimizer.lr is 'abc'", "a number"),
    "-m optimizer.lr=0.1,abc": ("optimizer.lr is 'abc'", "a number"),
    "-m optimizer.lr=0.1,nan": ("optimizer.lr is nan", "a positive number"),
    "init=3": ("init is no single value", "keys below"),
    "steps=0": ("steps is 0", "positive"),
    "steps=1.5": ("steps is '1.5'", "a whole number"),
    "seed=1-10": ("'1-10'", "range(10)"),
    "-m seed=range(3": ("seed=range(3", "range(10)"),
    "loss=../../x": ("'../../x'", "lossbench --help"),
    "name=../x": ("'../x'", "letters, digits"),
    "-m name=a,b": ("'a'", "one name"),
    "data.name=foo": ("data.name is 'foo'", "data=foo"),
    "model.params.width=[3]": ("model.params.width", "'widths'"),
    "model.params.widths=[a]": ("widths is 'a'", "default"),
    "loss.params.delt=1 loss=huber data=diabetes": ("loss.params.delt", "'delta'"),
    "loss.params.delta=x loss=huber data=diabetes": ("loss.params.delta is 'x'", "1.0"),
    "loss.params.low=6 loss=hl_gauss data=diabetes": ("low is 6.0 and high 5.0", "smaller"),
    "loss.params.sigma=0 loss=hl_gauss data=diabetes": ("sigma is 0.0", "a positive number"),
    "loss.params.k=1 loss=eaft": ("k is 1", "use 2 or more"),
    "signal=norm_matched loss=quantiles data=diabetes": ("'quantiles'", "signal=own"),
    "data=many_labels loss=cross_entropy": ("'cross_entropy'", "use one of", "bce_ova"),
    "data=many_labels loss=bce_ova init.from=permuted_labels": ("permuted", "init.from=random"),
    "data=many_labels loss=bce_ova data.corruption.name=symmetric": ("symmetric", "name=none"),
    "data.corruption.params.rate=0.1": ("data.corruption.params of none: 'rate'", "none"),
    "data.corruption.name=symmetric data.corruption.params.rat=0.1": ("'rat'", "'rate'"),
    "data.corruption.name=symmetric data.corruption.params.rate=x": ("rate is 'x'", "0.2"),
    "data.corruption.name=asymmetric data=gaussian_mixture": ("confused", "pairflip"),
    "data.params.noise=pink data=noisy_linear loss=mse model=linear": ("'pink'", "student_t"),
    "batch_size=100000": ("100000", "1078 or less"),
    "~loss": ("'~loss'", "loss=NAME"),
    "experiment=essay loss=brier data=diabetes": ("empty", "lossbench losses"),
    "extensions=[nosuch]": ("'nosuch'", "put nosuch.py into"),
    "hydra/launcher=packd": ("'packd'", "'packed'"),
    "hydra.sweeper.nonsense=1": ("hydra.sweeper.nonsense", "declare"),
    "--config-dir nosuch": ("nosuch", "no such folder"),
    "--nonsense": ("'--nonsense'", "--help"),
    "losess": ("'losess'", "'losses'"),
    "losses hubr": ("'hubr'", "'huber'"),
    "losses qqqqqqq": ("'qqqqqqq'", "lossbench losses"),
    "losses --mesure": ("--mesure", "--measure"),
    "losses mse --card": ("--card", "--help"),
    "losses mse mae --card x.html": ("2 losses", "exactly one"),
    "losses --card x.html": ("losses", "exactly one"),
    "losses mse --card x.pdf": ("x.pdf", ".html"),
    "losses mse --card nosuch/x.html": ("nosuch", "make it first"),
    "losses mse --card x.html --json": ("--json", "give one of the two"),
    "losses mse --config-dir nosuch": ("nosuch", "no such folder"),
    "losses extensions=[nosuch]": ("'nosuch'", "put nosuch.py into"),
    "report nosuchdir": ("nosuchdir", "runs/"),
    "report": ("report", "runs/NAME"),
    "report a b": ("report: unrecognized arguments: b", "--help"),
    "report a --strikt": ("report", "--strikt", "--help"),
    "report a --figures --json": ("--figures --json", "give one of the two"),
    "verify": ("verify", "runs/NAME", "--machine"),
    "verify a --machine": ("verify", "runs/NAME", "--machine"),
    "export nosuchdir --to csv": ("nosuchdir", "runs/"),
    "export runs/a --to mlfow": ("'mlfow'", "'mlflow'"),
}


@pytest.mark.parametrize("line", one_in(4, MISTAKES))
def test_a_mistake_gets_one_line_with_its_value_and_the_cure(line, place, capsys):
    assert cli.main(line.split()) == cli.MISTAKE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lossbench: ")
    assert captured.err.count("\n") == 1
    for part in MISTAKES[line]:
        assert part in captured.err
    assert list(place.iterdir()) == []


@pytest.mark.exhaustive
def test_in_a_process_of_its_own_a_mistake_is_one_line_too(place):
    process = lossbench("stepz=3")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err.count("\n")) == (cli.MISTAKE, "", 1)
    assert list(place.iterdir()) == []


def test_a_yaml_that_cannot_be_read_is_one_line(place, capsys):
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "torn.yaml").write_text("fn: [mse")
    assert cli.main(["--config-dir", "conf", "loss=torn", "data=diabetes"]) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "torn.yaml" in err
    assert not (place / "runs").exists()


def test_a_yaml_that_is_not_utf_8_is_one_line(place, capsys):
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "latin.yaml").write_bytes(b"# caf\xe9\nfn: mse\n")
    assert cli.main(["--config-dir", "conf", "loss=latin", "data=diabetes"]) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not UTF-8" in err


def test_a_sweep_over_no_value_is_refused(place, capsys):
    assert cli.main(["-m", "data=diabetes", "loss=mse", "seed=range(0)"]) == cli.MISTAKE
    assert "'seed=range(0)' has no value" in capsys.readouterr().err
    assert not (place / "runs").exists()


def test_a_folder_of_yaml_files_may_stand_before_the_command(place, capsys):
    (place / "conf").mkdir()
    assert cli.main(["--config-dir", "conf", "plan", "data=diabetes", "loss=mse"]) == cli.DONE
    assert "1 run" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_full_disk_behind_the_output_is_one_line():
    program = "import sys; from lossbench.cli import main; sys.exit(main(['losses']))"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode != cli.DONE
    assert "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a sweep of three runs."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        assert cli.main(["-m", *SMALL, "loss=mse,huber,mae", "name=mine"]) == cli.DONE
    return folder


def with_foreign_tables(pack):
    """Tables of another program, committed as whole."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    state = store.committed(pack)
    store.dissolve(pack)
    files = {f"{table}.parquet": buffer.getvalue() for table in records.TABLES}
    store.commit(pack, files, {name: value for name, value in state.items() if name != "files"})


def with_a_cut_table(pack):
    path = pack / "runs.parquet"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"), [(with_foreign_tables, "schema none"), (with_a_cut_table, "sha256")]
)
def test_a_report_of_tables_that_are_not_ours_is_refused(damage, message, trained, place, capsys):
    (pack,) = (shutil.copytree(trained / "runs", place / "runs") / "mine" / "packs").iterdir()
    damage(pack)
    assert cli.main(["report", "runs/mine"]) == cli.MISTAKE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


# ---- the catalog ---------------------------------------------------------------------------------


def test_the_catalog_has_a_line_for_every_loss_and_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "90")
    assert cli.main(["losses"]) == cli.DONE
    out = capsys.readouterr().out
    assert 80 < max(map(len, out.splitlines())) <= 90
    for name in LOSSES:
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
    assert re.search(r"^  huber_tight +huber\(delta=0.1\)$", out, re.MULTILINE)
    assert cli.main(["losses", "--wide"]) == cli.DONE
    assert LOSSES["asl"].formula in capsys.readouterr().out


def test_named_losses_are_told_in_full_and_no_others(capsys):
    assert cli.main(["losses", "huber_tight", "brier"]) == cli.DONE
    out = capsys.readouterr().out
    assert "A variant: huber(delta=0.1)." in out
    assert "brier: Squared error of softmax probabilities" in out
    assert "quartic" not in out


def test_json_is_alone_on_standard_output(capsys):
    assert cli.main(["losses", "--json", "focal", "huber_tight"]) == cli.DONE
    captured = capsys.readouterr()
    focal, tight = json.loads(captured.out)
    assert captured.err == ""
    assert (focal["name"], focal["formula"]) == ("focal", LOSSES["focal"].formula)
    assert focal["measured"] is None
    assert tight["variant_of"] == "huber"
    assert cli.main(["losses", "--json"]) == cli.DONE
    assert {one["name"] for one in json.loads(capsys.readouterr().out)} >= {*LOSSES}


def held(name):
    return frozenset(claim for claim, holds in measure(LOSSES[name]).items() if holds)


def test_a_row_that_says_what_is_measured_is_done(monkeypatch, capsys):
    row = replace(LOSSES["mae"], claims=held("mae"))
    monkeypatch.setitem(LOSSES, "mae", row)
    assert cli.main(["losses", "mae", "--measure"]) == cli.DONE
    captured = capsys.readouterr()
    lines = captured.out[captured.out.index("mae, measured now") :].splitlines()
    verdicts = dict(re.findall(r"^  (\w+) +(holds|fails)  ", "\n".join(lines), re.MULTILINE))
    assert {claim for claim, verdict in verdicts.items() if verdict == "holds"} == row.claims
    assert verdicts.keys() == CLAIMS.keys()
    assert captured.err == ""  # no progress where there is no terminal


@pytest.mark.parametrize("form", [[], ["--json"], ["--card", "mae.html"]], ids=str)
def test_a_row_that_says_something_else_is_shown_and_fails(form, place, monkeypatch, capsys):
    row = replace(LOSSES["mae"], claims=held("mae") ^ {"convex", "elicits_mean"})
    monkeypatch.setitem(LOSSES, "mae", row)
    assert cli.main(["losses", "mae", "--measure", *form]) == cli.SOME_FAILED
    out = capsys.readouterr().out
    if form == ["--json"]:
        (told,) = json.loads(out)
        assert {*told["measured"]["disagrees"]} == {"convex", "elicits_mean"}
    elif form:
        assert "The row does not claim it." in (place / "mae.html").read_text()
    else:
        assert "! fails, but the row claims it: elicits_mean" in out
        assert re.search(r"^! convex +holds", out, re.MULTILINE)


def test_a_variant_that_differs_from_its_row_is_done(place, monkeypatch, capsys):
    monkeypatch.setitem(LOSSES, "lp", replace(LOSSES["lp"], claims=held("lp")))
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "lp_one.yaml").write_text("defaults: [lp]\nparams:\n  p: 1.0\n")
    line = ["losses", "lp_one", "--measure", "--config-dir", "conf"]
    assert cli.main(line) == cli.DONE
    out = capsys.readouterr().out
    assert "unlike lp at its defaults: " in out
    assert "the same as mae" in out


def test_a_card_is_one_file_and_its_path_is_said(place, monkeypatch, capsys):
    monkeypatch.setitem(LOSSES, "mae", replace(LOSSES["mae"], claims=held("mae")))
    assert cli.main(["losses", "mae", "--card", "mae.html"]) == cli.DONE
    assert capsys.readouterr().out == "Card: mae.html\n"
    assert [path.name for path in place.iterdir()] == ["mae.html"]
    assert "What does a skewed target teach it?" in (place / "mae.html").read_text()


def test_a_card_that_cannot_be_written_is_a_mistake(place, capsys):
    (place / "mae.html").mkdir()
    assert cli.main(["losses", "mae", "--card", "mae.html"]) == cli.MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "mae.html cannot be written" in captured.err
    assert [path.name for path in place.iterdir()] == ["mae.html"]


def test_an_own_loss_stands_in_the_catalog_and_a_broken_one_is_one_line(place, capsys):
    (place / "my_losses.py").write_text(BROKEN)
    assert cli.main(["losses", "extensions=[my_losses]"]) == cli.DONE
    assert re.search(r"^  broken ", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["losses", "broken", "--measure", "extensions=[my_losses]"]) == cli.MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "my_losses.py, line 5" in captured.err
    assert "broken on purpose" in captured.err


# ---- sweeps --------------------------------------------------------------------------------------


def test_a_sweep_with_a_range_of_seeds_works_and_is_not_trained_twice(place, capsys):
    line = ["-m", *SMALL, "loss=mse,huber", "seed=range(3)", "optimizer.lr=0.01,0.1", "name=mine"]
    assert cli.main(line) == cli.DONE
    assert "lossbench report runs/mine" in capsys.readouterr().out
    runs = records.load("runs/mine").runs
    assert len(runs) == 12
    assert {*runs.loss} == {"mse", "huber"}
    assert {*zip(runs.status, runs.stop_step, strict=True)} == {("done", 4)}
    packs = place / "runs" / "mine" / "packs"
    before = {path: path.stat().st_mtime_ns for path in packs.rglob("*")}
    assert cli.main(line) == cli.DONE
    assert {path: path.stat().st_mtime_ns for path in packs.rglob("*")} == before


# ---- the report ----------------------------------------------------------------------------------


def test_a_report_says_where_everything_lies(place, capsys):
    assert cli.main([*SMALL, "loss=mse", "name=mine"]) == cli.DONE
    capsys.readouterr()
    assert cli.main(["report", "runs/mine"]) == cli.DONE
    out = capsys.readouterr().out
    places = dict(re.findall(r"^(Report|Figures|Tables|Records): +(\S+)  ", out, re.MULTILINE))
    assert places["Report"] == "runs/mine/report/index.html"
    assert all((place / path).exists() for path in places.values())
    (tables,) = re.findall(r"\((\d+) as CSV", out)
    assert int(tables) == len([*(place / places["Tables"]).iterdir()]) / 3 > 0
    assert max(map(len, out.splitlines())) <= 80
    (command,) = re.findall(r"PNG, SVG and PDF: lossbench (.*)", out)
    assert cli.main(command.split()) == cli.DONE
    (place_of_figures, figures) = re.findall(
        r"^Figures: (\S+)  \((\d+) as", capsys.readouterr().out, re.M
    )[0]
    assert int(figures) == len([*(place / place_of_figures).iterdir()]) / 6 > 0


UNCHANGED = """
import sys
from lossbench import cli
assert cli.main(["report", "runs/mine"]) == cli.DONE
assert not {"pandas", "numpy", "matplotlib", "torch"} & sys.modules.keys()
"""


@pytest.mark.exhaustive
def test_a_report_of_which_nothing_changed_is_left_and_says_the_same_without_computing(
    trained, place, capsys
):
    shutil.copytree(trained / "runs", place / "runs")
    assert cli.main(["report", "runs/mine"]) == cli.DONE
    first = capsys.readouterr().out
    page = place / "runs" / "mine" / "report" / "index.html"
    written = page.stat().st_mtime_ns
    again = subprocess.run(
        [sys.executable, "-c", UNCHANGED], cwd=place, capture_output=True, text=True, check=True
    ).stdout
    assert "nothing has changed since it was written" in again
    assert again.partition("\nReport:")[0] == first.partition("\nWriting")[0]
    assert page.stat().st_mtime_ns == written
    assert cli.main(["report", "runs/mine", "--figures"]) == cli.DONE
    assert page.stat().st_mtime_ns != written
    assert cli.main(["report", "runs/mine"]) == cli.DONE  # who has more is left in peace
    assert 'href="figures/' in page.read_text()


def test_a_strategy_that_the_cpu_cannot_use_is_said_to_be_of_other_devices(place, caplog):
    words = [*SMALL, "loss=mse", "engine=auto", "engine.strategies=[graph]", "name=asked"]
    assert cli.main(words) == cli.DONE
    assert "names graph, which is for cuda: on cpu packs train without it" in caplog.text
    environment = records.load(place / "runs" / "asked").runs.environment[0]
    assert json.loads(environment)["strategy"] == "stack"


def shown_on(trained, *, terminal, **environment):
    """What a sweep that is already there writes of its results, to a terminal or to a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    clean = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    line = ["-m", *SMALL, "loss=mse,huber,mae", "name=mine", "report=none"]
    command = [sys.executable, "-m", "lossbench.cli", *line]
    streams = {"stdout": theirs, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=trained, env={**clean, **environment}, **streams):
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # how a terminal says that the other end is gone
            while part := os.read(ours, 4096):
                parts.append(part)
    os.close(ours)
    return re.sub(r"\d+(\.\d+)? s\b", "", b"".join(parts).decode().replace("\r\n", "\n"))


@pytest.mark.exhaustive
def test_verdicts_are_coloured_on_a_terminal_only_and_never_against_no_color(trained):
    plain = shown_on(trained, terminal=False)
    assert re.search(r"mse .*reference\n", plain)
    assert "\033" not in plain
    on_terminal = shown_on(trained, terminal=True, TERM="xterm")
    assert re.search(r"mse .*\033\[1mreference\033\[0m\n", on_terminal)
    assert re.sub(r"\033\[[\d;]*m", "", on_terminal) == plain
    for refused in ({"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}):
        assert "\033" not in shown_on(trained, terminal=True, **refused)


def test_a_terminal_is_told_at_once_that_a_command_has_begun(tmp_path):
    ours, theirs = pty.openpty()  # a pipe is told the mistake alone, as is tested above
    command = [sys.executable, "-m", "lossbench.cli", "seed=x"]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs, check=False)
    os.close(theirs)
    text = os.read(ours, 4096).decode()
    os.close(ours)
    assert text.startswith("Loading PyTorch")
    assert "is not a whole number" in text


BROKEN = """
from lossbench.losses.spec import Loss

def broken(output, target):
    raise RuntimeError("this loss is broken on purpose")

LOSSES = (
    Loss(fn=broken, inverse_link="identity", family="power", task="regression", formula="?",
         claims=frozenset(), source="test"),
)
"""


def test_a_loss_that_raises_fails_alone_and_by_name(place, capsys):
    (place / "my_losses.py").write_text(BROKEN)
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "broken.yaml").write_text("fn: broken\n")
    line = ["--config-dir", "conf", "-m", *SMALL, "extensions=[my_losses]", "loss=mse,broken,mae"]
    assert cli.main(line) == cli.SOME_FAILED
    runs = records.load("runs/default").runs.set_index("loss")
    assert runs.status.to_dict() == {"mse": "done", "broken": "failed", "mae": "done"}
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("failed:")]
    assert runs.run_id["broken"] in line
    assert "broken on purpose" in line


@pytest.mark.exhaustive
def test_after_ctrl_c_finished_packs_are_kept_and_the_same_command_does_the_rest(place):
    line = [
        *("-m", "data=diabetes", "loss=mse", "model=linear", "batch_size=16", "steps=2000"),
        *("seed=range(8)", "engine.pack_size=1", "log_every=500", "eval_every=500"),
    ]
    process = lossbench(*line, env={**os.environ, "OMP_NUM_THREADS": "1"})
    packs = place / "runs" / "default" / "packs"

    def finished():
        states = ((path, store.committed(path.parent)) for path in packs.glob("*/commit.json"))
        return {path: path.stat().st_mtime_ns for path, state in states if state["is_finished"]}

    while len(finished()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == cli.INTERRUPTED, err
    assert "Traceback" not in err
    before = finished()
    statuses = records.load("runs/default").runs.status.value_counts().to_dict()
    assert statuses == {"done": len(before), "missing": 8 - len(before)}
    assert cli.main(line) == cli.DONE
    assert {*records.load("runs/default").runs.status} == {"done"}
    assert before.items() <= finished().items()


def test_a_table_of_results_imports_nothing_that_draws(trained, monkeypatch):
    monkeypatch.chdir(trained)
    code = (
        "import sys; from pathlib import Path; from lossbench.cli.report import finish, loading;"
        "place = Path('runs/mine'); finish(place, loading(place), extent='none')"
        "; sys.exit(any(name in sys.modules for name in ('matplotlib', 'seaborn', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("choice", ["launcher=joblib", "sweeper=optuna"])
def test_a_plugin_that_is_installed_and_cannot_serve_is_refused_before_anything_trains(
    choice, tmp_path, capfd
):
    kind, _, name = choice.partition("=")
    names = {one.name for one in importlib.metadata.distributions()}
    if f"hydra-{name}-{kind}" not in {one.replace("_", "-") for one in names}:
        skip_without("hydra_plugins", f"hydra-{name}-{kind} is not installed")
    code = cli.main(["-m", "loss=mse,mae", "data=diabetes", f"hydra/{choice}"])
    error = capfd.readouterr().err
    assert (code, error.startswith(f"lossbench: hydra/{choice} does not serve here")) == (2, True)
    assert not (tmp_path / "runs").exists()
