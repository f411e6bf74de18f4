import csv
import json
import logging
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from pages import Page
from selection import beyond, one_in
from sweep_on_disk import (
    CLASSIFICATION,
    HOSTILE,
    REGRESSION,
    SMALL_RATES,
    build,
    own,
    plan_runs,
    with_rate,
    with_signal,
    with_status,
)

from lossbench import records, statistics
from lossbench.figures import layout
from lossbench.report import answers, drawings, objections, pictures, summary, table_files, words
from lossbench.report import page as report_page

ANALYSIS = Path(__file__).parents[2] / "analysis"
FORMATS = ("png", "svg", "pdf")


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def table_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    runs = with_status(plan_runs(), "missing", count=2, lr=0.1, loss="mae")
    for lr in SMALL_RATES:  # whichever is chosen, one seed diverges there
        runs = with_status(runs, "diverged", count=1, lr=lr, loss="quartic")
    runs = with_status(runs, "failed", count=1, lr=1.0, loss="huber")
    return build(tmp_path_factory.mktemp("sweeps") / "small", runs)


DRAWN = ("verdicts", "contexts", "losses", "dynamics", "calibration")
"""Sections of the page below: what is drawn of the others is tested by `SWEEPS`."""


@pytest.fixture(scope="module")
def page(sweep):
    """The page with most drawings."""
    return read(report_page.write(sweep, drawn_in=DRAWN))


@pytest.fixture(scope="module")
def text(sweep, page):
    return (sweep / "report" / "index.html").read_text()


def test_the_page_needs_no_network_and_no_script_and_every_reference_has_its_target(
    sweep, page, text
):
    assert page.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.is_inert
    assert page.is_closed
    assert {*re.findall(r"url\(#([^)]+)\)", text)} <= {*page.ids}
    files = {request for request in page.requests if not request.startswith("#")}
    beside = sweep / "report"
    assert files == {
        str(path.relative_to(beside)) for path in beside.rglob("*.*") if path.parent != beside
    }


def test_completeness_comes_first_and_names_what_is_missing(page):
    total = len(plan_runs())
    assert f"{total - 3}/{total} planned runs are complete" in page.text
    assert "mae lr=0.1 seed=0 missing; mae lr=0.1 seed=1 missing" in page.text
    assert page.text.index("planned runs are complete") < page.text.index("What came out")


def test_the_sections_stand_in_the_order_in_which_a_reader_asks(page):
    order = ["summary", *report_page.SECTIONS, "words", "methods", "again"]
    shown = [name for name in page.ids if name in order]
    assert shown == [name for name in order if name in shown]
    assert {*shown} >= {"summary", *DRAWN, "words", "methods", "again"}
    links = [request[1:] for request in page.requests if request[1:] in order]
    assert [*dict.fromkeys(links)][: len(shown)] == shown


def test_every_figure_is_a_question_described_in_words_and_one_command_brings_the_files(
    sweep, page, text
):
    shown = re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL)
    assert len(shown) > 10
    for figure in shown:
        (question,) = re.findall(r"<h4>(.*?)</h4>", figure)
        (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", figure)
        assert question.endswith("?")
        assert re.findall(r'aria-label="(.*?)"', figure) == [f"{question} {caption}"]
        assert "n = " in caption or "Exact" in caption
    assert page.tags.count("figure") == page.tags.count("svg") == len(shown)
    assert text.count("lossbench report runs/small --figures") == 1
    assert not (sweep / "report" / "figures").exists()


def test_figures_are_files_of_each_format_and_width_where_they_are_asked_for(tmp_path):
    folder = build(tmp_path / "own", own(seeds=6), declaration=False)
    path = report_page.write(folder, drawn_in=["verdicts", "dynamics"], has_figures=True)
    written = {file.name for file in (folder / "report" / "figures").iterdir()}
    text = path.read_text()
    shown = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    linked = [re.findall(r'href="figures/(.*?)"', figure) for figure in shown]
    assert {file for files in linked for file in files} == written
    for files in linked:
        assert [Path(file).suffix[1:] for file in files] == [*FORMATS, *FORMATS]
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for file in (folder / "report" / "figures").iterdir():
        assert file.read_bytes().startswith(begins[file.suffix])
    names = {Path(file).stem for file in written}
    assert {
        f"{kind}_digits_mlp{ending}"
        for kind in ("forest", "error_signal")
        for ending in ("", "_one_column")
    } <= names
    scripts = {path.stem for path in ANALYSIS.glob("*.py")}
    assert all(any(name.startswith(script) for script in scripts) for name in names)
    assert "--figures" not in text
    assert read(path).is_closed


def test_every_table_can_be_downloaded_in_three_formats_and_holds_numbers(sweep, page):
    names = {Path(request).stem for request in page.requests if request.startswith("tables/")}
    assert {"verdicts", "summary", "sensitivity", "convergence", "cross_loss", "results"} <= names
    folder = sweep / "report" / "tables"
    for name in names:
        assert table_rows(folder / f"{name}.csv"), name
        assert all((folder / f"{name}.{kind}").is_file() for kind in ("md", "tex"))
    rows = table_rows(folder / "paired.csv")
    assert {row["loss"] for row in rows} == {"mae", "quartic", "huber", "brier", "mse_logits"}
    assert r"\toprule" in (folder / "results.tex").read_text()


def test_verdicts_intervals_and_n_stand_in_the_page(page):
    assert "diabetes × mlp: loss minus mse in" in page.text
    assert "simultaneous 95% interval over 3 declared comparisons" in page.text
    assert re.search(r"quartic \S+ \[\S+, \S+\] 7/8 1", page.text)
    assert re.search(r"quartic \+\S+ \[\S+, \S+\] 7 worse by more than 0.02", page.text)
    assert "quartic diverged in 1" in page.text
    assert summary.OTHER_FUNCTIONAL in page.text
    assert "Intel Xeon, 1 thread, float32" in page.text
    assert "lossbench experiment=small" in page.text


def test_a_declared_loss_that_was_lost_counts_in_the_family_and_is_objected_to(tmp_path):
    runs = with_status(plan_runs(), "missing", count=99, loss="quartic")
    loaded = records.load(build(tmp_path / "absent", runs))
    tasks = statistics.Verdicts(loaded).comparisons
    (diabetes,) = [t for t in tasks if t.runs.data.iloc[0] == "diabetes" and t.is_main]
    assert {*diabetes.paired.comparisons} == {3}
    against = " ".join(objections.of_sweep(loaded, tasks))
    assert "runs failed or are missing, so there is no verdict: quartic" in against


def test_a_png_has_the_resolution_of_print_whatever_was_written_before_it(tmp_path):
    def draw(ax):
        ax.plot([0, 1])
        layout.frame(ax.figure, "Is it sharp?", "n = 1")

    drawing = pictures.Drawing("sharp", draw, {"height": 1.0}, is_single=True)
    pictures.save(tmp_path, [drawing], workers=1)
    for ending, width in pictures.WIDTHS.items():
        content = (tmp_path / f"sharp{ending}.png").read_bytes()
        pixels = int.from_bytes(content[16:20], "big")
        assert pixels == pytest.approx(width * pictures.PNG_DPI[ending], rel=0.05)


def test_a_word_stands_across_every_figure_but_exact_ones(tmp_path):
    def draw(ax):
        ax.plot([0, 1])
        layout.frame(ax.figure, "Is it trained?", "n = 1")

    size = {"height": 1.0}
    drawings = [
        pictures.Drawing(name, draw, size, is_single=True, is_exact=name == "exact")
        for name in ("exact", "trained")
    ]
    pictures.save(tmp_path, drawings, workers=1, across="SMOKE")
    stamped = {path.stem: ">SMOKE<" in path.read_text() for path in tmp_path.glob("*.svg")}
    assert stamped == {
        "exact": False,
        "exact_one_column": False,
        "trained": True,
        "trained_one_column": True,
    }


@pytest.mark.exhaustive
def test_writing_twice_gives_the_same_bytes(tmp_path):
    folder = build(tmp_path / "twice", own({"mse": "power", "mae": "power"}, data="diabetes"))
    content = []
    for _ in range(2):
        report_page.write(folder, drawn_in=("verdicts", "contexts", "dynamics"), has_figures=True)
        content.append({p: p.read_bytes() for p in (folder / "report").rglob("*.*")})
        (folder / "report" / "pictures.json").unlink()
    assert content[0] == content[1]


def test_the_plain_table_fits_eighty_columns_and_says_the_verdicts(sweep):
    text = summary.table(sweep)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "diabetes × mlp: test rmse (SD of target), lower is better" in text
    assert re.search(r"^mse +0\.\d+ ± 0\.\d+ +reference$", text, re.MULTILINE)
    assert re.search(r"^quartic +.*\[\+\S+, \+\S+\] +worse by more$", text, re.MULTILINE)
    assert "quartic: 1 diverged of 8 runs" in text
    assert summary.table(records.load(sweep)) == text


DIGITS = {("digits", "mlp"): CLASSIFICATION}


SWEEPS = {
    "one_run": own({"brier": "proper"}, seeds=1),
    "one_seed": own(seeds=1),
    "only_failed": own(status="failed"),
    "only_diverged": own(status="diverged"),
    "only_missing": own(status="missing"),
    "nothing": [],
    "several_rates": own(rates=(0.01, 0.1)),
    "whole": plan_runs(DIGITS),
    "reference_gone": with_status(plan_runs(DIGITS), "failed", count=99, loss="cross_entropy"),
    "no_reference": own({"brier": "proper", "mse_logits": "matching"}),
    "one_task_failed": [
        *own(rates=(0.01, 0.1)),
        *own({"mse": "power", "mae": "power"}, data="diabetes", rates=(0.01, 0.1), status="failed"),
    ],
    "one_task_missing": [
        *plan_runs(DIGITS, rates=(0.1,)),
        *own({"mse": "power"}, data="diabetes", rates=(0.01, 0.1), status="missing"),
    ],
    "a_loss_failed": with_status(plan_runs(DIGITS), "failed", count=99, loss="brier"),
    "diverged_at_every_rate": with_status(plan_runs(DIGITS), "diverged", count=99, loss="brier"),
}


@pytest.mark.parametrize("name", beyond(["one_seed", "nothing", "a_loss_failed"], SWEEPS))
def test_every_kind_of_sweep_gives_a_report_and_a_table(tmp_path, name, caplog):
    folder = build(tmp_path / name, SWEEPS[name], declaration=False, curves=False)
    with caplog.at_level(logging.ERROR):
        text = read(report_page.write(folder)).text
    assert caplog.text == ""
    assert "planned runs are complete" in text
    assert "Nothing was declared beforehand" in text
    assert max([0, *(len(line) for line in summary.table(folder).splitlines())]) <= 80


def test_tasks_whose_names_differ_in_a_sign_only_have_figures_of_their_own(tmp_path):
    runs = [
        replace(run, data=data)
        for data in ("my-data", "my.data")
        for run in own({"mse": "power", "mae": "power"}, data="diabetes")
    ]
    folder = build(tmp_path / "alike", runs)
    assert read(report_page.write(folder, drawn_in=["convergence"])).is_closed
    text = (folder / "report" / "index.html").read_text()
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    curves = {svg for svg in svgs if re.search(r"each loss learn my[-.]data", svg)}
    assert len(curves) == 2


def test_a_figure_that_breaks_costs_itself_only(tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    # No sweep is known to break a figure: the report would be mended.
    monkeypatch.setattr(drawings.figures, "learning_curves", broken)
    folder = build(tmp_path / "broken", own(seeds=2))
    text = read(report_page.write(folder, drawn_in=["dynamics", "convergence"])).text
    assert "How fast does each loss learn digits" not in text
    assert "What does each loss feed back while it learns digits" in text
    assert "figure learning_curves_digits_mlp could not be drawn" in caplog.text


def test_a_report_leaves_nothing_of_the_one_before(tmp_path):
    folder = build(tmp_path / "anew", own(seeds=2))
    report_page.write(folder, drawn_in=["verdicts"], has_figures=True)
    figures = folder / "report" / "figures"
    assert [*figures.iterdir()]
    mine = [figures / "mine.png", folder / "report" / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    report_page.write(folder, drawn_in=["verdicts"])
    assert [*figures.iterdir()] == [figures / "mine.png"]
    assert all(path.read_text() == "mine" for path in mine)


def test_own_sweeps_are_exploratory_at_each_loss_best_rate(tmp_path):
    folder = build(tmp_path / "own", own(rates=(0.01, 0.1), seeds=8), declaration=False)
    text = summary.table(folder)
    assert text.startswith("digits × mlp: test accuracy, higher is better, exploratory")
    assert "minus cross_entropy" in text
    page = read(report_page.write(folder, drawn_in=[])).text
    results = table_rows(folder / "report" / "tables" / "results.csv")
    own_rates = [row["loss"] for row in results if row["condition"] == "own_lr"]
    assert sorted(own_rates) == sorted(CLASSIFICATION)
    assert "Nothing was declared beforehand, so every comparison here is exploratory" in page
    where = r"accuracy, higher is better, margin ±0.01 \(\d+ % of [^()]+\), n = 8, exploratory"
    assert re.search(where, page)


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    text = summary.table(build(tmp_path / "one", own(seeds=1), declaration=False))
    assert "±" not in text.split("half")[1]
    assert "One seed gives no interval" in text
    assert "too few pairs" in text


def test_runs_that_are_no_pairs_give_a_report_that_says_so_and_no_verdict(tmp_path):
    runs = [replace(run, env="gpu") if run.loss == "brier" else run for run in own(seeds=8)]
    page = read(report_page.write(build(tmp_path / "mixed", runs), drawn_in=[]))
    assert "No pairs: seed 0 of digits × mlp: env_sha differs between brier" in page.text
    assert "loss minus" not in page.text


def test_tables_of_the_page_leave_metrics_of_the_last_step_to_the_files():
    names = ["accuracy", "brier", "auroc", "aurc", "brier_resolution", "balanced_accuracy"]
    task = SimpleNamespace(metric="accuracy", summary=pd.DataFrame({"metric": names, "n": 3}))
    assert summary.other_metrics(task) == ["brier", "balanced_accuracy"]


def test_hostile_names_are_shown_and_never_obeyed(tmp_path):
    folder = build(tmp_path / "hostile", own(dict.fromkeys([*HOSTILE, "cross_entropy"], "proper")))
    page = read(report_page.write(folder, drawn_in=["verdicts", "contexts"]))
    assert page.is_inert
    assert "<script>alert(1)</script>" in page.text
    cells = (folder / "report" / "tables" / "results.csv").read_text()
    assert not re.search(r"(^|,)[=@]", cells, re.MULTILINE)
    assert max(len(line) for line in summary.table(folder).splitlines()) <= 80
    inside = {p.resolve() for p in tmp_path.rglob("*")}
    assert all(p.is_relative_to(folder.resolve()) for p in inside)


def test_latex_and_markdown_escape_what_they_would_obey():
    frame = pd.DataFrame({"x_y": ["a_b&c", r"5 % of \input{~^}$#"]})
    text = table_files.latex(frame)
    assert r"x\_y \\" in text
    assert r"a\_b\&c \\" in text
    assert r"5 \% of \textbackslash input\{\textasciitilde \textasciicircum \}\$\# \\" in text
    assert r"| a\_b\|c |" in table_files.markdown(pd.DataFrame({"x": ["a_b|c"]}))


def test_latex_is_what_pandas_own_styler_writes():
    texts = ["&%$#_{}", r"\ a", r"\a", "~ b", "~~", "^ c", "^^ ~", r"\\ d", r"\space", "é × ±", ""]
    frame = pd.DataFrame({"a_b": texts, "~ x": texts[::-1]})
    styled = frame.style.hide(axis="index").format(escape="latex")
    styled = styled.format_index(escape="latex", axis="columns")
    assert table_files.latex(frame) == styled.to_latex(hrules=True, column_format="ll")


@pytest.mark.parametrize(
    ("value", "half", "shown"),
    [
        (0.123456, 0.0012, "0.1235"),
        (12.3456, 0.5, "12.35"),
        (-0.00001, 0.01, "0.000"),
        (3.0, float("nan"), "3"),
        (float("nan"), 1.0, "none"),
        (123456.0, 10.0, "1.235e+05"),
    ],
)
def test_numbers_show_two_digits_of_their_uncertainty(value, half, shown):
    assert words.rounded(value, half) == shown


def test_half_an_interval_is_never_a_row_of_zeros():
    assert [summary._half(half) for half in (2.2e-09, 0.0123, 0.0)] == ["2e-09", "0.012", "0"]


SCRIPTS = sorted(
    path for path in ANALYSIS.glob("*.py") if '"out"' in path.read_text() and path.stem != "compare"
)


@pytest.fixture
def analyse(monkeypatch):
    """Runs a script as a terminal would."""

    def run(name, *arguments):
        script = ANALYSIS / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")

    return run


def test_the_verdicts_script_prints_a_sentence_for_each_comparison(sweep, analyse, capsys):
    analyse("verdicts", sweep, "digits")
    text = capsys.readouterr().out
    assert text.count("on digits × mlp, each loss at its own best learning rate") == 2
    assert "Objection: 2 of" in text


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """A sweep in which tasks have losses in common."""
    tasks = {("diabetes", model): REGRESSION for model in ("linear", "mlp")}
    tasks |= {("digits", "mlp"): CLASSIFICATION}
    return build(tmp_path_factory.mktemp("sweeps") / "two", plan_runs(tasks, seeds=6))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A sweep over rates of wrong labels."""
    plain = plan_runs({("digits", "mlp"): CLASSIFICATION}, seeds=6)
    runs = [run for rate in (0.0, 0.3) for run in with_rate(plain, rate)]
    return build(tmp_path_factory.mktemp("sweeps") / "noisy", runs)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """A sweep over what drives the updates, at one learning rate."""
    plain = plan_runs({("digits", "mlp"): CLASSIFICATION}, rates=(0.1,), seeds=6)
    runs = [run for signal in records.SIGNALS for run in with_signal(plain, signal)]
    return build(tmp_path_factory.mktemp("sweeps") / "driven", runs)


@pytest.mark.parametrize("script", one_in(6, [path.stem for path in SCRIPTS]))
def test_every_analysis_script_writes_its_file(
    two_tasks, noisy, driven, tmp_path, analyse, capsys, script
):
    sweep = {"label_noise": noisy, "decomposition": driven}.get(script, two_tasks)
    kind = {"digest": "md"}.get(script, "csv" if script.endswith("_table") else "png")
    out = tmp_path / f"out.{kind}"
    analyse(script, sweep, out)
    assert out.stat().st_size > 500
    assert capsys.readouterr().out.endswith(f"{out}\n")


def test_a_script_names_the_tasks_there_are(two_tasks, tmp_path, analyse):
    with pytest.raises(ValueError, match="'nowhere': the sweep has 'diabetes × linear'"):
        analyse("forest", two_tasks, tmp_path / "out.png", "nowhere")


def test_two_sweeps_are_compared_where_they_asked_the_same(
    sweep, two_tasks, tmp_path, analyse, capsys
):
    analyse("compare", sweep, two_tasks, tmp_path / "out.png", "diabetes")
    text = capsys.readouterr().out
    (block,) = re.findall(r"diabetes × mlp, mae minus mse in rmse:\n((?:  .*\n)+)", text)
    differences = [float(line.split()[0]) for line in block.splitlines()]
    tasks = [
        statistics.Verdicts(records.load(folder)).main("diabetes × mlp")
        for folder in (sweep, two_tasks)
    ]
    expected = [float(task.paired.set_index("loss").difference["mae"]) for task in tasks]
    assert differences == pytest.approx(expected, rel=1e-2)
    assert "linear" not in text
    assert (tmp_path / "out.png").stat().st_size > 500


def test_two_sweeps_that_have_nothing_in_common_are_refused_by_name(two_tasks, tmp_path, analyse):
    other = build(tmp_path / "other", own(seeds=8), declaration=False)
    with pytest.raises(SystemExit, match="no loss was compared on the same context"):
        analyse("compare", other, two_tasks, tmp_path / "out.png", "diabetes")


def test_a_report_of_noisy_labels_says_what_selecting_on_them_cost(noisy):
    page = read(report_page.write(noisy, drawn_in=["robustness"]))
    assert page.text.count("What selection on noisy labels cost.") == 1  # a caption is told once
    assert "How does each loss fare as more is corrupted on digits × mlp?" in page.text
    rows = table_rows(noisy / "report" / "tables" / "selection_cost.csv")
    # The invented values of both are equal, so both choose alike.
    assert {(row["loss"], float(row["cost"])) for row in rows} == {(n, 0.0) for n in CLASSIFICATION}
    assert page.text.count("0, the same choice") == len(rows)


def test_a_report_without_corruption_says_nothing_of_noisy_labels(two_tasks):
    page = read(report_page.write(two_tasks, drawn_in=["robustness"]))
    assert "noisy labels" not in page.text
    assert not (two_tasks / "report" / "tables" / "selection_cost.csv").exists()


def test_scripts_stay_short_enough_to_copy():
    for script in ANALYSIS.glob("*.py"):
        assert len(script.read_text().splitlines()) <= 48


@pytest.mark.parametrize("is_one_sided", [False, True])
def test_behind_outliers_on_one_side_a_median_is_not_ranked_by_rmse(is_one_sided):
    noise = {"name": "outliers", "fn": "outliers", "params": {"is_one_sided": is_one_sided}}
    config = json.dumps({"corruption": noise})
    runs = pd.DataFrame({"data": ["noisy_linear"], "config": [config]})
    task = SimpleNamespace(metric="rmse", runs=runs)
    plan = {
        "losses": {"mae": {"claims": ["convex"]}, "mse": {"claims": ["elicits_mean"]}},
        "data": {"noisy_linear": {"is_symmetric": True}},
    }
    assert summary._aims_elsewhere("mae", task, plan) == is_one_sided
    assert not summary._aims_elsewhere("mse", task, plan)


def test_what_comes_of_ones_own_loss_is_not_that_of_one_whose_name_begins_alike(essay_sweep):
    loaded = records.load(essay_sweep)
    loaded.plan["losses"]["mae"]["family"] = "own"
    mains = statistics.Verdicts(loaded).mains
    (sentence,) = answers.of_own(loaded, mains)
    assert {*loaded.runs.loss} >= {"mae", "mae_probs"}
    assert sentence.startswith("mae against mse: ")
    assert "diabetes" in sentence
    assert "finite_support" not in sentence
