"""A figure as part of the page, drawn once, and as files for a paper, at two widths.

The files keep title and note inside the picture. In the page these are text of the page, and its
colours follow the reader's light or dark.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import logging
import re
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lossbench import figures, processes, store
from lossbench.progress import progress

log = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
WIDTHS = {"": figures.TWO_COLUMNS, "_one_column": figures.ONE_COLUMN}
"""Widths of a paper's figures in inches, by what their files' names end with."""

PNG_DPI = {"": 200, "_one_column": 300}
MANY = 16
"""Fewer figures than this are drawn before other processes have started."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn, in this process or another.

    Attributes:
        name: Stem of its files.
        draw: A function of `figures` bound to its estimates; given the axes, or the only one.
        size: Arguments of `figures.page`.
        narrow: What is otherwise in one column of a paper.
        is_single: Whether `draw` takes one axes.
        context: What it is about, of several contexts; empty where it is about all.
        is_exact: Whether it shows no run, so that a sweep's size says nothing of it.
    """

    name: str
    draw: partial[Any]
    size: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, Any] = field(default_factory=lambda: {"columns": 2})
    is_single: bool = False
    context: str = ""
    is_exact: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the page.

    Attributes:
        name: Stem of its files.
        context: As in `Drawing`.
        title: The question that it answers.
        note: Its caption, with n and the kind of interval.
        drawn: The drawing as SVG.
    """

    name: str
    context: str
    title: str
    note: str
    drawn: Markup

    @property
    def files(self) -> list[tuple[str, str]]:
        """Kind and name of each file that `save` writes of it."""
        return files(self.name)


def files(name: str) -> list[tuple[str, str]]:
    """Kind and name of each file of a figure."""
    return [(kind.upper(), f"{name}{ending}.{kind}") for ending in WIDTHS for kind in FORMATS]


@contextmanager
def of_page(
    folder: Path,
    drawings: Iterable[Drawing],
    *,
    workers: int,
    losses: Sequence[Mapping[str, str]] = (),
) -> Iterator[Callable[[], list[Picture]]]:
    """Begin to draw what the page shows; what was drawn alike before is read.

    The block goes on meanwhile, and is given what ends it: the pictures in their order.

    Args:
        folder: Of the report, whose `pictures.json` has what was drawn before.
        drawings: What to draw, the first while later ones are still computed; one that cannot be
            drawn is logged and left out.
        workers: Processes that draw; 1 draws in this one.
        losses: As `figures.style` takes them.
    """
    path = folder / "pictures.json"
    try:
        before = store.read_sealed(path)
    except store.StoreError:  # none yet, or torn: all is drawn
        before = {}
    every: list[Drawing] = []
    keys: dict[str, str] = {}

    def missing() -> Iterator[Drawing]:
        for drawing in drawings:
            every.append(drawing)
            keys[drawing.name] = key_of(drawing, losses)
            if keys[drawing.name] not in before:
                yield drawing

    def finish() -> list[Picture]:
        drawn = results()
        now = {
            keys[name]: before.get(keys[name]) or drawn[name]
            for name in keys
            if keys[name] in before or name in drawn
        }
        if now != before:
            store.write(path, store.sealed(now))
        return [
            Picture(one.name, one.context, title, note, Markup(svg))
            for one in every
            if keys[one.name] in now
            for title, note, svg in [now[keys[one.name]]]
        ]

    with _each(partial(_draw, losses), missing(), workers=workers) as results:
        yield finish


def save(
    folder: Path,
    drawings: Sequence[Drawing],
    *,
    workers: int,
    losses: Sequence[Mapping[str, str]] = (),
    across: str = "",
) -> dict[str, str]:
    """Draw all and write their files; the title of each that could be drawn, by its name.

    Args:
        folder: Where the files go.
        drawings: What to draw; one that cannot be drawn is logged and left out.
        workers: Processes that draw; 1 draws in this one.
        losses: As `figures.style` takes them.
        across: Written across each that is not exact, as `figures.stamp` does.
    """
    with _each(partial(_save, folder, losses, across), drawings, workers=workers) as results:
        return results()


def key_of(drawing: Drawing, losses: Sequence[Mapping[str, str]]) -> str:
    """Hex sha256 over all that decides how a figure looks: numbers, colours, size, and our code."""
    colors = [sorted(families.items()) for families in losses]
    parts = [drawing.name, drawing.draw, drawing.size, drawing.is_single]
    return store.sha256(json.dumps([store.code_sha(), colors, *parts], default=_as_json).encode())


def _as_json(value: Any) -> Any:
    """A part of a key as JSON knows it, numbers of tables as the hash of their bytes.

    Raises:
        TypeError: It is of a kind that no figure was bound to so far: say here what counts of it.
    """
    if isinstance(value, partial):
        function = f"{value.func.__module__}.{value.func.__qualname__}"
        return [function, value.args, value.keywords]
    if isinstance(value, pd.DataFrame):
        columns = [value.iloc[:, place] for place in range(value.shape[1])]
        return [[*value.columns], value.index, *(column.array for column in columns)]
    if isinstance(value, pd.Series):
        return [value.name, value.index, value.array]
    if isinstance(value, pd.Index):
        return [value.name, value.array]
    if isinstance(value, pd.Categorical):
        return [[*value.categories], value.ordered, value.codes]
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return [str(value.dtype), value.to_numpy()]
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return [value.shape, value.ravel().tolist()]
        return [str(value.dtype), value.shape, store.sha256(value.tobytes())]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a figure bound to a {type(value).__name__} has no key")


@contextmanager
def _each(
    act: Callable[[Drawing], Any], drawings: Iterable[Drawing], *, workers: int
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Begin to act on each drawing.

    The block is given what waits for the results, by name of the drawing; one that breaks is logged
    and left out.
    """
    attempt = partial(_made_or_reason, act)
    drawings = _unlike_in_name(drawings)
    first = [*itertools.islice(drawings, MANY)]
    if workers == 1 or len(first) < MANY:
        every = [*first, *drawings]
        yield partial(_results, every, map(attempt, every))
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context(processes.START_METHOD),
        initializer=_begin_to_draw,
        initargs=processes.inherited(),
    ) as pool:
        try:
            submitted = [
                (drawing, _submitted(pool, attempt, drawing))
                for drawing in itertools.chain(first, drawings)
            ]
            every = [drawing for drawing, _ in submitted]
            yield partial(_results, every, _or_here(submitted, attempt))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _unlike_in_name(drawings: Iterable[Drawing]) -> Iterator[Drawing]:
    names = set()
    for drawing in drawings:
        name = drawing.name.casefold()
        assert name not in names, f"two figures would share the files of {drawing.name}"
        names.add(name)
        yield drawing


def _results(drawings: Sequence[Drawing], attempts: Iterable[tuple[Any, str]]) -> dict[str, Any]:
    by_name = {}
    with progress(len(drawings), unit="figure", title="drawing") as bar:
        for drawing, (result, reason) in zip(drawings, attempts, strict=True):
            if reason:
                message = "figure %s could not be drawn, please report it: %s"
                log.error(message, drawing.name, reason)
            else:
                by_name[drawing.name] = result
            bar.update()
    return by_name


def _begin_to_draw(environment: dict[str, str], mask: int) -> None:
    # A figure is a net of objects that Python would search for circles some fifty times.
    gc.freeze()
    gc.set_threshold(100_000)
    processes.inherit(environment, mask)
    processes.end_with_parent()
    # So the pool ends it when another of its processes was killed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _submitted(
    pool: ProcessPoolExecutor, attempt: Callable[[Drawing], Any], drawing: Drawing
) -> Future[Any]:
    """The future of a drawing, which has failed where the pool is broken already."""
    try:
        with processes.beginning([__name__]):
            return pool.submit(attempt, drawing)
    except BrokenExecutor as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _or_here(
    submitted: Sequence[tuple[Drawing, Future[Any]]], attempt: Callable[[Drawing], Any]
) -> Iterator[Any]:
    """The results of a pool; where one of its processes is killed, the rest is made here."""

    def broken() -> BaseException | None:
        errors = (future.exception() for _, future in submitted if future.done())
        return next((error for error in errors if isinstance(error, BrokenExecutor)), None)

    is_said = False
    for drawing, future in submitted:
        # What is submitted at the moment when a pool breaks may never be answered.
        while not wait([future], timeout=1.0).done and not broken():
            pass
        if future.done() and not isinstance(future.exception(), BrokenExecutor):
            yield future.result()
            continue
        if not is_said:
            log.warning("a process that draws ended (%s): this one draws the rest", broken())
        is_said = True
        yield attempt(drawing)


def _made_or_reason(act: Callable[[Drawing], Any], drawing: Drawing) -> tuple[Any, str]:
    """What was made, or why it was not: one figure that breaks must not cost the page."""
    try:
        return act(drawing), ""
    except store.StoreError:
        raise
    except Exception:
        return None, traceback.format_exc()


def _draw(losses: Sequence[Mapping[str, str]], drawing: Drawing) -> list[str]:
    """Title, note and SVG of a figure in the page."""
    with figures.style(drawing.name, losses=losses):
        figure = _laid_out(drawing, "")
        strips, svg = figures.strips(figure), svg_of(figure)
    inside = (72 * strips.top, 72 * strips.bottom)
    return [
        strips.title,
        strips.note,
        inline(svg, f"{strips.title} {strips.note}", cut=inside),
    ]


def _save(folder: Path, losses: Sequence[Mapping[str, str]], across: str, drawing: Drawing) -> str:
    """Write the files of a figure; returns its title."""
    title = ""
    for ending in WIDTHS:
        name = drawing.name + ending
        with figures.style(name, losses=losses):
            figure = _laid_out(drawing, ending)
            title = figures.strips(figure).title
            if across and not drawing.is_exact:
                figures.stamp(figure, across)
            for kind, content in _encode(figure).items():
                store.write(folder / f"{name}.{kind}", content)
    return title


def _laid_out(drawing: Drawing, ending: str) -> Figure:
    """A figure at one of `WIDTHS`, laid out once where `savefig` would for each format."""
    narrow = drawing.narrow if ending else {}
    figure, axes = figures.page(**{**drawing.size, "width": WIDTHS[ending], **narrow})
    drawing.draw(axes[0] if drawing.is_single else axes)
    figure.set_dpi(PNG_DPI[ending])
    _fix_layout(figure)
    return figure


def _fix_layout(figure: Figure) -> None:
    """Equal numbers give equal bytes."""
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's solver is exact to rounding only
        left, bottom, width, height = (round(number, 4) for number in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))


def _encode(figure: Figure) -> dict[str, bytes]:
    """A figure in each of `FORMATS`."""
    png, pdf = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "svg": svg_of(figure).encode(), "pdf": pdf.getvalue()}


def svg_of(figure: Figure) -> str:
    """A figure as SVG, its letters as letters."""
    content, dpi = io.BytesIO(), figure.dpi
    with mpl.rc_context({"svg.fonttype": "none", "path.simplify_threshold": 0.4}):
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    figure.set_dpi(dpi)  # matplotlib leaves it at 72
    return content.getvalue().decode()


def inline(svg: str, title: str, *, cut: tuple[float, float] = (0.0, 0.0)) -> Markup:
    """An SVG of matplotlib as part of a page: its own ids only, numbers to a hundredth of a point.

    Args:
        svg: The file's content, drawn within `figures.style` of a name of its own.
        title: What a reader who does not see it is told.
        cut: What of it is left out, above and below, points.
    """
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    body = svg[re.search(r"<svg[^>]*>", svg).end() :]  # type: ignore[union-attr]
    for useless in (
        r'<g id="(title|note)">.*?</g>',
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"<!--.*?-->",
        r'(?<=<g) id="[^"]*"',
        r"font-family:[^;\"]*;? ?",
        r' transform="rotate\(-0 [^"]*"',
        r"(?<=>)\s+(?=<)",
    ):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _shorten(tag[0]), body)
    top, bottom = cut
    view = f"0 {top:.1f} {width:.0f} {height - top - bottom:.1f}"
    return Markup(f'<svg role="img" aria-label="{escape(title)}" viewBox="{view}">{body}')


def _shorten(tag: str) -> str:
    """A tag of an SVG with fewer decimals, and colours as properties of CSS, see `palette`."""
    tag = " ".join(re.sub(r"(\.\d\d)\d+", r"\1", tag).split())
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda color: COLORS.get(color[0], color[0]), tag)


COLORS = {day.lower(): f"var(--c{day[1:].lower()})" for day in figures.NIGHT}


def with_classes(pictures: Sequence[Picture]) -> tuple[Markup, list[Picture]]:
    """Rules of CSS, and the pictures with a class in the place of each style: a third smaller."""
    text = "".join(picture.drawn for picture in pictures)
    styles = Counter(re.findall(r' style="([^"]*)"', text)).most_common()
    names = {style: f"k{rank}" for rank, (style, _) in enumerate(styles)}
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())

    def classed(svg: Markup) -> Markup:
        return Markup(re.sub(r' style="([^"]*)"', lambda s: f' class="{names[s[1]]}"', svg))

    return Markup(rules), [replace(picture, drawn=classed(picture.drawn)) for picture in pictures]


def palette(*, is_night: bool) -> Markup:
    """The colours of the figures as properties of CSS, by day or by night."""
    colors = {day.lower(): (night if is_night else day) for day, night in figures.NIGHT.items()}
    return Markup("".join(f"--c{day[1:]}:{color};" for day, color in colors.items()))
