"""What a function of a script or notebook is: an edit of anything it reaches is seen."""

# ruff: noqa: E501  sources
from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from lossbench import live

HEAD = """
import functools, types
import numpy as np, torch
from torch import nn
from types import SimpleNamespace
from lossbench import pairing

def dec(k):
    def wrap(f):
        @functools.wraps(f)
        def inner(*a):
            return k * f(*a)
        return inner
    return wrap
"""

EDITS = {
    "a global": ("K = 2\ndef f(o, t):\n    return K * o", "K = 2", "K = 3"),
    "a helper": ("def h(o):\n    return o + 1\ndef f(o, t):\n    return h(o)", "o + 1", "o + 2"),
    "a lambda in a table": (
        "P = 1\nt = {\n 'a': lambda o, t: o ** P,\n}\nf = t['a']",
        "P = 1",
        "P = 4",
    ),
    "a default": ("def f(o, t, k=1):\n    return k * o", "k=1", "k=2"),
    "a closure": ("def g(k):\n    return lambda o, t: k * o\nf = g(1)", "g(1)", "g(2)"),
    "a decorator": ("@dec(1)\ndef f(o, t):\n    return o", "dec(1)", "dec(2)"),
    "a class's attribute": ("class f(nn.Module):\n    width = 3", "width = 3", "width = 4"),
    "a method": ("class f:\n    def m(self):\n        return 1", "return 1", "return 2"),
    "a method's default": ("class f:\n    def m(self, k=1):\n        return k", "k=1", "k=2"),
    "a static method": (
        "class f:\n    @staticmethod\n    def m():\n        return 1",
        "return 1",
        "return 2",
    ),
    "a base": ("class B:\n    w = 1\nclass f(B):\n    pass", "w = 1", "w = 2"),
    "a block": (
        "class B(nn.Module):\n    w = 1\nclass f(nn.Module):\n    def __init__(self):\n        self.b = B()",
        "w = 1",
        "w = 2",
    ),
    "an object": ("c = SimpleNamespace(d=1)\ndef f(o, t):\n    return c.d * o", "d=1", "d=5"),
    "weights": (
        "m = torch.nn.Linear(1, 1)\nnn.init.constant_(m.weight, 1)\nnn.init.constant_(m.bias, 0)\n"
        "def f(o, t):\n    return m(o)",
        "weight, 1",
        "weight, 2",
    ),
    "a bound method": (
        "class C:\n    def __init__(self, d):\n        self.d = d\n    def l(self, o, t):\n"
        "        return self.d\nf = C(1).l",
        "C(1)",
        "C(2)",
    ),
    "an array": ("A = np.arange(3)\ndef f(o, t):\n    return A * o", "arange(3)", "arange(4)"),
    "a constant set": ("def f(o, t):\n    return o in {'a', 'b'}", "'b'", "'c'"),
    "a partial": ("def g(k, o, t):\n    return k * o\nf = functools.partial(g, 1)", "g, 1", "g, 2"),
}


def shas(*sources):
    """Fingerprints in processes of their own, whose hashes of words differ."""
    found = []
    for source in sources:
        text = HEAD + source + "\nprint(pairing.live.content(f, pairing._file_codes))\n"
        command = [sys.executable, "-c", text]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize(("source", "old", "new"), EDITS.values(), ids=EDITS)
def test_every_edit_of_what_a_function_reaches_is_seen_and_nothing_else(source, old, new):
    assert source.count(old) >= 1
    moved = "# a comment\n\n" + source
    first, again, other = shas(source, moved, source.replace(old, new))
    assert first == again != other


def test_an_edit_within_one_session_is_seen():
    seen = set()
    for k in (1, 2):
        space = {"__name__": "__main__"}
        exec(
            textwrap.dedent(f"""
            K = {k}
            def helper(o):
                return K * o
            class Net:
                def forward(self, o):
                    return helper(o)
        """),
            space,
        )
        seen.add(live.content(space["Net"], lambda module: None if module == "__main__" else ""))
    assert len(seen) == 2


def test_a_circle_of_objects_has_an_end():
    space = {"__name__": "__main__"}
    exec("def a():\n    return b()\ndef b():\n    return a()\n", space)
    files = lambda module: None if module == "__main__" else ""  # noqa: E731
    assert live.content(space["a"], files) != live.content(space["b"], files)
