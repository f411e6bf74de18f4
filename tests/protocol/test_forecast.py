"""What a plan foretells is what then happens, and foretelling keeps nothing."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from configs import TINY, make_run, write_experiment
from interrupted import sweep_by, sweep_in, trainer
from scipy import stats

from lossbench import cli, processes, records, statistics
from lossbench.data.files import Files
from lossbench.engine import batch_indices, evaluate
from lossbench.protocol import forecast
from lossbench.sweep import splits_of
from lossbench.sweep.backend import Processes

COSTS = {"update": 0.002, "logging": 0.001, "evaluation": 0.05, "once": 0.4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_experiment(folder, "tiny", TINY)
    with contextlib.chdir(folder):
        yield folder


# Stand-ins for the clock and for the training: the machine of a test is busy.


@pytest.fixture
def known_speeds(monkeypatch):
    """Every pack is as fast as COSTS says."""
    monkeypatch.setattr(forecast._Speeds, "_timed", lambda *_: forecast._Speed(**COSTS))


def words(*typed):
    return [*typed, "--config-dir", "conf", "experiment=tiny", "report=none"]


def ask(*typed):
    return cli.main(words(*typed))


def numbers(run, other=None):
    """How many numbers a pack of runs is, of two seeds or of one."""
    return forecast._numbers(run, other or run, torch.device("cpu"), Files())


def planned(text):
    """Runs, present ones and updates by look."""
    rows = re.findall(r"^(\d+ seeds) +([\d,]+) +([\d,]+) +[\d,]+ +([\d,]+)", text, re.M)
    return {
        look: tuple(int(number.replace(",", "")) for number in numbers) for look, *numbers in rows
    }


def test_a_plan_trains_and_writes_nothing_and_counts_what_then_runs(place, capsys):
    assert ask("plan") == cli.DONE
    text = capsys.readouterr().out
    foretold = planned(text)
    assert "Budget: 3 candidates for each of 2 losses" in " ".join(text.split())
    assert not (place / "runs").exists()
    assert ask() == cli.DONE
    count = len(records.load("runs/tiny").runs)
    assert foretold == {"3 seeds": (count, 0, 4 * count)}
    capsys.readouterr()
    assert ask("plan") == cli.DONE
    assert planned(capsys.readouterr().out) == {"3 seeds": (count, count, 0)}


def test_a_plan_counts_later_looks_as_if_everything_stayed_open(place, capsys):
    assert ask("plan", "name=later", "hydra.sweeper.looks=[3,5]") == cli.DONE
    text = capsys.readouterr().out
    assert planned(text) == {"3 seeds": (18, 0, 72), "5 seeds": (2 * 3 * 2, 0, 48)}
    assert "Later looks come on top" in text
    assert "Expected: 50% of what is open at a look goes on" in " ".join(text.split())
    assert re.search(r"\d s expected, \d+ s at most", " ".join(text.split()))


@pytest.mark.exhaustive
def test_a_plan_counts_what_is_open_after_a_look_that_is_recorded(place, capsys):
    typed = ["name=known", "hydra.sweeper.looks=[6,8]", "loss=mse,mae,log_cosh"]
    typed += ["hydra.sweeper.declare.margin.regression=0.03", "steps=40"]
    assert ask(*typed) == cli.DONE
    runs = records.load("runs/known").runs
    later = runs[runs.seed >= 6]
    assert 0 < later.loss.nunique() < 3  # some went on, not all
    capsys.readouterr()
    assert ask("plan", *typed) == cli.DONE
    text = capsys.readouterr().out
    assert planned(text)["8 seeds"] == (len(later), len(later), 0)
    assert "counts what is open after 6 seeds, from the records" in " ".join(text.split())


def of_seconds(seconds):
    return [
        forecast.Forecast(f"{n} seeds", 1, 0, 1, 1, spent, 0.0, 0.0)
        for n, spent in enumerate(seconds)
    ]


def test_half_of_what_is_open_is_expected_to_go_on_and_all_of_it_at_most():
    rows = of_seconds([40, 16, 8])
    assert forecast._expected(rows, 1) == "50 s expected, 64 s at most"  # 40 + 16 / 2 + 8 / 4
    assert forecast._expected(rows, 2) == "60 s expected, 64 s at most"  # 40 + 16 + 8 / 2
    assert forecast._expected(rows, 3) == "64 s expected, 64 s at most"


PEAK = """
import re, sys
from lossbench import cli
assert cli.main(sys.argv[1:]) == 0
print(re.search("VmHWM.*", open("/proc/self/status").read())[0])  # most memory it ever had
"""


def peak(*command):
    """Bytes that a command, in a process of its own, had at most."""
    line = [sys.executable, "-c", PEAK, *command]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return 1024 * int(done.stdout.split()[-2])


def foretold(text):
    return 2**20 * float(re.search(r"memory\s+([\d,]+)\s+MiB", text)[1].replace(",", ""))


@pytest.mark.exhaustive
def test_packs_are_foretold_and_memory_within_a_third(place, capsys):
    alone = ["name=sized", "steps=200", "hydra.launcher.workers=1"]
    ask("plan", *alone)
    text = capsys.readouterr().out
    packs = sum(map(int, re.findall(r"^\d+ seeds.* (\d+) +[\d,]+ +\d+ s$", text, re.M)))
    assert 0.75 < foretold(text) / peak(*words(*alone)) < 1.33
    folder = place / "runs" / "sized" / "packs"
    assert packs == len([*folder.glob("*/commit.json")])


@pytest.mark.exhaustive
def test_memory_of_a_large_model_is_foretold_within_a_third(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = ["-m", "data=digits", "model=mlp", "model.params.widths=[1024,1024]", "seed=range(6)"]
    large += ["loss=cross_entropy,brier", "steps=20", "hydra.launcher.workers=1"]
    assert cli.main(["plan", *large]) == cli.DONE
    memory = foretold(capsys.readouterr().out)
    assert memory > 1.7 * processes.BYTES_A_PROCESS  # so that its tensors matter
    assert 0.75 < memory / peak(*large) < 1.33


def test_a_plan_for_two_processes_takes_half_as_long_and_the_memory_of_one_process_more(
    tmp_path, known_speeds
):
    runs = [make_run(seed=seed, steps=200) for seed in range(40)]
    alone, two = sweep_in(tmp_path), sweep_by(Processes(trainer(), 2), tmp_path)
    one_row, two_row = (forecast.forecast({"exploratory": runs}, s)[0] for s in (alone, two))
    assert (one_row.packs, two_row.packs) == (1, 2)
    assert two_row.seconds == pytest.approx(one_row.seconds / 2)
    more = two_row.memory - one_row.memory
    assert more == pytest.approx(processes.BYTES_A_PROCESS, rel=0.02)


def test_data_that_all_seeds_have_in_common_count_once(tiny):
    sizes = {"model": "linear", "loss": "cross_entropy", "steps": 5}
    shared, own = (
        numbers(*(make_run(data=data, seed=seed, **sizes) for seed in (0, 1)))
        for data in ("tiny_grey", "tiny_vectors")
    )
    assert (shared.data > 48 * 28 * 28, shared.seed) == (True, 0)
    assert (own.data, own.seed > 0) == (0, True)


def test_memory_for_evaluation_is_that_of_one_chunk(monkeypatch):
    monkeypatch.setattr(evaluate, "CHUNK_OF_VECTORS", 2**10)  # else no set here fills a chunk
    runs = [
        make_run(data="noisy_linear", data__params={"examples": count})
        for count in (1920, 3840)  # whole pieces
    ]
    few, many = map(numbers, runs)
    assert many.seed > 1.5 * few.seed
    counts = [{split: len(part) for split, part in splits_of(run).inputs.items()} for run in runs]
    for count in counts:
        count["train"] = min(count["train"], evaluate.MOST_TRAINING_ROWS)
    rows = sum(counts[1].values()) - sum(counts[0].values())
    assert many.member - few.member == forecast.OUTPUTS_AT_ONCE * rows  # outputs, no inputs


def test_instruments_count_as_often_as_they_measure_in_the_whole_run(tmp_path, known_speeds):
    plain = make_run(data="digits", loss="brier", steps=20_000)
    measured = make_run(data="digits", loss="brier", steps=20_000, instruments=["curvature"])
    sweep = sweep_in(tmp_path)
    rows = forecast.forecast({"plain": [plain], "measured": [measured]}, sweep)
    assert forecast._updates(plain) == 20_000
    assert 1.02 < forecast._updates(measured) / 20_000 < 1.06
    more = sweep.engine.padding * (forecast._updates(measured) - 20_000)
    each = COSTS["update"] + COSTS["logging"] / plain.log_every
    assert rows[1].seconds - rows[0].seconds == pytest.approx(more * each)


class Pretended:
    """A training that takes known seconds, and a clock that shows them.

    Args:
        most: Updates between two looks at the clock.
        capture: Seconds that the second stretch of each length takes longer.
    """

    def __init__(self, *, most=1, capture=0.0):
        self.now, self.most, self.capture, self.asked, self.made = 7.0, most, capture, [], 0

    def train(self, pack, splits, machine, *, flush):
        run, members, step, seen = pack.runs[0], max(len(pack.runs), machine.padding), 0, {}
        self.asked.append(pack)
        self.now += 3.0 * (len(self.asked) == 1)  # the first of everything is slow
        while step < run.steps:
            is_logged, is_evaluated = step % run.log_every == 0, step % run.eval_every == 0
            stops = [step - step % every + every for every in (run.log_every, run.eval_every)]
            count = 1 if is_logged else min(*stops, step + self.most, run.steps) - step
            seen[count, is_logged] = seen.get((count, is_logged), 0) + 1
            spent = count * COSTS["update"] + is_logged * COSTS["logging"]
            self.now += members * (spent + is_evaluated * COSTS["evaluation"])
            self.now += self.capture * (seen[count, is_logged] == 2)
            step, self.made = step + count, self.made + count
            if step < run.steps:
                flush(step, None)
        self.now += members * COSTS["once"]


@pytest.mark.parametrize("seconds", [0.01, 1e9], ids=["soon enough", "all updates"])
@pytest.mark.parametrize(
    ("kind", "most", "capture"), [("cpu", 1, 0.0), ("cuda", 50, 20.0)], ids=["cpu", "cuda"]
)
def test_what_a_training_takes_is_foretold_from_a_short_one(
    tmp_path, monkeypatch, kind, most, capture, seconds
):
    pretended = Pretended(most=most, capture=capture)
    monkeypatch.setattr(forecast, "train", pretended.train)
    monkeypatch.setattr(forecast._Speeds, "_now", lambda _: pretended.now)
    monkeypatch.setattr(forecast, "RHYTHMS", {"cpu": forecast.RHYTHMS[kind]})
    monkeypatch.setattr(forecast, "TIMED_SECONDS", seconds)
    rhythm = {"steps": 1000, "log_every": 20, "eval_every": 250}
    runs = [make_run(seed=seed, **rhythm) for seed in range(80)]
    (row,) = forecast.forecast({"exploratory": runs}, sweep_in(tmp_path))
    each = 1000 * COSTS["update"] + 50 * COSTS["logging"] + 4 * COSTS["evaluation"] + COSTS["once"]
    assert row.seconds == pytest.approx(80 * each)
    assert row.evaluating == pytest.approx(4 * COSTS["evaluation"] / each)
    timed = {"cpu": 64, "cuda": 80}[kind]
    assert [len(pack.runs) for pack in pretended.asked] == [timed, timed]
    made = forecast.RHYTHMS["cpu"].updates if seconds > 1 else forecast.RHYTHMS["cpu"].evaluated + 1
    assert pretended.made == made + 1


def test_packs_that_take_as_long_are_timed_once(tmp_path, monkeypatch):
    timed, original = [], forecast._Speeds._timed
    monkeypatch.setattr(
        forecast._Speeds, "_timed", lambda own, pack: (timed.append(pack), original(own, pack))[1]
    )

    def of_digits(rate=0.0, fn="symmetric", **words):
        noise = {"name": fn, "params": {"rate": rate} if fn == "symmetric" else {"count": 300}}
        return make_run(data="digits", loss="brier", data__corruption=noise, **words)

    alike = [of_digits(rate, steps=100 + place) for place, rate in enumerate((0.0, 0.2, 0.4))]
    alike += [of_digits(log_every=7), of_digits(eval_every=5), of_digits(schedule="cosine")]
    forecast.forecast({"exploratory": alike}, sweep_in(tmp_path))
    assert len(timed) == 1
    others = [of_digits(batch_size=64), of_digits(fn="few_samples")]
    more = [of_digits(seed=seed, steps=50) for seed in range(8)]
    forecast.forecast({"exploratory": [*alike, *others, *more]}, sweep_in(tmp_path))
    assert len(timed) == 1 + 4


def test_a_plan_says_where_evaluation_takes_much_of_the_time(place, capsys, known_speeds):
    ask("plan", "name=often", "steps=2000", "eval_every=1", "log_every=2000")
    assert re.search(r"Evaluation is 9\d% of it: a larger eval_every", capsys.readouterr().out)
    ask("plan", "name=seldom", "steps=2000", "eval_every=1000", "log_every=1000")
    assert "Evaluation is" not in capsys.readouterr().out


def test_rows_drawn_for_batches_count_as_memory():
    short, long = (make_run(steps=steps, batch_size=16) for steps in (100, 10_100))
    few, many = map(numbers, (short, long))
    assert many.drawn - few.drawn == 10_000 * batch_indices(0, 100, 1, 16).nbytes


def test_power_is_that_of_the_verdicts_interval_at_the_stated_spread(place, capsys):
    assert ask("plan", "--spread", "0.02", "name=twelve", "hydra.sweeper.looks=[12]") == cli.DONE
    (row,) = re.findall(r"^diabetes × linear +1 +12 +0.02 +([\d.]+)", capsys.readouterr().out, re.M)
    values = np.random.default_rng(0).normal(float(row), 0.02, size=(20_000, 12))
    low, high = statistics.mean_interval(values, confidence=0.95)
    assert ((low > 0) | (high < 0)).mean() == pytest.approx(0.8, abs=0.03)  # two digits are printed


def test_power_without_a_spread_or_runs_says_how_to_state_one(place, capsys):
    assert ask("plan", "--power", "name=nowhere") == cli.MISTAKE
    assert "--spread 0.02" in capsys.readouterr().err


def test_power_takes_the_spread_on_validation(place, capsys):
    if not (place / "runs" / "tiny").exists():
        ask()
    capsys.readouterr()
    assert ask("plan", "--power") == cli.DONE
    (row,) = re.findall(r"^diabetes × linear +1 +3 +([\d.e-]+)", capsys.readouterr().out, re.M)
    loaded = records.load("runs/tiny")
    evals = loaded.evals[(loaded.evals.step == 4) & (loaded.evals.metric == "rmse")]
    tune = evals[evals.split == "validation"]
    means = tune.groupby(["loss", "lr"]).value.mean()
    best = {loss: means[loss].idxmin() for loss in ("mse", "mae")}
    values = pd.concat([tune[(tune.loss == loss) & (tune.lr == lr)] for loss, lr in best.items()])
    wide = values.pivot_table(index="seed", columns="loss", values="value").astype(float)
    spread = (wide.mae - wide.mse).std()
    upper = spread * ((len(wide) - 1) / stats.chi2.ppf(0.2, len(wide) - 1)) ** 0.5
    assert float(row) == pytest.approx(upper, rel=0.06)


@pytest.mark.exhaustive
def test_power_takes_the_spread_of_the_primary_metric_where_another_one_chooses(place, capsys):
    typed = ["name=chosen", "+hydra.sweeper.declare.select.regression='loss:own'"]
    typed += ["hydra.sweeper.declare.primary.regression=mae"]
    assert ask(*typed) == cli.DONE
    capsys.readouterr()
    assert ask("plan", "--power", *typed) == cli.DONE
    (row,) = re.findall(r"^diabetes × linear +1 +3 +([\d.e-]+)", capsys.readouterr().out, re.M)
    loaded = records.load("runs/chosen")
    evals = loaded.evals[(loaded.evals.step == 4) & (loaded.evals.split == "validation")]
    values = {}
    for loss in ("mse", "mae"):
        mine = evals[evals.loss == loss].pivot_table(
            index="seed", columns=["metric", "lr"], values="value"
        )
        values[loss] = mine["mae"][mine[records.OWN_LOSS].mean().idxmin()]
    spread = (values["mae"] - values["mse"]).std()
    upper = spread * (2 / stats.chi2.ppf(0.2, 2)) ** 0.5
    assert float(row) == pytest.approx(upper, rel=0.06)


def test_a_spread_that_is_no_number_is_a_mistake(place, capsys):
    assert ask("plan", "--spread", "-1") == cli.MISTAKE
    assert "--spread" in capsys.readouterr().err
