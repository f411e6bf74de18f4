"""A report that would be the same is left; of another one only what changed is drawn."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import until
from sweep_on_disk import build, own

from lossbench import figures, records, store
from lossbench.figures import layout
from lossbench.report import edition, page, pictures, sections

LOSSES = {"mse": "power", "mae": "power"}
DRAWN = ("contexts", "dynamics")


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "small", own(LOSSES, data="diabetes"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep with its report, for who leaves both as they were."""
    folder = build(tmp_path_factory.mktemp("written") / "small", own(LOSSES, data="diabetes"))
    page.write(folder, drawn_in=["verdicts"])
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """Names of the figures that were drawn, in this process."""
    names, draw = [], pictures._draw

    def noted(losses, drawing):
        names.append(drawing.name)
        return draw(losses, drawing)

    monkeypatch.setattr(pictures, "_draw", noted)
    return names


def current(folder, *, drawn_in=("verdicts",), has_figures=False):
    return edition.current(folder, sections=drawn_in, has_figures=has_figures)


# ---- the key of a figure -------------------------------------------------------------------------

LINE = pd.DataFrame({"loss": ["mse", "mae"], "value": [1.0, np.nan], "n": [3, 4]})


def drawing(frame=LINE, **changes):
    usual = pictures.Drawing("f", partial(figures.forest, frame, reference="mse"), {"height": 1.0})
    return replace(usual, **changes)


FAMILIES = [{"mse": "power", "mae": "power"}]
OTHERS = {
    "a number": drawing(LINE.assign(value=[np.nextafter(1.0, 2), np.nan])),
    "a number there is none of": drawing(LINE.assign(value=[1.0, 2.0])),
    "a word": drawing(LINE.assign(loss=["mse", "huber"])),
    "a type": drawing(LINE.assign(n=[3.0, 4.0])),
    "a column's name": drawing(LINE.rename(columns={"value": "values"})),
    "an order of rows": drawing(LINE.iloc[::-1]),
    "an order of categories": drawing(LINE.astype({"loss": pd.CategoricalDtype(["mse", "mae"])})),
    "one array more": drawing(LINE.assign(n=pd.Series([np.arange(2), np.arange(3)]))),
    "a title": drawing(draw=partial(figures.forest, LINE, reference="mse", question="Is it?")),
    "an argument": drawing(draw=partial(figures.forest, LINE, reference="mae")),
    "another figure": drawing(draw=partial(figures.verdict_map, LINE, reference="mse")),
    "a size": drawing(size={"height": 1.1}),
    "its axes": drawing(is_single=True),
    "a name": drawing(name="g"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_a_figure_shows_changes_its_key(what):
    assert pictures.key_of(OTHERS[what], FAMILIES) != pictures.key_of(drawing(), FAMILIES)


def test_whatever_colours_a_loss_changes_the_key():
    key = pictures.key_of(drawing(), FAMILIES)
    assert pictures.key_of(drawing(), [{"mse": "power", "mae": "robust"}]) != key
    assert pictures.key_of(drawing(), [{**FAMILIES[0], "huber": "power"}]) != key
    assert pictures.key_of(drawing(), [*FAMILIES, {"brier": "proper"}]) != key


def test_other_code_or_versions_change_the_key(monkeypatch):
    key = pictures.key_of(drawing(), FAMILIES)
    monkeypatch.setattr(store, "code_sha", lambda: "other")
    assert pictures.key_of(drawing(), FAMILIES) != key


def test_a_figure_bound_to_what_has_no_key_is_an_error():
    with pytest.raises(TypeError, match="bound to a object"):
        pictures.key_of(drawing(object()), FAMILIES)


def test_code_is_that_of_every_file_of_the_package_and_the_versions_beside_it(monkeypatch):
    sha = store.code_sha()
    fresh = subprocess.run(
        [sys.executable, "-c", "from lossbench import store; print(store.code_sha())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert fresh.stdout.strip() == sha
    monkeypatch.setattr(store.metadata, "version", lambda name: "0")
    assert store.code_sha.__wrapped__() != sha


# ---- what is drawn -------------------------------------------------------------------------------


def test_figures_are_drawn_once_and_the_page_is_the_one_that_is_drawn_anew(folder, drawn):
    first = page.write(folder, drawn_in=DRAWN).read_bytes()
    count = len(drawn)
    assert count > 1
    assert page.write(folder, drawn_in=DRAWN).read_bytes() == first
    assert len(drawn) == count
    (folder / "report" / "pictures.json").unlink()
    assert page.write(folder, drawn_in=DRAWN).read_bytes() == first
    assert drawn[count:] == drawn[:count]


@pytest.mark.exhaustive
def test_of_other_records_only_the_figures_that_differ_are_drawn(tmp_path, drawn):
    digits = own(dict.fromkeys(("brier", "cross_entropy"), "proper"))
    whole = [*own(LOSSES, data="diabetes"), *digits]
    fewer = [run for run in whole if (run.data, run.loss, run.seed) != ("diabetes", "mae", 0)]
    first, second = (
        build(tmp_path / name / "small", runs) for name, runs in (("a", whole), ("b", fewer))
    )
    page.write(first, drawn_in=["contexts"])
    assert sorted(drawn) == ["forest_diabetes_mlp", "forest_digits_mlp"]
    store.write(second / "report/pictures.json", (first / "report/pictures.json").read_bytes())
    drawn.clear()
    text = page.write(second, drawn_in=["contexts"]).read_text()
    assert drawn == ["forest_diabetes_mlp"]
    (second / "report" / "pictures.json").unlink()
    assert page.write(second, drawn_in=["contexts"]).read_text() == text


@pytest.mark.parametrize("end", [0, -2])
def test_a_torn_file_of_pictures_is_drawn_anew(written, drawn, end):
    path = written / "report" / "pictures.json"
    first, whole = (written / "report" / "index.html").read_bytes(), path.read_bytes()
    path.write_bytes(whole[:end])
    assert page.write(written, drawn_in=["verdicts"]).read_bytes() == first
    assert path.read_bytes() == whole
    assert drawn == ["forest_diabetes_mlp"]


# ---- whether anything changed --------------------------------------------------------------------


def test_a_report_is_current_until_a_record_changes(folder):
    assert current(folder) is None
    page.write(folder, drawn_in=["verdicts"])
    assert "minus mse" in current(folder)["answer"]
    (pack, *_) = records.load(folder).pack_dirs
    commit = store.committed(pack)
    assert commit is not None
    store.write(pack / store.COMMIT, store.sealed({**commit, "more": 1}))
    assert current(folder) is None


def test_what_is_committed_while_a_report_is_written_is_in_the_next_one(folder):
    loaded = records.load(folder)
    (pack, *_) = loaded.pack_dirs
    commit = store.committed(pack)
    assert commit is not None
    store.write(pack / store.COMMIT, store.sealed({**commit, "more": 1}))
    page.write(loaded, drawn_in=["verdicts"])
    assert current(folder) is None
    page.write(folder, drawn_in=["verdicts"])
    assert current(folder)


@pytest.mark.parametrize("name", ["index.html", "tables/verdicts.csv", "paper/methods.md"])
def test_a_report_that_was_edited_or_lost_a_file_is_not_current(written, name):
    path = written / "report" / name
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    assert current(written) is None
    path.unlink()
    assert current(written) is None
    path.write_bytes(content)
    assert current(written)


@pytest.mark.parametrize("end", [0, 100, -2])
def test_a_torn_edition_is_none(written, end):
    path = written / "report" / edition.FILE
    content = path.read_bytes()
    path.write_bytes(content[:end])
    assert current(written) is None
    path.write_bytes(content)
    assert current(written)


@pytest.mark.exhaustive
def test_a_report_is_current_for_who_asks_for_less_and_not_for_who_asks_for_more(folder):
    page.write(folder, drawn_in=["verdicts"])
    assert current(folder, drawn_in=[])
    assert current(folder, drawn_in=tuple(sections.SECTIONS)) is None
    assert current(folder, has_figures=True) is None
    page.write(folder, drawn_in=["verdicts"], has_figures=True)
    assert current(folder)
    assert current(folder, has_figures=True)


def test_other_code_is_another_report(written, monkeypatch):
    assert current(written)
    monkeypatch.setattr(store, "code_sha", lambda: "other")
    assert current(written) is None


@pytest.mark.exhaustive
def test_processes_draw_what_this_one_does_while_it_goes_on(tmp_path):
    rows = pd.DataFrame({"metric": ["nll", "ece"]})
    drawings = [
        pictures.Drawing(f"f{place}", partial(titled, rows, place=place), {"height": 1.0}, {}, True)
        for place in range(pictures.MANY)
    ]
    pages = []
    for workers in (1, 2):
        with pictures.of_page(tmp_path / str(workers), drawings, workers=workers) as finish:
            pages.append(finish())
    assert pages[0] == pages[1]
    assert [one.title for one in pages[0]] == [f"Is it {place}?" for place in range(pictures.MANY)]


def titled_with_a_mark(rows, ax, *, place, mark):
    Path(mark).touch()
    titled(rows, ax, place=place)


def drawn_one_by_one(mark, *, waits_for):
    """Drawings of which the last comes when `waits_for` is true."""
    rows = pd.DataFrame({"metric": ["nll", "ece"]})
    for place in range(pictures.MANY + 1):
        if place == pictures.MANY:
            until(waits_for, 60, "the first figure, drawn meanwhile")
        draw = partial(titled_with_a_mark, rows, place=place, mark=str(mark))
        yield pictures.Drawing(f"f{place}", draw, {"height": 1.0}, {}, True)


def test_the_first_figures_are_drawn_while_the_last_are_not_known_yet(tmp_path):
    mark = tmp_path / "mark"
    drawings = drawn_one_by_one(mark, waits_for=mark.exists)
    with pictures.of_page(tmp_path, drawings, workers=2) as finish:
        assert len(finish()) == pictures.MANY + 1


def test_a_judgement_that_breaks_while_others_draw_ends_the_page(tmp_path):
    mark = tmp_path / "mark"

    def broken():
        until(mark.exists, 60, "the first figure, drawn meanwhile")
        raise ValueError("no verdict")

    drawings = drawn_one_by_one(mark, waits_for=broken)
    with (
        pytest.raises(ValueError, match="no verdict"),
        pictures.of_page(tmp_path, drawings, workers=2),
    ):
        pass
    until(lambda: not multiprocessing.active_children(), 60, "the end of those that draw")


def titled(rows, ax, *, place):
    ax.plot(range(len(rows)))
    layout.frame(ax.figure, f"Is it {place}?", "n = 1")


def titled_by_blocked_signals(rows, ax):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    layout.frame(ax.figure, f"{os.getpid()} {signal.SIGTERM in blocked}", "n = 1")
    ax.plot(range(len(rows)))


def test_a_process_that_draws_can_be_ended_by_its_pool(tmp_path):
    rows = pd.DataFrame({"metric": ["nll", "ece"]})
    draw = partial(titled_by_blocked_signals, rows)
    drawings = [
        pictures.Drawing(f"f{place}", draw, {"height": 1.0}, {}, True)
        for place in range(pictures.MANY)
    ]
    with pictures.of_page(tmp_path, drawings, workers=2) as finish:
        processes, blocks = zip(*(one.title.split() for one in finish()), strict=True)
    assert str(os.getpid()) not in processes
    assert {*blocks} == {"False"}


def titled_unless_killed(rows, ax, *, place, mark, parent):
    """Draws; the first process but `parent` that comes here is killed."""
    if os.getpid() != parent and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    titled(rows, ax, place=place)


@pytest.mark.timeout(120)
@pytest.mark.exhaustive
def test_a_process_that_is_killed_while_others_are_computed_costs_no_figure(tmp_path, caplog):
    rows = pd.DataFrame({"metric": ["nll", "ece"]})
    mark = tmp_path / "mark"
    draw = partial(titled_unless_killed, rows, mark=str(mark), parent=os.getpid())

    def drawings():
        for place in range(pictures.MANY + 4):
            if place == pictures.MANY:
                until(mark.exists, 60, "a process that is killed")
                time.sleep(0.5)  # the pool finds it out
            yield pictures.Drawing(
                f"f{place}", partial(draw, place=place), {"height": 1.0}, {}, True
            )

    with pictures.of_page(tmp_path, drawings(), workers=2) as finish:
        assert len(finish()) == pictures.MANY + 4
    assert caplog.text.count("this one draws the rest") == 1


@pytest.mark.timeout(120)
def test_a_process_that_is_killed_while_it_draws_costs_no_figure(tmp_path, caplog):
    rows = pd.DataFrame({"metric": ["nll", "ece"]})
    draw = partial(titled_unless_killed, rows, mark=str(tmp_path / "mark"), parent=os.getpid())
    drawings = [
        pictures.Drawing(f"f{place}", partial(draw, place=place), {"height": 1.0}, {}, True)
        for place in range(pictures.MANY)
    ]
    with pictures.of_page(tmp_path, drawings, workers=2) as finish:
        drawn = finish()
    assert [one.title for one in drawn] == [f"Is it {place}?" for place in range(pictures.MANY)]
    assert "this one draws the rest" in caplog.text
