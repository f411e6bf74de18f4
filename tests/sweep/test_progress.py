"""What is said of a training's progress where nobody looks at a terminal."""

from __future__ import annotations

import logging

from lossbench.sweep.progress import progress


def test_off_a_terminal_progress_is_a_line_and_a_bar_without_a_title_none(caplog, capfd):
    caplog.set_level(logging.INFO)
    with progress(10, unit="run", title="training") as bar:
        bar.refresh()  # nothing has ended
        bar.update(3)
        bar.refresh()
    with progress(10, unit="run", title="") as bar:
        bar.update(3)
        bar.refresh()
    (line,) = caplog.messages
    assert line.startswith("training: 3 of 10 runs, 00:00 gone, ")
    assert capfd.readouterr() == ("", "")
