import csv
import html.parser
import io
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from sweep_on_disk import CLASSIFICATION, Fake, build, plan_runs, with_status

from lossbench import records, report
from lossbench.report import page as page_module
from lossbench.report import tables, words

ANALYSIS = Path(__file__).parent.parent / "analysis"
FORMATS = ("png", "svg", "pdf")
HOSTILE = ["<script>alert(1)</script>", r"$\frac$&\"'", "_x", "=cmd|x", "y" * 300]


class Page(html.parser.HTMLParser):
    """What a browser would see: tags, ids, everything it would request, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.requests, self.policy, self.words = [], [], [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.requests.append(value)
            if name.startswith("on"):
                raise AssertionError(f"{tag} has {name}")
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def table_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    runs = with_status(plan_runs(), "missing", count=2, stage="confirm", loss="mae")
    runs = with_status(runs, "diverged", count=1, stage="confirm", loss="quartic")
    runs = with_status(runs, "failed", count=1, stage="tune", loss="mse")
    return build(tmp_path_factory.mktemp("sweeps") / "small", runs)


@pytest.fixture
def svg_only(monkeypatch):
    """Only the picture that stands in the page; the formats beside it have their own tests."""

    def encoded(figure):
        content = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
        return {"svg": content.getvalue()}

    monkeypatch.setattr(page_module, "_encoded", encoded)


@pytest.fixture(scope="module")
def page(sweep):
    return Page(report.write(sweep))


def test_the_page_needs_no_network_and_no_script(page):
    assert page.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & {*page.tags}
    assert all(request.startswith("#") for request in page.requests)


def test_every_id_of_the_page_is_unique_and_every_reference_has_its_target(page):
    assert len(page.ids) == len({*page.ids})
    assert {request[1:] for request in page.requests} <= {*page.ids}


def test_every_clip_and_marker_refers_to_its_own_figure(sweep, page):
    text = (sweep / "report" / "index.html").read_text()
    assert {*re.findall(r"url\(#([^)]+)\)", text)} <= {*page.ids}


def test_completeness_comes_first_and_names_what_is_missing(page):
    total = len(plan_runs())
    assert f"{total - 3}/{total} planned runs are complete" in page.text
    assert "mae lr=0.1 seed=0 missing; mae lr=0.1 seed=1 missing" in page.text
    assert page.text.index("Is everything there?") < page.text.index("What was asked?")


def test_verdicts_intervals_and_n_stand_in_the_page(page):
    assert "Differences to mse, seed by seed" in page.text
    assert "simultaneous 95 % paired-t interval over 3 declared comparisons" in page.text
    assert re.search(r"mae† \S+ \[\S+, \S+\] 6/8", page.text)
    assert re.search(r"quartic \+\S+ \[\S+, \S+\] 7 1 worse", page.text)
    assert report.OTHER_FUNCTIONAL in page.text
    assert "Intel Xeon, 1 thread, float32" in page.text
    assert "lossbench experiment=small" in page.text


def test_figures_come_in_three_formats(sweep, page):
    folder = sweep / "report" / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert {f"{name}.{kind}" for name in names for kind in FORMATS} == {
        path.name for path in folder.iterdir()
    }
    for question in ("forest", "learning_curves", "error_signal", "learning_rate_sensitivity"):
        assert {f"{question}_digits_mlp", f"{question}_diabetes_mlp"} <= names
    assert {"loss_shapes_regression", "loss_shapes_classification", "error_weight"} <= names
    assert page.tags.count("figure") == len(names)


def test_tables_come_in_three_formats_and_hold_the_numbers(sweep, page):
    folder = sweep / "report" / "tables"
    for name in ("results", "summary", "paired", "learning_rates", "completeness"):
        assert all((folder / f"{name}.{kind}").is_file() for kind in ("csv", "md", "tex"))
    rows = table_rows(folder / "paired.csv")
    assert {row["loss"] for row in rows} == {"mae", "quartic", "huber", "brier", "mse_logits"}
    assert r"\toprule" in (folder / "results.tex").read_text()


def test_a_declared_loss_that_was_not_confirmed_counts_in_the_family_and_is_objected_to(tmp_path):
    runs = [run for run in plan_runs() if (run.stage, run.loss) != ("confirm", "quartic")]
    found = records.load(build(tmp_path / "absent", runs))
    together = report.comparisons(found)
    (diabetes,) = [one for one in together if one.runs.data.iloc[0] == "diabetes"]
    assert diabetes.absent == ("quartic",)
    assert {*diabetes.paired.loss} == {"mae", "huber"}
    assert {*diabetes.paired.comparisons} == {3}
    assert any(
        "declared, and not confirmed: quartic" in t for t in report.objections(found, together)
    )


def test_writing_twice_gives_the_same_bytes(tmp_path):
    folder = build(tmp_path / "twice", own({"mse": "power", "mae": "power"}, data="diabetes"))
    content = []
    for _ in range(2):
        report.write(folder)
        content.append({p: p.read_bytes() for p in (folder / "report").rglob("*.*")})
    assert content[0] == content[1]


@pytest.fixture
def quick(monkeypatch):
    """Lay every figure out, but encode it as SVG alone."""
    monkeypatch.setattr(page_module.FigureCanvasAgg, "print_png", lambda *_: None)
    monkeypatch.setattr(page_module.FigureCanvasPdf, "print_pdf", lambda *_, **__: None)


def test_the_plain_table_fits_eighty_columns_and_says_the_verdicts(sweep):
    text = report.table(sweep)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "diabetes × mlp: test rmse (SD of target), lower is better" in text
    assert re.search(r"^mse +0\.\d+ ± 0\.\d+ +reference$", text, re.MULTILINE)
    assert re.search(r"^quartic +.*\[\+\S+, \+\S+\] +worse$", text, re.MULTILINE)
    assert "quartic: 1 diverged of 8 runs" in text
    assert report.table(records.load(sweep)) == text


def own(losses=CLASSIFICATION, *, seeds=3, rates=(0.1,), status="done", data="digits"):
    """An own sweep: no declaration, one stage."""
    task = "classification" if data == "digits" else "regression"
    return [
        Fake("exploratory", "as_given", data, "mlp", loss, family, task, lr, seed, status)
        for loss, family in losses.items()
        for lr in rates
        for seed in range(seeds)
    ]


def small(stage):
    return [run for run in plan_runs({("digits", "mlp"): CLASSIFICATION}) if run.stage == stage]


SWEEPS = {
    "one_run": own({"brier": "proper"}, seeds=1),
    "one_seed": own(seeds=1),
    "only_failed": own(status="failed"),
    "only_diverged": own(status="diverged"),
    "only_missing": own(status="missing"),
    "nothing": [],
    "several_rates": own(rates=(0.01, 0.1)),
    "tuning_only": small("tune"),
    "confirm_only": small("confirm"),
    "reference_gone": with_status(small("confirm"), "failed", count=99, loss="cross_entropy"),
    "no_reference": own({"brier": "proper", "mse_logits": "matching"}),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.usefixtures("svg_only")
def test_every_kind_of_sweep_gives_a_report_and_a_table(tmp_path, name):
    folder = build(tmp_path / name, SWEEPS[name], declaration=False, curves=False)
    text = Page(report.write(folder)).text
    assert "planned runs are complete" in text
    assert "Nothing was declared beforehand" in text
    assert max([0, *(len(line) for line in report.table(folder).splitlines())]) <= 80


@pytest.mark.usefixtures("quick")
@pytest.mark.usefixtures("svg_only")
def test_own_sweeps_are_exploratory_at_each_loss_best_rate(tmp_path):
    folder = build(tmp_path / "own", own(rates=(0.01, 0.1), seeds=8), declaration=False)
    text = report.table(folder)
    assert text.startswith("digits × mlp: test accuracy, higher is better, exploratory")
    assert "minus cross_entropy" in text
    results = report.write(folder).parent / "tables" / "results.csv"
    assert sorted(row["loss"] for row in table_rows(results)) == sorted(CLASSIFICATION)
    assert "(exploratory)" in Page(folder / "report" / "index.html").text


@pytest.mark.usefixtures("quick")
def test_one_seed_has_no_interval_and_says_so(tmp_path):
    folder = build(tmp_path / "one", own(seeds=1), declaration=False)
    text = report.table(folder)
    assert "±" not in text.split("half")[1]
    assert "One seed gives no interval" in text
    assert "too few pairs" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.usefixtures("svg_only")
def test_runs_that_are_no_pairs_give_a_report_that_says_so_and_no_verdict(tmp_path):
    runs = [replace(run, env="gpu") if run.loss == "brier" else run for run in own(seeds=8)]
    folder = build(tmp_path / "mixed", runs)
    page = Page(report.write(folder))
    assert "No pairs: seed 0 of digits × mlp: env_sha differs between brier" in page.text
    assert "Differences to" not in page.text


@pytest.mark.usefixtures("quick")
@pytest.mark.usefixtures("svg_only")
def test_hostile_names_are_shown_and_never_obeyed(tmp_path):
    folder = build(tmp_path / "hostile", own(dict.fromkeys([*HOSTILE, "cross_entropy"], "proper")))
    page = Page(report.write(folder))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    cells = (folder / "report" / "tables" / "results.csv").read_text()
    assert not re.search(r"(^|,)[=@]", cells, re.MULTILINE)
    assert max(len(line) for line in report.table(folder).splitlines()) <= 80
    inside = {p.resolve() for p in tmp_path.rglob("*")}
    assert all(p.is_relative_to(folder.resolve()) for p in inside)


def test_latex_and_markdown_escape_what_they_would_obey():
    assert r"a\_b\&c \\" in tables._latex(["x"], [["a_b&c"]])
    assert r"| a\_b\|c |" in tables._markdown(["x"], [["a_b|c"]])


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


FILES = sorted(path for path in ANALYSIS.glob("*.py") if path.stem != "verdicts")


def test_the_verdicts_script_prints_a_sentence_for_each_comparison(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verdicts.py", str(sweep), "digits"])
    runpy.run_path(str(ANALYSIS / "verdicts.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert text.count("on digits × mlp, each loss at its own best learning rate") == 2
    assert "Objection: 2 of" in text


@pytest.mark.parametrize("script", FILES, ids=lambda path: path.stem)
def test_every_analysis_script_writes_its_file(sweep, tmp_path, monkeypatch, script):
    kind = {"results_table": "csv", "digest": "md"}.get(script.stem, "png")
    out = tmp_path / f"out.{kind}"
    monkeypatch.setattr(sys, "argv", [str(script), str(sweep), str(out)])
    runpy.run_path(str(script), run_name="__main__")
    assert out.stat().st_size > 500


def test_every_figure_of_the_report_has_its_script(sweep, page):
    names = {path.stem for path in ANALYSIS.glob("*.py")} | {"error_weight"}
    for path in (sweep / "report" / "figures").glob("*.png"):
        assert any(path.stem.startswith(name) for name in names)


def test_scripts_stay_short_enough_to_copy():
    for script in ANALYSIS.glob("*.py"):
        assert len(script.read_text().splitlines()) <= 45
