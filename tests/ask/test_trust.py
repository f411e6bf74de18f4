"""Configuration runs no code, reads no environment, and no value of it is without bounds."""

from __future__ import annotations

import pytest

from lossbench import cli

PLAIN = ["plan", "data=noisy_linear", "loss=mse", "steps=2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "CANARY-5f1b")
    return tmp_path


def refused(words, place, capsys):
    """The one line that refuses a command, which writes nothing."""
    before = {*place.rglob("*")}
    assert cli.main(words) == cli.MISTAKE
    assert {*place.rglob("*")} == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lossbench: ")
    assert "CANARY" not in line
    return line


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+hydra.callbacks.x._target_=os.system", "below hydra you may set launcher"),
        ("hydra.searchpath=[pkg://os]", "below hydra you may set launcher"),
        ("hydra.job.chdir=true", "below hydra you may set launcher"),
        ("++hydra.launcher._target_=os.system", "runs no code"),
        ("hydra.launcher._target_=os.system", "runs no code"),
        ("++data._target_=os.system", "runs no code"),
        ("name=${oc.env:SECRET}", "does not read the environment"),
        ("data.root=${oc.env:SECRET,x}", "does not read the environment"),
        ("seed=${oc.env:SECRET}", "does not read the environment"),
        ("hydra.sweep.dir=${oc.env:SECRET}", "does not read the environment"),
    ],
)
def test_a_word_that_would_run_code_or_read_the_environment_is_refused(
    word, message, place, capsys
):
    assert message in refused([*PLAIN, word], place, capsys)


YAMLS = {
    "callbacks": ("hydra: {callbacks: {x: {_target_: os.system}}}", "sets hydra.callbacks"),
    "logging": (
        "hydra: {job_logging: {handlers: {x: {class: os.system}}}}",
        "sets hydra.job_logging",
    ),
    "launcher": ("hydra: {launcher: {additional: {_target_: os.system}}}", "runs no code"),
    "environment": ("data: {root: '${oc.env:SECRET}'}", "does not read the environment"),
    "in a block": (
        "hydra: {sweeper: {blocks: [{data.root: ['${oc.env:SECRET}']}]}}",
        "does not read the environment",
    ),
    "references": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
            for before, name in zip("abcde", "bcdef", strict=True)
        ),
        "stand for more than 100,000 values",
    ),
    "a reference to itself": ("x: &x [*x]", "stand for more than 100,000 values"),
    "itself": ("defaults: [mine]", "takes in itself"),
}


@pytest.mark.parametrize(("yaml", "message"), YAMLS.values(), ids=YAMLS)
def test_a_yaml_that_would_do_so_is_refused_too(yaml, message, place, capsys):
    (place / "c" / "experiment").mkdir(parents=True)
    (place / "c" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{yaml}\n")
    words = [*PLAIN, "--config-dir", "c", "experiment=mine"]
    assert message in refused(words, place, capsys)


def test_a_part_that_a_block_chooses_reads_no_environment(place, capsys):
    for group, text in {
        "data": "fn: noisy_linear\nparams: {}\nroot: ${oc.env:SECRET}\n",
        "experiment": "# @package _global_\nhydra: {sweeper: {blocks: [{data: [own]}]}}\n",
    }.items():
        (place / "c" / group).mkdir(parents=True)
        (place / "c" / group / "own.yaml").write_text(text)
    words = ["plan", "loss=mse", "steps=2", "--config-dir", "c", "experiment=own"]
    assert "data.root is '${oc.env:SECRET}'" in refused(words, place, capsys)


def test_a_folder_of_ones_own_does_not_replace_the_main_configuration(place, capsys):
    (place / "c").mkdir()
    (place / "c" / "config.yaml").write_text("hydra: {searchpath: [pkg://os]}\n")
    assert "would replace that of lossbench" in refused(
        [*PLAIN, "--config-dir", "c"], place, capsys
    )


WILD = ["nan", "inf", "-1", "0.5", "1e400", "10000000000000000000000", "[]", "{}", "''", "null"]
"""Values that fit hardly any key; where one does, it is no mistake."""

NUMBERS = ["seed", "steps", "batch_size", "log_every", "eval_every", "optimizer.lr"]
NUMBERS += ["optimizer.momentum", "optimizer.weight_decay", "engine.threads", "engine.pack_size"]
NUMBERS += ["engine.commit_every", "engine.patience", "data.params.examples"]
TEXTS = ["name", "signal", "data.targets", "engine.device", "engine.precision", "report"]
TEXTS += ["model", "data", "loss", "optimizer", "schedule", "size", "experiment", "extensions"]
TEXTS += ["model.params.widths", "instruments", "init.from", "init.output_scale"]
FITS = {("optimizer.lr", "0.5"), ("optimizer.momentum", "0.5"), ("optimizer.weight_decay", "0.5")}
FITS |= {("engine.commit_every", "0.5"), ("engine.patience", "0.5"), ("init.output_scale", "-1")}
FITS |= {("optimizer.lr", WILD[5]), ("optimizer.weight_decay", WILD[5])}
FITS |= {("init.output_scale", "0.5"), ("extensions", "[]")}
FITS |= {("instruments", "[]"), ("model.params.widths", "[]"), ("name", "0.5"), ("name", "inf")}
FITS |= {("name", "nan"), ("name", "1e400"), ("name", WILD[5])}


@pytest.mark.exhaustive
@pytest.mark.parametrize("key", [*NUMBERS, *TEXTS])
def test_a_wild_value_of_any_key_is_one_line(key, place, capsys):
    for value in WILD:
        words = ["plan", f"{key}={value}"]
        words += [word for word in PLAIN[1:] if not word.startswith(f"{key}=")]
        code = cli.main(words)
        lines = capsys.readouterr().err.splitlines()
        expected = cli.DONE if (key, value) in FITS else cli.MISTAKE
        assert code == expected, (key, value, lines)
        assert len(lines) == (code == cli.MISTAKE), (key, value, lines)


@pytest.mark.parametrize(
    ("word", "most"),
    [
        ("seed=range(1000000000)", "1,000,000"),
        ("seed=range(100000000000000000000)", "1,000,000"),
        ("steps=1000000000000", "100,000,000"),
        ("model.params.widths=[1000000000]", "10,000,000"),
        ("model.params.widths=[100000,100000]", "1,000,000,000"),
        ("engine.threads=1000000000", "1,024"),
    ],
)
def test_what_no_machine_holds_is_refused_with_its_bound(word, most, place, capsys):
    assert f"at most {most}" in refused([*PLAIN, word], place, capsys)


def test_more_runs_than_a_command_may_have_are_refused_before_one_is_made(place, capsys):
    words = ["plan", "-m", "data=noisy_linear", "seed=range(1200)", "steps=range(1,1001)"]
    assert "1,200,000 runs: use at most 1,000,000" in refused(words, place, capsys)


def test_a_message_is_one_line_of_bounded_length(place, capsys):
    line = refused(["report", "x" * 5000], place, capsys)
    assert len(line) < 1100
