"""Figures as parts of the page, each drawn once, and as files for a paper, at two widths.

The files have title and note inside the picture. In the page, title and note are HTML text, and
the colours follow the reader's light or dark theme.
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
from typing import Any, TypeVar

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
"""Widths of a paper's figures in inches, by the ending of the file stem."""

PNG_DPI = {"": 200, "_one_column": 300}
MANY = 16
"""Least number of figures for other processes; fewer are drawn before a process has started."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn, in this process or another.

    Attributes:
        name: Stem of the figure's files.
        draw: Function of `figures` bound to its estimates; takes a sequence of axes, or one axes.
        size: Arguments of `figures.page`.
        narrow: Arguments of `figures.page` that differ in one column of a paper.
        is_single: Whether `draw` takes one axes.
        context: Label of the context that the figure shows; empty if it shows all contexts.
        is_exact: Whether the figure shows no run, so that it is valid for a sweep of any size.
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
    """A figure in the page.

    Attributes:
        name: Stem of the figure's files.
        context: Label of the context, see `Drawing`.
        title: Question that the figure answers.
        note: Caption, with n and the kind of interval.
        drawn: The drawing as SVG.
    """

    name: str
    context: str
    title: str
    note: str
    drawn: Markup

    @property
    def files(self) -> list[tuple[str, str]]:
        """Kind and name of each file that `save` writes for the figure."""
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
    """Context in which the figures of a page are drawn; unchanged figures are read from a file.

    The block runs meanwhile. It gets a function that waits for the pictures and returns them in
    the order of the drawings.

    Args:
        folder: Folder of the report; its `pictures.json` has the figures of the last report.
        drawings: Figures to draw, the first while later ones are still computed; a figure that
            cannot be drawn is logged and left out.
        workers: Number of processes that draw; 1 draws in this process.
        losses: Families of losses, see `figures.style`.
    """
    path = folder / "pictures.json"
    try:
        before = store.read_sealed(path)
    except store.StoreError:  # missing or damaged: all figures are drawn
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
    """Draw figures and write their files; returns the title of each drawn figure by name.

    Args:
        folder: Folder of the files.
        drawings: Figures to draw; a figure that cannot be drawn is logged and left out.
        workers: Number of processes that draw; 1 draws in this process.
        losses: Families of losses, see `figures.style`.
        across: Word that `figures.stamp` writes across each figure that is not exact.
    """
    with _each(partial(_save, folder, losses, across), drawings, workers=workers) as results:
        return results()


def key_of(drawing: Drawing, losses: Sequence[Mapping[str, str]]) -> str:
    """Hex sha256 over all that determines a figure: numbers, colours, size, lossbench's code."""
    colors = [sorted(families.items()) for families in losses]
    parts = [drawing.name, drawing.draw, drawing.size, drawing.is_single]
    return store.sha256(json.dumps([store.code_sha(), colors, *parts], default=_as_json).encode())


def _as_json(value: Any) -> object:
    """Part of a key as a value that JSON can encode; numeric arrays become hashes of their bytes.

    Raises:
        TypeError: The value has a type that needs a new case here; no figure used that type so far.
    """
    if isinstance(value, partial):
        function = f"{value.func.__module__}.{value.func.__qualname__}"
        return [function, value.args, value.keywords]
    if isinstance(value, pd.DataFrame):
        return [[*value.columns], value.index, *(column.array for _, column in value.items())]
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
    act: Callable[[Drawing], Result], drawings: Iterable[Drawing], *, workers: int
) -> Iterator[Callable[[], dict[str, Result]]]:
    """Context in which `act` is called on each drawing.

    The block gets a function that waits for the results and returns them by name of the drawing. A
    drawing that raises an error is logged and left out.
    """

    def distinct() -> Iterator[Drawing]:
        names = set()
        for drawing in drawings:
            name = drawing.name.casefold()
            assert name not in names, f"two figures would share the files of {drawing.name}"
            names.add(name)
            yield drawing

    attempt, rest = partial(_made_or_reason, act), distinct()
    first = [*itertools.islice(rest, MANY)]
    if workers == 1 or len(first) < MANY:
        every = [*first, *rest]
        yield partial(_results, every, map(attempt, every))
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context(processes.START_METHOD),
        initializer=_begin_to_draw,
        initargs=processes.inherited(),
    ) as pool:
        try:
            submitted = []
            for drawing in itertools.chain(first, rest):
                try:
                    with processes.beginning([__name__]):
                        future = pool.submit(attempt, drawing)
                except BrokenExecutor as error:  # a process of the pool was killed before
                    future = Future()
                    future.set_exception(error)
                submitted.append((drawing, future))
            every = [drawing for drawing, _ in submitted]
            yield partial(_results, every, _or_here(submitted, attempt))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _results(
    drawings: Sequence[Drawing], attempts: Iterable[tuple[Result, str]]
) -> dict[str, Result]:
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
    # Python would search the many linked objects of a figure for cycles some fifty times.
    gc.freeze()
    gc.set_threshold(100_000)
    processes.inherit(environment, mask)
    processes.end_with_parent()
    # The pool ends this process by SIGTERM if another process of the pool was killed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _or_here(
    submitted: Sequence[tuple[Drawing, Future[Result]]], attempt: Callable[[Drawing], Result]
) -> Iterator[Result]:
    """Results of a pool; if one of its processes is killed, this process draws the rest."""

    def broken() -> BaseException | None:
        errors = (future.exception() for _, future in submitted if future.done())
        return next((error for error in errors if isinstance(error, BrokenExecutor)), None)

    is_said = False
    for drawing, future in submitted:
        # A future that was submitted while the pool broke may never be done.
        while not wait([future], timeout=1.0).done and not broken():
            pass
        if future.done() and not isinstance(future.exception(), BrokenExecutor):
            yield future.result()
            continue
        if not is_said:
            log.warning("a process that draws ended (%s): this one draws the rest", broken())
        is_said = True
        yield attempt(drawing)


def _made_or_reason(act: Callable[[Drawing], object], drawing: Drawing) -> tuple[Any, str]:
    """Result and no reason, or None and a traceback: a figure that fails must not stop the page."""
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
    title, note, inside = strips.title, strips.note, (72 * strips.top, 72 * strips.bottom)
    return [title, note, inline(svg, f"{title} {note}", cut=inside)]


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
            png, pdf = io.BytesIO(), io.BytesIO()
            FigureCanvasAgg(figure).print_png(png)
            FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
            contents = (png.getvalue(), svg_of(figure).encode(), pdf.getvalue())
            for kind, content in zip(FORMATS, contents, strict=True):
                store.write(folder / f"{name}.{kind}", content)
    return title


def _laid_out(drawing: Drawing, ending: str) -> Figure:
    """Figure at one of `WIDTHS`, laid out once; `savefig` would lay it out for each format.

    Positions are rounded, so that equal numbers give equal bytes.
    """
    narrow = drawing.narrow if ending else {}
    figure, axes = figures.page(**{**drawing.size, "width": WIDTHS[ending], **narrow})
    drawing.draw(axes[0] if drawing.is_single else axes)
    figure.set_dpi(PNG_DPI[ending])
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the solver of the layout is exact only up to rounding
        left, bottom, width, height = (round(number, 4) for number in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))
    return figure


def svg_of(figure: Figure) -> str:
    """Figure as SVG, in which text stays text and does not become paths."""
    content, dpi = io.BytesIO(), figure.dpi
    with mpl.rc_context({"svg.fonttype": "none", "path.simplify_threshold": 0.4}):
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    figure.set_dpi(dpi)  # `print_svg` has set it to 72
    return content.getvalue().decode()


def inline(svg: str, title: str, *, cut: tuple[float, float] = (0.0, 0.0)) -> Markup:
    """SVG of matplotlib as part of a page: without ids of groups, numbers to 0.01 points.

    Colours become CSS properties, see `palette`.

    Args:
        svg: Content of the file, drawn within `figures.style` with a name that no other has.
        title: Description for readers who do not see the picture.
        cut: Heights that are left out above and below, in points.
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

    def shorter(tag: re.Match[str]) -> str:
        text = " ".join(re.sub(r"(\.\d\d)\d+", r"\1", tag[0]).split())
        return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda color: COLORS.get(color[0], color[0]), text)

    body = re.sub(r"<[^>]*>", shorter, body)
    top, bottom = cut
    view = f"0 {top:.1f} {width:.0f} {height - top - bottom:.1f}"
    return Markup(f'<svg role="img" aria-label="{escape(title)}" viewBox="{view}">{body}')


COLORS = {day.lower(): f"var(--c{day[1:].lower()})" for day in figures.NIGHT}


def with_classes(pictures: Sequence[Picture]) -> tuple[Markup, list[Picture]]:
    """CSS rules, and the pictures with classes instead of styles, which are a third smaller."""
    text = "".join(picture.drawn for picture in pictures)
    styles = Counter(re.findall(r' style="([^"]*)"', text)).most_common()
    names = {style: f"k{rank}" for rank, (style, _) in enumerate(styles)}
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())

    def classed(svg: Markup) -> Markup:
        return Markup(re.sub(r' style="([^"]*)"', lambda s: f' class="{names[s[1]]}"', svg))

    return Markup(rules), [replace(picture, drawn=classed(picture.drawn)) for picture in pictures]


def palette(*, is_night: bool) -> Markup:
    """Colours of the figures as CSS properties, for a light page or, if `is_night`, a dark one."""
    colors = {day.lower(): (night if is_night else day) for day, night in figures.NIGHT.items()}
    return Markup("".join(f"--c{day[1:]}:{color};" for day, color in colors.items()))
