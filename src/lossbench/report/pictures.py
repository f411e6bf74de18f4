"""A figure as files for a paper, and as part of the page: laid out once for each width.

The files keep title and note inside the picture. In the page these are text of the page, and its
colours follow the reader's light or dark.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tqdm import tqdm

from lossbench import figures, store

log = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
WIDTHS = {"": figures.TWO_COLUMNS, "_one_column": figures.ONE_COLUMN}
"""Widths of a paper's figures in inches, by what their files' names end with."""

PNG_DPI = {"": 200, "_one_column": 300}
MANY = 8
"""Fewer figures than this are drawn before other processes have started."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn, in this process or another.

    Attributes:
        name: Stem of its files.
        draw: Given the axes, or the only one of them.
        size: Arguments of `figures.page`.
        narrow: What is otherwise in one column of a paper.
        is_single: Whether `draw` takes one axes.
        task: What it is about, of several tasks; empty where it is about all.
    """

    name: str
    draw: Callable[..., Any]
    size: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, Any] = field(default_factory=lambda: {"columns": 2})
    is_single: bool = False
    task: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the page.

    Attributes:
        name: Stem of its files.
        task: As in `Drawing`.
        title: The question that it answers.
        note: Its caption, with n and the kind of interval.
        drawn: The drawing as SVG, wide and narrow.
    """

    name: str
    task: str
    title: str
    note: str
    drawn: tuple[Markup, ...]

    @property
    def files(self) -> Iterator[tuple[str, str]]:
        """Kind and name of each file."""
        for ending in WIDTHS:
            for kind in FORMATS:
                yield kind.upper(), f"{self.name}{ending}.{kind}"


def draw_all(
    folder: Path,
    drawings: Sequence[Drawing],
    *,
    workers: int,
    losses: Sequence[Mapping[str, str]] = (),
) -> list[Picture]:
    """Draw all, save their files, and return what the page shows of them, in their order.

    Args:
        folder: Where the files go.
        drawings: What to draw; one that cannot be drawn is logged and left out.
        workers: Processes that draw; 1 draws in this one.
        losses: As `figures.style` takes them.
    """
    names = Counter(drawing.name.casefold() for drawing in drawings)
    assert not names or max(names.values()) == 1, "two figures would share their files"
    bar = partial(tqdm, total=len(drawings), unit="figure", disable=None, leave=False)
    draw = partial(_draw_or_explain, folder, losses)
    if workers == 1 or len(drawings) < MANY:
        results = list(bar(map(draw, drawings)))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            results = list(bar(pool.map(draw, drawings, chunksize=1)))
    for drawing, result in zip(drawings, results, strict=True):
        if isinstance(result, str):
            log.error("figure %s could not be drawn, please report it: %s", drawing.name, result)
    return [result for result in results if isinstance(result, Picture)]


def _draw_or_explain(
    folder: Path, losses: Sequence[Mapping[str, str]], drawing: Drawing
) -> Picture | str:
    """The picture, or why there is none: one figure that breaks must not cost the page."""
    try:
        return _draw(folder, losses, drawing)
    except store.StoreError:
        raise
    except Exception:
        return traceback.format_exc()


def _draw(folder: Path, losses: Sequence[Mapping[str, str]], drawing: Drawing) -> Picture:
    strips, svgs = None, []
    for ending, width in WIDTHS.items():
        name, size = drawing.name + ending, {**drawing.size, "width": width}
        size |= drawing.narrow if ending else {}
        with figures.style(name, losses=losses):
            figure, axes = figures.page(**size)
            drawing.draw(axes[0] if drawing.is_single else axes)
            figure.set_dpi(PNG_DPI[ending])
            _fix_layout(figure)
            strips, svg = figures.strips(figure), svg_of(figure)
            for kind, content in {"svg": svg.encode(), **_encode(figure)}.items():
                store.write(folder / f"{name}.{kind}", content)
        inside = (72 * strips.top, 72 * strips.bottom)
        svgs.append(inline(svg, f"{strips.title} {strips.note}", cut=inside))
    assert strips is not None
    return Picture(drawing.name, drawing.task, strips.title, strips.note, tuple(svgs))


def _fix_layout(figure: Figure) -> None:
    """Lay out once, where `savefig` would for each format; equal runs give equal bytes."""
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's solver is exact to rounding only
        left, bottom, width, height = (round(number, 4) for number in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))


def _encode(figure: Figure) -> dict[str, bytes]:
    """PNG and PDF of a figure."""
    png, pdf = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


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
    text = "".join(svg for picture in pictures for svg in picture.drawn)
    styles = Counter(re.findall(r' style="([^"]*)"', text)).most_common()
    names = {style: f"k{rank}" for rank, (style, _) in enumerate(styles)}
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())

    def classed(svg: Markup) -> Markup:
        return Markup(re.sub(r' style="([^"]*)"', lambda s: f' class="{names[s[1]]}"', svg))

    return Markup(rules), [
        replace(picture, drawn=tuple(map(classed, picture.drawn))) for picture in pictures
    ]


def palette(*, is_night: bool) -> Markup:
    """The colours of the figures as properties of CSS, by day or by night."""
    colors = {day.lower(): (night if is_night else day) for day, night in figures.NIGHT.items()}
    return Markup("".join(f"--c{day[1:]}:{color};" for day, color in colors.items()))
