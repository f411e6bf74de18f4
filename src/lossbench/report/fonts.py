"""A font that embeds quickly: DejaVu Sans without what no figure needs.

A PDF for a paper embeds its letters, and cutting them out of the whole font takes longer than
drawing the figure. A font with a few hundred letters and no tables for joining them takes a tenth.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
from fontTools import subset, ttLib
from matplotlib import font_manager

NAME = "lossbench DejaVu"
LETTERS = [*range(0x20, 0x530), *range(0x1E00, 0x2500), *range(0x25A0, 0x2600)]
"""Latin, Greek, Cyrillic, punctuation, arrows, mathematics, shapes; the rest is DejaVu Sans."""

FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")


@functools.cache
def families() -> tuple[str, str]:
    """Families of fonts in the order to look for a letter, ours made for this process."""
    folder = Path(tempfile.mkdtemp(prefix="lossbench"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for face in FACES:
        _slim(Path(mpl.get_data_path()) / "fonts" / "ttf" / face, folder / face)
        font_manager.fontManager.addfont(folder / face)
    return NAME, "DejaVu Sans"


def _slim(source: Path, path: Path) -> None:
    options = subset.Options(layout_features=[], hinting=True, name_IDs=["*"], notdef_outline=True)
    options.drop_tables += ["GPOS", "GSUB", "GDEF", "MATH", "FFTM"]
    font = ttLib.TTFont(source, recalcTimestamp=False)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=LETTERS)
    cutter.subset(font)
    for record in font["name"].names:  # type: ignore[attr-defined]
        if record.nameID in (1, 16):
            record.string = NAME
    font.save(path)
