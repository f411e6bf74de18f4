"""The command line as its user meets it: words, messages, exit codes, what is left on disk."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossbench import cli, records, store
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.models import MODELS

SMALL = ["data=diabetes", "model=linear", "steps=4", "batch_size=16"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test has a current folder of its own, and leaves the catalogs as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
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


def sweep_statuses(name="default"):
    return records.load(f"runs/{name}").runs.status.value_counts().to_dict()


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_shows_examples(word, capsys):
    assert cli.main([word]) == cli.DONE
    out = capsys.readouterr().out
    assert "lossbench experiment=NAME" in out
    assert "lossbench report runs/NAME" in out


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


def test_version_is_the_packages_own(capsys):
    assert cli.main(["--version"]) == cli.DONE
    assert capsys.readouterr().out.startswith("lossbench 0.")


def test_the_catalog_has_a_line_for_every_loss(capsys):
    assert cli.main(["losses"]) == cli.DONE
    out = capsys.readouterr().out
    for name, row in LOSSES.items():
        assert any(line.split()[:2] == [name, row.family] for line in out.splitlines())


def test_the_catalog_of_named_losses_shows_these_only(capsys):
    assert cli.main(["losses", "huber", "brier"]) == cli.DONE
    out = capsys.readouterr().out
    assert "huber" in out
    assert "brier" in out
    assert "quartic" not in out


def test_measured_claims_agree_with_the_row(capsys):
    assert cli.main(["losses", "huber", "--measure"]) == cli.DONE
    out = capsys.readouterr().out
    lines = out[out.index("huber, measured") :].splitlines()[1:]
    verdicts = {line.split()[0]: line.split()[1] for line in lines if line.strip()}
    assert {claim for claim, verdict in verdicts.items() if verdict == "holds"} == set(
        LOSSES["huber"].claims
    )


def test_cfg_prints_the_configuration_and_trains_nothing(place, capsys):
    assert cli.main(["--cfg", "job", "loss=huber", "data=diabetes"]) == cli.DONE
    assert "delta: 1.0" in capsys.readouterr().out
    assert list(place.iterdir()) == []


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "los=mse": ("'los'", "'loss'"),
    "+stepz=3": ("'stepz'", "'steps'"),
    "stepz=3": ("'stepz'", "'steps'"),
    "loss=huberr": ("'huberr'", "'huber'"),
    "loss=mse,huberr -m": ("'huberr'", "'huber'"),
    "loss=": ("loss ''", "use one of"),
    "loss={name:mse}": ("'name'", "use one of"),
    "experiment=essy": ("'essy'", "'essay'"),
    "experiment=null": ("experiment 'None'", "essay"),
    "data=digitz": ("'digitz'", "'digits'"),
    "loss=mse data=digits": ("'mse'", "cross_entropy"),
    "optimizer.lr=-1": ("optimizer.lr is -1.0", "positive"),
    "optimizer.lr=abc": ("optimizer.lr is 'abc'", "a number"),
    "-m optimizer.lr=0.1,abc": ("optimizer.lr is 'abc'", "a number"),
    "-m optimizer.lr=0.1,nan": ("optimizer.lr is nan", "a positive number"),
    "steps=0": ("steps is 0", "positive"),
    "steps=1.5": ("steps is '1.5'", "a whole number"),
    "seed=1-10": ("'1-10'", "range(10)"),
    "-m seed=range(3": ("seed=range(3", "range(10)"),
    "loss=../../x": ("'../../x'", "use one of"),
    "name=../x": ("'../x'", "letters, digits"),
    "-m name=a,b": ("'a'", "one name"),
    "data.name=foo": ("data.name is 'foo'", "data=foo"),
    "model.params.width=[3]": ("model.params.width", "'widths'"),
    "model.params.widths=[a]": ("widths is 'a'", "default"),
    "loss.params.delt=1 loss=huber data=diabetes": ("loss.params.delt", "'delta'"),
    "loss.params.delta=x loss=huber data=diabetes": ("loss.params.delta is 'x'", "1.0"),
    "data.corruption.params.rate=0.1": ("data.corruption.params.rate", "no such parameter"),
    "data.params.noise=pink data=noisy_linear loss=mse model=linear": ("'pink'", "student_t"),
    "batch_size=100000": ("100000", "1078 or less"),
    "~loss": ("'~loss'", "loss=NAME"),
    "experiment=essay loss=brier data=diabetes": ("empty", "lossbench losses"),
    "extensions=[nosuch]": ("'nosuch'", "put nosuch.py into"),
    "hydra/launcher=packd": ("'packd'", "'packed'"),
    "hydra.sweeper.nonsense=1": ("hydra.sweeper.nonsense", "max_batch_size"),
    "--config-dir nosuch": ("nosuch", "no such folder"),
    "--nonsense": ("'--nonsense'", "--help"),
    "losess": ("'losess'", "'losses'"),
    "losses hubr": ("'hubr'", "'huber'"),
    "losses --mesure": ("--mesure", "--measure"),
    "report nosuchdir": ("nosuchdir", "runs/"),
    "report": ("report", "runs/NAME"),
    "report a b": ("report a b", "runs/NAME"),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_one_line_with_its_value_and_the_cure(line, place, capsys):
    assert cli.main(line.split()) == cli.MISTAKE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lossbench: ")
    assert captured.err.count("\n") == 1
    for part in MISTAKES[line]:
        assert part in captured.err
    assert list(place.iterdir()) == []


def test_in_a_process_of_its_own_a_mistake_is_one_line_too(place):
    process = lossbench("stepz=3")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (cli.MISTAKE, "", 1)
    assert list(place.iterdir()) == []


def test_a_mistake_in_an_existing_sweep_leaves_its_files_alone(place):
    assert cli.main([*SMALL, "loss=mse"]) == cli.DONE
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert cli.main([*SMALL, "loss=mse", "optimizer.lr=-1"]) == cli.MISTAKE
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_a_yaml_that_cannot_be_read_is_one_line(place, capsys):
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "torn.yaml").write_text("fn: [mse")
    assert cli.main(["--config-dir", "conf", "loss=torn", "data=diabetes"]) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "torn.yaml" in err
    assert not (place / "runs").exists()


def test_a_report_of_a_foreign_file_is_refused(place, capsys):
    assert cli.main([*SMALL, "loss=mse"]) == cli.DONE
    (pack,) = (place / "runs" / "default" / "packs").iterdir()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    files = {f"{table}.parquet": buffer.getvalue() for table in records.TABLES}
    store.commit(pack, files, store.committed(pack))
    capsys.readouterr()
    assert cli.main(["report", "runs/default"]) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "schema none" in err


def test_a_report_of_an_altered_file_is_refused(place, capsys):
    assert cli.main([*SMALL, "loss=mse"]) == cli.DONE
    (path,) = (place / "runs" / "default" / "packs").glob("*/runs.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.main(["report", "runs/default"]) == cli.MISTAKE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "sha256" in err


# ---- sweeps --------------------------------------------------------------------------------------


def test_one_run_works(capsys):
    assert cli.main(["loss=huber", "data=diabetes", "steps=4"]) == cli.DONE
    assert sweep_statuses() == {"done": 1}
    run = records.load("runs/default").runs.iloc[0]
    assert (run.loss, run.data, run.stop_step, run.stage) == ("huber", "diabetes", 4, "exploratory")
    assert "runs/default" in capsys.readouterr().out


def test_a_sweep_with_a_range_of_seeds_works_and_is_not_trained_twice(place):
    line = ["-m", *SMALL, "loss=mse,huber", "seed=range(3)", "optimizer.lr=0.01,0.1", "name=mine"]
    assert cli.main(line) == cli.DONE
    assert sweep_statuses("mine") == {"done": 12}
    packs = place / "runs" / "mine" / "packs"
    before = {p: p.stat().st_mtime_ns for p in packs.rglob("*")}
    assert cli.main(line) == cli.DONE
    assert {p: p.stat().st_mtime_ns for p in packs.rglob("*")} == before


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


def test_a_second_process_on_the_same_sweep_is_refused(capsys):
    code = (
        "import sys, time; from pathlib import Path; from lossbench import store\n"
        "with store.lock(Path('runs/default/lock')):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert cli.main([*SMALL, "loss=mse"]) == cli.MISTAKE
    finally:
        holder.kill()
        holder.communicate()
    err = capsys.readouterr().err
    assert f"in use by process {holder.pid}" in err
    assert "name=" in err


def committed_packs(folder):
    return sorted(folder.glob("packs/*/commit.json"))


def test_after_ctrl_c_finished_packs_are_kept_and_the_same_command_does_the_rest(place):
    line = [
        *("-m", "data=diabetes", "loss=mse", "model=linear", "batch_size=16", "steps=500"),
        *("seed=range(8)", "engine.pack_size=1", "log_every=500", "eval_every=500"),
    ]
    folder = place / "runs" / "default"
    process = lossbench(*line, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(committed_packs(folder)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, err
    assert "Traceback" not in err
    kept = {path: path.stat().st_mtime_ns for path in committed_packs(folder)}
    assert 2 <= len(kept) < 8
    statuses = sweep_statuses()
    assert statuses == {"done": len(kept), "missing": 8 - len(kept)}
    assert cli.main(line) == cli.DONE
    assert sweep_statuses() == {"done": 8}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(committed_packs(folder)) == 8
