"""docs/gallery.md: written from records, judged by them, and about experiments that exist."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep_on_disk
from configs import TINY, make_run, write_experiment
from frames import frame
from generators import generator
from scipy import stats
from selection import one_in
from sweep_on_disk import CLASSIFICATION, build, plan_runs, with_status

import lossbench
from lossbench import cli, records, statistics
from lossbench.question import declaration
from lossbench.report import answers, methods, objections, page, summary, words
from lossbench.statistics import published
from lossbench.statistics.choice import candidates
from lossbench.statistics.verdict import divergence_p

gallery = generator("gallery")
DOCS = Path(__file__).parents[2] / "docs"
NAMES = {path.stem for path in (lossbench.CONF / "experiment").glob("*.yaml")}


@pytest.fixture(scope="module")
def findings(essay_sweep):
    return published.judged_findings(statistics.Verdicts(records.load(essay_sweep))).set_index(
        "finding"
    )


def test_a_finding_is_judged_by_the_verdict_of_its_own_comparison(findings):
    row = findings.loc["as good"]
    assert (row.n, row.verdict, row.judged) == (6, "equivalent", "confirmed")
    assert row.low <= row.difference <= row.high
    row = findings.loc["of this set"]
    assert (row.metric, row.verdict, row.judged) == ("mae", "equivalent", "not confirmed")


def judged(says, *, verdict="undecided", gain=(-1.0, 1.0), metric="accuracy", **facts):
    """What a comparison with an interval of the gain in margins, n = 10, makes of a finding."""
    sign = 1.0 if metric == "accuracy" else -1.0
    low, high = sorted(sign * 0.01 * end for end in gain)
    row = {"diverged": 0, "reference_diverged": 0, "pairs": 10, "exploratory": False, **facts}
    row |= {"verdict": verdict, "metric": metric, "margin": 0.01, "low": low, "high": high}
    return published.outcome(says, row)


INTERVALS = {  # ends of the gain in margins: what not_worse becomes
    (0.2, 3.0): "confirmed",
    (-0.5, 0.5): "confirmed",
    (-0.9, 4.0): "confirmed",  # settled for this finding, undecided as a difference
    (-1.5, 0.5): "undecided",
    (-3.0, -0.2): "undecided",  # worse, but by less than the margin for all we know
    (-3.0, -1.2): "not confirmed",
}


@pytest.mark.parametrize("metric", ["accuracy", "ece"])
@pytest.mark.parametrize("gain", INTERVALS)
def test_not_worse_is_judged_by_its_interval_and_the_margin(gain, metric):
    assert judged("not_worse", gain=gain, metric=metric) == INTERVALS[gain]


@pytest.mark.parametrize(
    ("says", "verdict", "expected"),
    [
        ("better", "better", "confirmed"),
        ("better", "equivalent", "not confirmed"),
        ("better", "better by more", "confirmed"),
        ("better", "below the margin", "not confirmed"),
        ("better", "undecided", "undecided"),
        ("worse", "diverges", "confirmed"),
        ("worse", "reference diverges", "not confirmed"),
        ("worse", "worse by more", "confirmed"),
        ("worse", "better", "not confirmed"),
        *[(says, "incomplete", "not run") for says in ("better", "worse", "not_worse")],
        ("not_worse", "too few pairs", "not run"),
    ],
)
def test_a_verdict_makes_of_a_saying_what_it_is(says, verdict, expected):
    assert judged(says, verdict=verdict) == expected


def test_who_diverges_more_often_by_the_exact_test_is_worse():
    assert judged("not_worse", verdict="diverges", gain=(-0.5, 0.5)) == "not confirmed"
    assert judged("not_worse", verdict="reference diverges", gain=(-3.0, -2.0)) == "confirmed"


@pytest.mark.parametrize("says", ["better", "worse", "not_worse"])
def test_a_loss_that_was_added_later_confirms_nothing(says):
    verdict = {"better": "better", "worse": "worse"}.get(says, "equivalent")
    assert judged(says, verdict=verdict, gain=(-0.5, 0.5)) == "confirmed"
    assert judged(says, verdict=verdict, gain=(-0.5, 0.5), exploratory=True) == "exploratory"


@pytest.fixture(scope="module")
def planned():
    """Runs of three losses of digits, without those of the other task."""
    return plan_runs({("digits", "mlp"): CLASSIFICATION})


def of_brier(runs, folder, *, declaration=True, **finding):
    """The one row of a finding about brier on accuracy, with its own margin, and its task."""
    facts = {
        "finding": "c",
        "source": "A 1999",
        "loss": "brier",
        "says": "not_worse",
        "margin": 0.5,
    }
    loaded = records.load(build(folder, runs, declaration=declaration, curves=False))
    (task, *_) = statistics.Verdicts(loaded).comparisons
    (row,) = published.judged(facts | {"margin": 0.5} | finding, [task])
    return row, task


def test_a_finding_of_its_own_margin_has_the_interval_of_the_main_verdict(planned, tmp_path):
    row, task = of_brier(planned, tmp_path / "all")
    main = task.paired.set_index("loss").loc["brier"]
    assert main.comparisons == 2
    assert (row["low"], row["high"], row["judged"]) == (main.low, main.high, "confirmed")


def test_a_finding_of_its_own_margin_is_judged_by_the_declared_average(planned, tmp_path):
    mean, task = of_brier(planned, tmp_path / "all")
    finding = {"finding": "c", "source": "A 1999", "loss": "brier", "says": "better", "margin": 0.5}
    median = replace(task.rule, average="median")
    (row,) = published.judged(finding, [replace(task, rule=median)])
    own = statistics.paired(task.every_run, median).set_index("loss").loc["brier"]
    assert row["difference"] == own.difference != mean["difference"]


def test_methods_say_of_each_task_whether_means_or_medians_decide(planned, tmp_path):
    loaded = records.load(build(tmp_path / "one", planned, curves=False))
    task = statistics.Verdicts(loaded).main()
    median = replace(task, rule=replace(task.rule, average="median"))
    other = replace(task, label="another × one")
    told = " ".join(methods.paragraph(loaded, [task]))
    assert "with the best mean over all seeds" in told
    assert "by the mean of paired differences" in told
    assert "Student's t" in told
    assert "median" not in told
    told = " ".join(methods.paragraph(loaded, [median]))
    assert "with the best median over all seeds" in told
    assert "between order statistics" in told
    assert "Student's t" not in told
    told = " ".join(methods.paragraph(loaded, [median, other]))
    assert told.count(f"mean (median on {task.label})") == 2


@pytest.fixture
def printed(capfd, monkeypatch):
    """The lines that a script of `analysis/` prints of a sweep."""

    def lines(name, sweep):
        monkeypatch.setattr(sys, "argv", [name, str(sweep)])
        runpy.run_path(str(DOCS.parent / "analysis" / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out.splitlines()

    return lines


def test_rates_that_another_metric_chose_are_not_held_against_the_margin(
    planned, tmp_path, printed, monkeypatch
):
    folder = build(tmp_path / "rates", planned, curves=False)
    task = statistics.Verdicts(records.load(folder)).main()
    (text,) = printed("good_learning_rates", folder)
    assert f"at most {task.margin.value:g} in accuracy" in text
    elsewhere = replace(task, rule=replace(task.rule, select="nll"))
    monkeypatch.setattr(statistics.Verdicts, "mains", [elsewhere])
    (text,) = printed("good_learning_rates", folder)
    assert "chosen by nll, and the margin is one in accuracy" in text
    assert "at most" not in text


ANALYSED = sorted(
    name
    for name in NAMES
    if "# Analysis: " in (lossbench.CONF / "experiment" / f"{name}.yaml").read_text()
)


@pytest.mark.parametrize("name", one_in(3, ANALYSED))
def test_the_gallery_prints_the_analyses_that_an_experiment_names(name, planned, tmp_path, printed):
    folder = build(tmp_path / name, planned, curves=False)
    header = (lossbench.CONF / "experiment" / f"{name}.yaml").read_text()
    scripts = re.findall(rf"^# Analysis: python analysis/(\w+)\.py runs/{name}$", header, re.M)
    assert len(scripts) == header.count("# Analysis: ")
    assert [*gallery._analyses(folder)] == [
        line for script in scripts for line in printed(script, folder)
    ]


def test_a_declared_loss_that_was_lost_narrows_no_interval_of_a_claim(planned, tmp_path):
    lost = with_status(planned, "missing", count=99, loss="mse_logits")
    row, task = of_brier(lost, tmp_path / "lost")
    whole, _ = of_brier(planned, tmp_path / "all")
    assert task.paired.set_index("loss").verdict["mse_logits"] == "incomplete"
    assert (row["low"], row["high"]) == (whole["low"], whole["high"])


def test_a_finding_about_runs_that_nobody_declared_is_exploratory(planned, tmp_path):
    row, _ = of_brier(planned, tmp_path / "later", declaration=False)
    assert (row["judged"], row["exploratory"]) == ("exploratory", True)


def test_a_lost_variant_is_counted_though_another_one_is_there(planned, tmp_path):
    def variants(gamma):
        brier = [run for run in planned if run.loss == "brier"]
        return [replace(run, params=(("gamma", gamma),)) for run in brier]

    lost = with_status(variants(2.0), "missing", count=99)
    others = [run for run in planned if run.loss != "brier"]
    row, task = of_brier(
        [*others, *variants(1.0), *lost], tmp_path / "lost", loss="brier(gamma=1.0)"
    )
    assert "brier(gamma=2.0)" in {*task.paired.loss}
    assert {*task.paired.comparisons} == {3}
    assert row["n"] == 8


def row_of(values, *, looks=(), margin=0.0, **facts):
    """A row of a comparison as its pairs give it, on accuracy."""
    row = {"verdict": "undecided", "exploratory": False, "metric": "accuracy", "average": "mean"}
    row |= {"differences": tuple(values), "luck": 0.0, "resolution": 0.0, "p_diverged": 0.03}
    row |= {"diverged": 0, "reference_diverged": 0}
    return row | {"look": len(looks) or 1, "margin": margin} | facts


def runs_of(shift, *, n=12, seed=0):
    """Two losses with three rates each, of which other seeds would choose others; skewed."""
    draw = np.random.default_rng(seed)
    base = draw.normal(size=n)
    noise = shift + draw.exponential(size=n) - 1
    parts = [
        frame({"mse": base, "other": base + noise + draw.normal(0, 0.3, n)}).assign(lr=lr)
        for lr in (0.1, 0.2, 0.3)
    ]
    runs = pd.concat(parts, ignore_index=True)
    selected = runs.rmse + draw.normal(0, 0.5, len(runs))
    return runs.assign(selected_by=selected, candidate=candidates(runs, tuned=[]))


@pytest.mark.parametrize("average", ["mean", "median"])
@pytest.mark.parametrize(
    ("says", "shift"), [("better", -0.7), ("worse", 0.7), ("not_worse", -0.1), ("not_worse", -0.9)]
)
def test_the_p_of_a_finding_is_the_least_error_whose_interval_says_it(says, shift, average):
    runs, margin = runs_of(shift), 0.3
    rule = statistics.Rule(metric="rmse", reference="mse", margin=margin, average=average)

    def row(confidence):
        at = replace(rule, confidence=confidence)
        return statistics.paired(runs, at, declared=["mse", "other"]).iloc[0].to_dict()

    ends = {  # of the difference of an error, where a gain is a decrease
        "better": lambda row: row["high"] < 0,
        "worse": lambda row: row["low"] > 0,
        "not_worse": lambda row: row["high"] < margin,
    }
    p = published.p_value(says, row(0.95))
    assert 0 < p < 0.3
    assert row(0.95)["luck"] > 0
    assert p == published.p_value(says, row(0.99))  # the level of the interval is no part of it
    assert ends[says](row(1 - 2 * p * 1.001))
    assert not ends[says](row(1 - 2 * p * 0.999))


def test_a_divergence_that_decides_nothing_doubles_the_p_of_the_interval():
    runs = runs_of(-0.7)
    runs["status"] = np.where((runs.loss == "other") & (runs.seed == 0), "diverged", runs.status)
    runs.loc[runs.status == "diverged", ["rmse", "selected_by"]] = np.nan

    def row(confidence):
        rule = statistics.Rule(metric="rmse", reference="mse", confidence=confidence)
        return statistics.paired(runs, rule, declared=["mse", "other"]).iloc[0].to_dict()

    p = published.p_value("better", row(0.95))
    assert (row(0.95)["diverged"], row(0.95)["pairs"]) == (1, 11)
    assert row(1 - 2 * p * 1.001)["high"] < 0 <= row(1 - 2 * p * 0.999)["high"]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_p_of_a_median_is_that_of_the_sign_test(bad):
    values = np.r_[np.linspace(0.1, 1.0, 12 - bad), np.linspace(-0.2, -0.1, bad)]
    expected = stats.binomtest(12 - bad, 12, alternative="greater").pvalue
    found = published.p_value("better", row_of(values, average="median"))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("says", ["better", "worse", "not_worse"])
def test_a_finding_is_not_made_likely_by_its_contrary(says):
    values = np.random.default_rng(0).normal(5.0, 1.0, 12) * (1 if says == "worse" else -1)
    assert published.p_value(says, row_of(values, margin=0.3)) == 1.0
    assert published.p_value(says, row_of(-values, margin=0.3)) < 1e-5


def test_the_p_of_pairs_that_all_agree_is_what_so_many_predictions_may_have_missed():
    row = row_of(np.full(10, 0.02), resolution=0.01)
    p = published.p_value("better", row)
    assert np.log(1 / p) * 0.01 / 10 == pytest.approx(0.02, rel=1e-3)
    assert published.p_value("worse", row_of(np.zeros(10))) == 1.0


def test_where_divergence_decides_half_of_its_exact_test_gives_the_p_value():
    mine, theirs = np.arange(20) < 7, np.arange(20) == 19
    p = divergence_p(mine, theirs)
    row = row_of(np.ones(8), verdict="diverges", p_diverged=p, diverged=7, reference_diverged=1)
    # Twice, because the interval might have decided, too.
    one_sided = 2 * stats.binomtest(7, 8, alternative="greater").pvalue
    assert published.p_value("worse", row) == pytest.approx(one_sided)
    assert published.p_value("better", row) == published.p_value("not_worse", row) == 1.0
    row |= {"verdict": "reference diverges"}
    for says in ("better", "not_worse"):
        assert published.p_value(says, row) == pytest.approx(one_sided)
    assert published.p_value("worse", row) == 1.0


def test_what_is_not_run_or_exploratory_is_no_member_of_the_family():
    values = np.random.default_rng(0).normal(0.5, 1.0, 12)
    assert np.isnan(published.p_value("better", row_of(values, exploratory=True)))
    assert np.isnan(published.p_value("better", row_of(values, verdict="incomplete")))
    p = np.array([0.01, np.nan, 0.04, 0.03])
    family = published.as_family(family_of(p))
    assert family.q.isna().tolist() == [False, True, False, False]
    assert family.q.dropna().to_numpy() == pytest.approx(
        stats.false_discovery_control([0.01, 0.04, 0.03])
    )


def family_of(p, judged="confirmed"):
    frame = pd.DataFrame({"p": p, "judged": judged, "confidence": 0.95})
    return frame.reindex(columns=published.COLUMNS)


def test_a_finding_is_confirmed_only_where_q_says_so_too():
    # Alone 0.04 would do; of ten it is one too many.
    assert published.as_family(family_of([0.04])).judged.tolist() == ["confirmed"]
    many = published.as_family(family_of([0.04, *[0.5] * 9]))
    assert many.judged.iloc[0] == "undecided"
    strong = published.as_family(family_of([0.04, *[0.001] * 9]))
    assert strong.judged.iloc[0] == "confirmed"
    refuted = published.as_family(family_of([0.9, 0.9], judged="not confirmed"))
    assert refuted.judged.tolist() == ["not confirmed"] * 2


def test_of_the_confirmed_findings_of_a_family_at_most_one_in_twenty_is_false():
    """Families of ten: in eight there is nothing, in two something large."""
    draw = np.random.default_rng(0)
    truth = np.r_[np.zeros(8), 2.0, 2.0]
    shares, naive, found = [], [], []
    for _ in range(150):
        rows = [row_of(draw.normal(shift, 1.0, 10)) for shift in truth]
        p = [published.p_value("better", row) for row in rows]
        confirmed = published.as_family(family_of(p)).judged.eq("confirmed").to_numpy()
        shares.append(confirmed[:8].sum() / max(1, confirmed.sum()))
        naive.append((np.array(p) <= 0.05)[:8].sum() / max(1, (np.array(p) <= 0.05).sum()))
        found.append(confirmed[8:].mean())
    # Benjamini and Hochberg promise 0.05 times the share of nulls, and not more than that.
    assert stats.ttest_1samp(shares, 0.04, alternative="greater").pvalue > 1e-3
    assert stats.ttest_1samp(naive, 0.04, alternative="greater").pvalue < 1e-2
    assert np.mean(found) > 0.8


@pytest.mark.parametrize("finding", ["of another set", "of a loss left out"])
def test_a_finding_about_what_was_not_run_is_not_judged(finding, findings):
    assert findings.loc[finding].judged == "not run"
    assert findings.loc[finding].n == 0


def test_no_verdict_confirms_a_saying_and_its_contrary():
    for verdict in {name for says in records.SAYINGS.values() for name in says}:
        assert {judged(says, verdict=verdict) for says in ("better", "worse")} != {"confirmed"}


@pytest.fixture(scope="module")
def written(essay_sweep, tmp_path_factory):
    """The gallery of a folder with one sweep, and where it lies."""
    docs = tmp_path_factory.mktemp("docs")
    return gallery.write(essay_sweep.parent, docs).read_text(), docs


def section(text, name):
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_the_gallery_has_the_sweep_with_its_pictures_its_verdicts_and_its_findings(
    essay_sweep, written
):
    text, docs = written
    mine = section(text, "essay")
    assert gallery.question("essay") in mine
    pictures = re.findall(r"\]\((gallery/.+\.png)\)", mine)
    assert pictures
    for picture in pictures:
        assert (docs / picture).read_bytes().startswith(b"\x89PNG")
    loaded = records.load(essay_sweep)
    done = (loaded.runs.status == "done").sum()
    assert f"{len(loaded.runs)} runs: {done} done" in mine
    task = statistics.Verdicts(loaded).main("diabetes × linear")
    verdict = words.verdicts_of(task).set_index("loss").loc["mae"]
    assert f"| diabetes × linear | mae | {verdict.estimate:+.3g} [{verdict.low:+.3g}, " in mine
    assert "rmse minus that of mse in standard deviations of the training target, lower" in mine
    assert "intervals, simultaneous within a context over its losses" in mine
    assert "**not run**" in mine
    assert "| of this set | D 2002 | mae minus mse on diabetes × linear |" in mine


def test_the_gallery_has_no_section_of_an_experiment_without_a_result(written):
    assert re.findall(r"^## (.+)$", written[0], re.M) == ["essay"]


def test_a_later_writing_keeps_what_the_page_says_of_experiments_that_are_not_at_hand(
    written, tmp_path
):
    text, docs = written
    pictures = {path.name for path in (docs / "gallery").iterdir()}
    assert gallery.write(tmp_path, docs).read_text() == text
    assert {path.name for path in (docs / "gallery").iterdir()} == pictures


def test_the_answer_counts_each_declared_comparison_once(essay_sweep, written):
    mains = statistics.Verdicts(records.load(essay_sweep)).mains
    mine = section(written[0], "essay")
    counted = re.findall(r" Of (\d+) comparisons: (.+?)\.(?: |\n)", mine)
    assert sum(int(total) for total, _ in counted) == sum(len(task.paired) for task in mains)
    for total, buckets in counted:
        assert sum(map(int, re.findall(r"\d+", buckets))) == int(total)
    for task in mains:
        for row in task.paired.itertuples():
            if row.verdict in ("better by more", "worse by more"):
                kind = row.verdict.split()[0].capitalize()
                assert re.search(rf"{kind} than {task.reference}: [^:]*{row.loss}", mine)


def verdict_rows(*rows):
    columns = ["context", "loss", "word", "estimate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def test_the_first_sentences_say_where_nothing_beats_the_reference_and_by_how_much_elsewhere():
    rows = verdict_rows(
        ("diabetes", "huber", "equivalent", 0.001, -0.002, 0.004),
        ("diabetes", "log_cosh", "undecided", 0.01, -0.1, 0.12),
        ("student_t", "huber", "better", -0.010, -0.015, -0.005),
        ("student_t", "log_cosh", "better by more", -0.018, -0.029, -0.009),
    )
    assert answers.sentences(rows, "rmse", "mse") == (
        "In rmse, none of 2 losses beats mse on diabetes. Better than mse: huber and log_cosh on "
        "student_t, log_cosh by 0.018 [0.009, 0.029]. Of 4 comparisons: 2 better, 1 within the "
        "margin and 1 undecided."
    )


def test_the_named_difference_is_the_one_whose_interval_stays_furthest_from_zero():
    rows = verdict_rows(
        ("t", "wide", "worse", 9.0, 0.1, 17.9),
        ("t", "clear", "worse by more", 2.0, 1.0, 3.0),
        ("t", "open", "undecided", 30.0, -1.0, 61.0),
        ("t", "small", "worse", 0.2, 0.15, 0.25),
    )
    text = answers.sentences(rows, "rmse", "mse")
    assert "Worse than mse: wide, clear and small on t, clear by 2.0 [1.0, 3.0]." in text


def test_losses_of_many_contexts_are_counted_instead_of_listed():
    rows = verdict_rows(
        ("a", "x", "better", -1.0, -1.5, -0.5),
        ("b", "y", "better", -1.0, -1.5, -0.6),
        ("c", "z", "better", -1.0, -1.5, -0.7),
        ("d", "x", "better", -1.0, -1.5, -0.8),
        ("d", "y", "better", -1.0, -1.2, -0.9),
    )
    text = answers.sentences(rows, "rmse", "mse")
    assert text == (
        "In rmse, better than mse: x on 2, y on 2 and z on 1 of 4 contexts, most clearly y by 1.00 "
        "[0.90, 1.20] on d. Of 5 comparisons: 5 better."
    )


def test_a_single_verdict_is_one_sentence():
    rows = verdict_rows(("t", "mae", "worse", 2.0, 1.0, 3.0))
    assert answers.sentences(rows, "rmse", "mse") == (
        "In rmse, mae does not beat mse on t. Worse than mse: mae on t, by 2.0 [1.0, 3.0]."
    )


def test_the_gallery_explains_verdicts_in_the_words_of_the_protocol():
    protocol = " ".join((DOCS / "protocol.md").read_text().split())
    for line in gallery.WORDS.strip().splitlines():
        assert " ".join(line.split()) in protocol


def test_a_smoke_sweep_is_no_result_and_its_every_verdict_says_smoke(
    planned, tmp_path, monkeypatch
):
    laptop = sweep_on_disk._declaration
    monkeypatch.setattr(
        sweep_on_disk, "_declaration", lambda losses: {**laptop(losses), "size": "smoke"}
    )
    folder = build(tmp_path / "runs" / "essay", planned, curves=False)
    text = gallery.write(tmp_path / "runs", tmp_path / "docs").read_text()
    assert not re.findall(r"^## (.+)$", text, re.M)
    loaded = records.load(folder)
    tasks = statistics.Verdicts(loaded).comparisons
    for task in tasks:
        assert words.verdicts_of(task).verdict.str.startswith("SMOKE ").all()
        for row in words.verdicts_of(task).to_dict("records"):
            said = words.sentence(row)
            assert said.startswith("SMOKE: After")
            assert "has no verdict" not in said
    terminal = summary.table(loaded)
    for word in ("better", "worse", "undecided", "equivalent"):
        for line in terminal.splitlines():
            if re.match(r"(brier|mse_logits) ", line) and word in line:
                assert f"SMOKE {word}" in line
    assert "size=smoke" in objections.of_sweep(loaded, tasks)[0]
    html = page.write(folder, drawn_in=["verdicts"], has_figures=True).read_text()
    assert "<h1>SMOKE: " in html
    files = [*(folder / "report" / "figures").glob("*.svg")]
    assert files
    assert all(">SMOKE<" in file.read_text() for file in files)
    cells = re.findall(r'data-head="(?:verdict|at the reference&#39;s rate)">(.+?)</td>', html)
    assert cells
    assert all("SMOKE" in cell for cell in cells)
    assert "SMOKE" in (folder / "report" / "tables" / "verdicts.csv").read_text()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_question_is_found_in_the_header(name):
    assert len(gallery.question(name)) > 20


def test_docs_gallery_md_tells_of_experiments_that_exist_and_shows_pictures_that_exist():
    text = (DOCS / "gallery.md").read_text()
    assert {*re.findall(r"^## (.+)$", text, re.M)} <= NAMES
    shown = {*re.findall(r"\]\(gallery/(.+\.png)\)", text)}
    assert shown == {path.name for path in (DOCS / "gallery").glob("*.png")}


MAE = "{ finding: a, source: b, loss: mae, says: better"
BAD = {
    "sayz": "{ finding: a, source: b, loss: mae, sayz: better }",
    "lacks finding": "{ source: b, loss: mae, says: better }",
    "lacks source": "{ finding: a, loss: mae, says: better }",
    "lacks loss": "{ finding: a, source: b, says: better }",
    "lacks says": "{ finding: a, source: b, loss: mae }",
    "a margin in the unit": MAE + ", metric: mae }",
    "'accuracy'": MAE + ", metric: accuracy, margin: 0 }",
    "'coverage_90'": MAE + ", metric: coverage_90, margin: 0 }",
    "'rmse_clean'": MAE + ", metric: rmse_clean, margin: 0 }",
    "'small'": MAE + ", margin: small }",
    "did you mean 'huber'": "{ finding: a, source: b, loss: hubber, says: better }",
    "'focl'": "{ finding: a, source: b, loss: mae, reference: focl, says: better }",
    "compares mse with mse": "{ finding: a, source: b, loss: mse, says: better }",
    "compares mae with mae": "{ finding: a, source: b, loss: mae, reference: mae, says: better }",
    "compares mae with brier": MAE + ", reference: brier }",
    "stands under `finding`": "{ claim: a, source: b, loss: mae, says: better }",
    "'datum'": MAE + ", where: { datum: digits } }",
    "'loss.params.a'": MAE + ", where: { loss.params.a: 1 } }",
    "'optimizer.lr'": MAE + ", where: { optimizer.lr: 1 } }",
    "'bettr'": "{ finding: a, source: b, loss: mae, says: bettr }",
    "'rmsee'": MAE + ", metric: rmsee, margin: 0 }",
    "'../x'": "{ finding: a, source: b, loss: ../x, says: better }",
}


@pytest.mark.parametrize("message", one_in(3, BAD))
def test_a_finding_that_could_not_be_judged_is_refused(message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "tiny", f"{TINY}      published: [{BAD[message]}]\n")
    assert cli.main(["plan", "--config-dir", "conf", "experiment=tiny"]) == cli.MISTAKE
    assert message in capsys.readouterr().err


FACTORS = [
    *("data", "model", "optimizer", "schedule", "data.targets", "data.corruption.name"),
    *("data.corruption.params.rate", "model.params.widths", "optimizer.weight_decay", "init.from"),
    *("init.output_scale", "signal", "steps", "batch_size", "data.augmentation.name"),
]


def test_whatever_a_finding_may_name_is_found_in_a_recorded_configuration():
    noise = {"name": "symmetric", "params": {"rate": 0.2}}
    run = make_run(data="digits", loss="brier", data__corruption=noise)
    facts = statistics.factors(json.dumps(run.facts))
    for key in FACTORS:
        declaration._check_where({key: 1}, "where")
        name = f"{key}.name" if key in records.FACTORS else records.recorded(key)
        assert published.speaks_of({"where": {key: facts[name]}}, facts)
        assert not published.speaks_of({"where": {key: "another"}}, facts)
