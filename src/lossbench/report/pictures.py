"""A figure as files for a paper, and as part of the page: drawn once for each width.

The files keep title and note inside the picture. In the page these are text of the page, the
letters of the picture are letters, and its colours follow the reader's light or dark.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tqdm import tqdm

from lossbench import figures, store
from lossbench.report import fonts

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


def all_drawn(
    folder: Path,
    drawings: Sequence[Drawing],
    *,
    workers: int,
    losses: Collection[tuple[str, str]] = frozenset(),
) -> list[Picture]:
    """Draw all, save their files, and return what the page shows of them, in their order.

    Args:
        folder: Where the files go.
        drawings: What to draw; one that cannot be drawn is told of and left out.
        workers: Processes that draw; 1 draws in this one.
        losses: As `figures.style` takes them.
    """
    names = Counter(drawing.name.casefold() for drawing in drawings)
    assert not names or max(names.values()) == 1, "two figures would share their files"
    bar = partial(tqdm, total=len(drawings), unit="figure", disable=None, leave=False)
    draw = partial(_attempt, folder, losses)
    if workers == 1 or len(drawings) < MANY:
        found = [*bar(map(draw, drawings))]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = [*bar(pool.map(draw, drawings, chunksize=1))]
    for drawing, picture in zip(drawings, found, strict=True):
        if isinstance(picture, str):
            log.error("figure %s could not be drawn, please report it: %s", drawing.name, picture)
    return [picture for picture in found if isinstance(picture, Picture)]


def _attempt(folder: Path, losses: Collection[tuple[str, str]], drawing: Drawing) -> Picture | str:
    """The picture, or why there is none: one figure that breaks must not cost the page."""
    try:
        return _picture(folder, losses, drawing)
    except store.StoreError:
        raise
    except Exception:
        return traceback.format_exc()


def _picture(folder: Path, losses: Collection[tuple[str, str]], drawing: Drawing) -> Picture:
    strips, drawn = None, []
    for ending, width in WIDTHS.items():
        name, size = drawing.name + ending, {**drawing.size, "width": width}
        size |= drawing.narrow if ending else {}
        with (
            figures.style(name, losses=losses),
            mpl.rc_context({"font.sans-serif": fonts.families()}),
        ):
            figure, axes = figures.page(**size)
            drawing.draw(axes[0] if drawing.is_single else axes)
            figure.set_dpi(PNG_DPI[ending])
            for kind, content in _encoded(figure).items():
                store.write(folder / f"{name}.{kind}", content)
            strips = figures.strips(figure)
            drawn.append(inlined(_bare(figure), name, f"{strips.title} {strips.note}"))
    assert strips is not None
    return Picture(drawing.name, drawing.task, strips.title, strips.note, tuple(drawn))


# ---- files ---------------------------------------------------------------------------------------


def _encoded(figure: Figure) -> dict[str, bytes]:
    """The figure by format; drawn once each, where `savefig` would draw twice and lay out anew."""
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's solver is exact to rounding only; equal runs, equal bytes
        left, bottom, width, height = (round(number, 4) for number in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))
    png, pdf = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "svg": _svg(figure), "pdf": pdf.getvalue()}


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    return content.getvalue()


def _bare(figure: Figure) -> str:
    """The SVG without title and note, its letters as letters."""
    strips = figures.strips(figure)
    for text in figure.texts:
        text.set_visible(False)
    with mpl.rc_context({"svg.fonttype": "none", "path.simplify_threshold": 0.4}):
        svg = _svg(figure).decode()
    width, height = (72 * side for side in figure.get_size_inches())
    top, rest = 72 * strips.top, height - 72 * (strips.top + strips.bottom)
    view = f'viewBox="0 {top:.1f} {width:.0f} {rest:.1f}"'
    return re.sub(r'viewBox="[^"]*"', view, svg, count=1)


# ---- the page ------------------------------------------------------------------------------------


def inlined(svg: str, name: str, title: str) -> Markup:
    """An SVG of matplotlib as part of a page: ids unique, nothing in it that draws nothing.

    Args:
        svg: The file's content.
        name: Makes its ids differ from those of other figures.
        title: What a reader who does not see it is told.
    """
    root = ElementTree.fromstring(svg)
    used = {*re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)}
    own = {ref: f"f{store.sha256(name.encode())[:8]}-{i}" for i, ref in enumerate(_flat(used))}
    body = "".join(_markup(child, own) for child in root)
    view = escape(root.get("viewBox", ""))
    return Markup(f'<svg role="img" aria-label="{escape(title)}" viewBox="{view}">{body}</svg>')


def _flat(found: set[tuple[str, ...]]) -> list[str]:
    return sorted({name for names in found for name in names if name})


def _markup(node: ElementTree.Element, own: Mapping[str, str]) -> str:
    """An element and what it holds; groups and metadata that draw nothing are left out."""
    tag = node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""
    if tag in ("", "metadata", "style"):
        return ""
    inner = "".join(_markup(child, own) for child in node)
    kept = {name.rpartition("}")[2]: value for name, value in node.attrib.items()}
    kept = {name: _attribute(name, value, own) for name, value in kept.items()}
    kept = {name: value for name, value in kept.items() if value}
    if tag == "g" and not kept:
        return inner
    told = "".join(f' {name}="{escape(value)}"' for name, value in kept.items())
    text = escape(node.text) if tag in ("text", "tspan") and node.text else ""
    return f"<{tag}{told}>{text}{inner}</{tag}>" if text or inner else f"<{tag}{told}/>"


def _attribute(name: str, value: str, own: Mapping[str, str]) -> str:
    if name == "id":
        return own.get(value, "")
    if value.startswith(("#", "url(#")):
        return re.sub(r"#([^)]+)", lambda ref: f"#{own[ref[1]]}", value)
    if name == "d":
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", _short(" ".join(value.split())))
    if name in ("x", "y", "width", "height"):
        return _short(value)
    if name == "transform":
        return "" if value.startswith("rotate(-0 ") else _short(value)
    if name == "style":
        return re.sub(r"\s*font-family: [^;]*;?|(?<=[;:]) +|;$", "", value)
    return value


def _short(numbers: str) -> str:
    """Numbers as exact as an eye can tell: a hundredth of a point, from ten on a tenth."""

    def rounded(number: re.Match[str]) -> str:
        value = float(number[0])
        return f"{value:.{1 if abs(value) >= 10 else 2}f}".rstrip("0").rstrip(".") or "0"

    return re.sub(r"-?\d+\.\d+", rounded, numbers)


def with_classes(pictures: Sequence[Picture]) -> tuple[Markup, list[Picture]]:
    """The pictures with each of their styles written once, as a class; its rules come first.

    Colours become properties `--c0072b2` and so on, see `palette`.
    """
    found = Counter(
        style
        for picture in pictures
        for svg in picture.drawn
        for style in re.findall(r' style="([^"]*)"', svg)
    )
    names = {style: f"k{rank}" for rank, (style, _) in enumerate(found.most_common())}
    rules = "".join(f".{name}{{{_with_properties(style)}}}\n" for style, name in names.items())

    def classed(svg: Markup) -> Markup:
        return Markup(re.sub(r' style="([^"]*)"', lambda s: f' class="{names[s[1]]}"', svg))

    return Markup(rules), [
        replace(picture, drawn=tuple(map(classed, picture.drawn))) for picture in pictures
    ]


def palette(*, is_night: bool) -> Markup:
    """The colours of the figures as properties of CSS, by day or by night."""
    colors = {day.lower(): (night if is_night else day) for day, night in figures.NIGHT.items()}
    return Markup("".join(f"--c{day[1:]}:{color};" for day, color in colors.items()))


def _with_properties(style: str) -> str:
    known = {color.lower() for color in figures.NIGHT}

    def named(color: re.Match[str]) -> str:
        return f"var(--c{color[0][1:]})" if color[0] in known else color[0]

    return re.sub(r"#[0-9a-f]{6}", named, style)
