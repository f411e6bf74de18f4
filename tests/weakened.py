"""Weakens a promise, one line at a time, and says which test notices: `python tests/weakened.py`.

Each weakening is one literal replacement in a copy of the package. A suite that lets one live would
not have noticed had the line never been written. Takes some minutes; not part of the suite.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "lossbench"

START = """
import sys
from pathlib import Path

import lossbench
import pytest

assert Path(lossbench.__file__).is_relative_to(sys.argv[1]), lossbench.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""
"""The tests import the copy, not the installed package: that would catch nothing."""


@dataclass(frozen=True)
class Weakening:
    """One promise less.

    Attributes:
        what: In words.
        file: Below the package.
        old, new: Text and what stands there instead.
        suite: Tests that should notice, as pytest takes them.
    """

    what: str
    file: str
    old: str
    new: str
    suite: tuple[str, ...]


CLOSED = "    finally:\n        os.close(descriptor)\n\n\ndef _sync"
STORE, RESUME, FAULTS = ("test_store.py",), ("sweep/test_resume.py",), ("sweep/test_faults.py",)
COURSE = ("engine/test_course.py",)
WEAKENINGS = (
    Weakening("content is not synced before its name", "store.py",
              "        os.fsync(descriptor)\n" + CLOSED, CLOSED, STORE),
    Weakening("a file is written in place", "store.py",
              "_write_whole(temporary, content)\n            os.replace(temporary, path)",
              "_write_whole(path, content)", STORE),
    Weakening("sha256 of files is not checked", "store.py",
              "if sha256(content) != expected:", "if False:", STORE),
    Weakening("sha256 of records is not checked", "store.py",
              "if sha256(text) != seal and sha256(to_json(record)) != seal:", "if False:", STORE),
    Weakening("the record is written before its files", "store.py",
              "    for name, content in files.items():\n        write(pack_dir / name, content)\n",
              "", STORE),
    Weakening("sha256 of a plan's parts is not checked", "records/plan.py",
              "store.read_hashed(path, sha256, cure=cure)", "store.read_file(path)",
              ("sweep/test_plan.py",)),
    Weakening("locks hold nobody off", "store.py",
              "    except BlockingIOError:\n        return False",
              "    except BlockingIOError:\n        return True", FAULTS),
    Weakening("the optimizer's state is not in the checkpoint", "engine/state.py",
              '_write(values["optimizer"][name], buffers)', "pass", RESUME),
    Weakening("buffers that move are not in the checkpoint", "engine/state.py",
              '_write(values["buffers"], self.buffers)', "pass", RESUME),
    Weakening("the clock is not in the checkpoint", "engine/state.py",
              'self.clock.copy_(values["clock"])', "pass", RESUME),
    Weakening("who has diverged is not in the checkpoint", "engine/state.py",
              'self.alive.copy_(values["alive"])', "pass", RESUME),
    Weakening("what was measured before is not restored", "engine/recorder.py",
              "            self._steps += steps\n", "", RESUME),
    Weakening("other versions go on with a checkpoint", "sweep/training.py",
              'if record["made_by"] != self.made_by:', "if False:", RESUME),
    Weakening("gradients are clipped over the whole pack", "engine/update.py",
              "signal, gradient = output_gradient, gradient_of(output_gradient)\n",
              "signal, gradient = output_gradient, gradient_of(output_gradient)\n"
              "            norm = sum(s.square().sum() for s in gradient.values()).sqrt()\n"
              "            gradient = {n: s / norm.clamp(min=1.0) for n, s in gradient.items()}\n",
              ("engine/test_engine.py",)),
    Weakening("members that diverged are updated on", "engine/update.py",
              "lives is not None and all(lives[members])", "lives is not None",
              ("engine/test_strategies.py", "engine/test_engine.py")),
    Weakening("members that are computed together read the batch of the first", "engine/batches.py",
              "if order == [first] * count:", "if True:", ("engine/test_strategies.py",)),
    Weakening("a recording holds the learning rate of its step", "engine/update.py",
              "self.factors.index_select(0, state.clock)",
              'self.factors[len(vars(self).setdefault("n", [])) :][: 1 + bool(self.n.append(0))]',
              COURSE),
    Weakening("values of a recorded update are not copied", "engine/strategies/graph.py",
              "Logged(steps.clone(), layers.clone())", "Logged(steps, layers)", COURSE),
    Weakening("failed runs are retried for ever", "sweep/inventory.py",
              "and self.failures[run.run_id] <= allowed.get(run.run_id, 0)", "", RESUME),
    Weakening("a broken pack fails as a whole", "sweep/backend.py",
              "        if count == 1:", "        if True:", RESUME),
    Weakening("a signal ends without a checkpoint", "sweep/training.py",
              "if is_due or is_last:", "if is_due:", RESUME),
)  # fmt: skip


def noticed(weakening: Weakening) -> str:
    """The first test that fails on the weakened package; empty where all pass."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "lossbench"
        shutil.copytree(PACKAGE, copy)
        shutil.copytree(TESTS.parent / "conf", copy / "conf")
        path = copy / weakening.file
        text = path.read_text()
        assert text.count(weakening.old) == 1, (
            f"{weakening.what}: {text.count(weakening.old)} places"
        )
        path.write_text(text.replace(weakening.old, weakening.new))
        suite = [str(TESTS / name) for name in weakening.suite]
        line = [sys.executable, "-c", START, place, "-q", "-x", "-p", "no:cacheprovider", *suite]
        environment = {**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                line, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return "it never ends"
        found = re.findall(r"^(?:FAILED|ERROR) \S*?(test_\w+)(?:\[\S*)?(?: |$)", done.stdout, re.M)
        return found[-1] if found else ""


def main() -> int:
    """Weaken everything in turn; the exit code says whether anything lived."""
    lived = 0
    for weakening in WEAKENINGS:
        test = noticed(weakening)
        lived += not test
        print(f"{weakening.what:<55} {test or 'NOT NOTICED'}", flush=True)
    return min(lived, 1)


if __name__ == "__main__":
    sys.exit(main())
