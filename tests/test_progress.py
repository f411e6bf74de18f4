"""What is said of a training's progress where nobody looks at a terminal."""

from __future__ import annotations

import logging
import time

from lossbench.progress import progress


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


def test_a_line_comes_also_while_no_run_has_ended(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("lossbench.progress.PAUSE", 0.01)
    with progress(10, unit="run", title="training") as bar:
        time.sleep(0.02)
        bar.update(0)
    assert caplog.messages[0].startswith("training: 0 of 10 runs, 00:00 gone, ")
