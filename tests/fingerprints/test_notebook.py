"""What a function of a script or notebook is: an edit of anything it reaches is seen."""

# ruff: noqa: E501  sources
from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from lossbench.errors import ConfigError
from lossbench.fingerprints import notebook

HEAD = """
import functools, types
import numpy as np, pandas as pd, torch
from torch import nn
from types import SimpleNamespace
from lossbench.fingerprints import code

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
    "a cached helper": (
        "@functools.cache\ndef h(o):\n    return o + 1\ndef f(o, t):\n    return h(o)",
        "o + 1",
        "o + 2",
    ),
    "a frame": (
        "D = pd.DataFrame({'a': [1, 2]})\ndef f(o, t):\n    return D.a * o",
        "[1, 2]",
        "[1, 3]",
    ),
    "a slot": (
        "class S:\n    __slots__ = ('d',)\ns = S()\ns.d = 1\ndef f(o, t):\n    return s.d",
        "s.d = 1",
        "s.d = 2",
    ),
    "an attribute of a list": (
        "class L(list):\n    pass\nl = L([1])\nl.d = 1\ndef f(o, t):\n    return l.d",
        "l.d = 1",
        "l.d = 2",
    ),
    "a tensor in bfloat16": (
        "T = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)\ndef f(o, t):\n    return T * o",
        "2.0",
        "3.0",
    ),
    "an object without attributes": (
        "class C:\n    def m(self, o):\n        return o + 1\nc = C()\ndef f(o, t):\n    return c.m(o)",
        "o + 1",
        "o + 2",
    ),
    "an array": ("A = np.arange(3)\ndef f(o, t):\n    return A * o", "arange(3)", "arange(4)"),
    "a constant set": ("def f(o, t):\n    return o in {'a', 'b'}", "'b'", "'c'"),
    "a partial": ("def g(k, o, t):\n    return k * o\nf = functools.partial(g, 1)", "g, 1", "g, 2"),
}


PROGRAM = f"""
import json, sys
HEAD = {HEAD!r}
shas = {{}}
for name, source in json.load(sys.stdin).items():
    space = {{"__name__": "__main__"}}
    exec(HEAD + source, space)
    shas[name] = space["code"].notebook.content(space["f"], space["code"]._file_codes)
print(json.dumps(shas))
"""


def shas(sources):
    """Fingerprints in a process of its own, whose hashes of words are others."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, input=json.dumps(sources), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def fingerprints():
    """Of every source: as it is, moved by a comment, and edited."""
    moved = {name: "# a comment\n\n" + source for name, (source, _, _) in EDITS.items()}
    edited = {name: source.replace(old, new) for name, (source, old, new) in EDITS.items()}
    first = {name: source for name, (source, _, _) in EDITS.items()}
    return [shas(one) for one in (first, moved, edited)]


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_what_a_function_reaches_is_seen_and_nothing_else(name, fingerprints):
    source, old, _ = EDITS[name]
    assert source.count(old) >= 1
    first, again, other = (shas[name] for shas in fingerprints)
    assert first == again != other


def test_an_object_that_cannot_be_compared_is_refused_by_name():
    space = {"__name__": "__main__"}
    exec("import _thread\nl = _thread.allocate_lock()\ndef f(o, t):\n    return l\n", space)
    with pytest.raises(ConfigError, match="a lock that a function of your own uses"):
        notebook.content(space["f"], lambda module: None if module == "__main__" else "")


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
        seen.add(
            notebook.content(space["Net"], lambda module: None if module == "__main__" else "")
        )
    assert len(seen) == 2


def test_a_circle_of_objects_has_an_end():
    space = {"__name__": "__main__"}
    exec("def a():\n    return b()\ndef b():\n    return a()\n", space)
    files = lambda module: None if module == "__main__" else ""  # noqa: E731
    assert notebook.content(space["a"], files) != notebook.content(space["b"], files)
