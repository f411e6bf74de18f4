"""The house: one-way imports, no torch where it has no place, no code from strings or files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench

HOUSE = Path(lossbench.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
PLUGINS = sorted((HOUSE.parent / "hydra_plugins").rglob("*.py"))

ROOMS = (
    "store",
    "records",
    "pairing",
    "losses",
    "claims",
    "data",
    "optimizers",
    "models",
    "measures",
    "config",
    "runs",
    "engine",
    "sweep",
    "statistics",
    "launch",
    "protocol",
    "figures",
    "report",
    "catalog",
    "cli",
)
"""Rooms from the ground up; a room imports earlier ones only."""

READING = ("store", "records", "statistics", "figures", "report")
"""What reads a finished sweep: these import one another, and never torch."""


def label(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def allowed(room: str) -> set[str]:
    earlier = set(ROOMS[: ROOMS.index(room)])
    return earlier & set(READING) if room in READING else earlier


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of what is imported anywhere below a node, type checking left out."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names} | {str(node.module)}
        found |= imports(node)
    return found


def rooms_imported(path: Path) -> set[str]:
    dotted = imports(ast.parse(path.read_text()))
    second = {name.split(".")[1] for name in dotted if name.startswith("lossbench.")}
    return (second & set(ROOMS)) - {room_of(path)}


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_file_belongs_to_a_room():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_room_imports_earlier_rooms_only(path):
    if room_of(path) != "__init__":
        assert rooms_imported(path) <= allowed(room_of(path))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_import_is_relative(path):
    tree = ast.parse(path.read_text())
    assert not any(node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


def test_what_reads_a_finished_sweep_never_imports_torch():
    code = (
        "import importlib, sys\n"
        f"for room in {READING!r}:\n"
        "    importlib.import_module('lossbench.' + room)\n"
        "    if 'torch' in sys.modules: sys.exit(room)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for path in FILES:
        if room_of(path) in READING:
            names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
            assert "torch" not in names, path


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_rooms_that_meet_hydra_know_omegaconf(path):
    names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    if room_of(path) not in ("config", "launch", "protocol", "cli"):
        assert not names & {"omegaconf", "hydra"}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_code_comes_from_a_string_or_a_pickle(path):
    names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for call in calls(path):
        # The kernel prints what torch traced: numbers, and expressions of its own table.
        is_allowed = label(path) == "engine/strategies/kernel.py"
        is_text = isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")
        assert not is_text or is_allowed
        for word in call.keywords:
            if word.arg in ("weights_only", "allow_pickle"):
                safe = word.arg == "weights_only"
                assert isinstance(word.value, ast.Constant)
                assert word.value.value is safe


@pytest.mark.parametrize("path", FILES, ids=label)
def test_nothing_is_instantiated_by_its_name(path):
    tree = ast.parse(path.read_text())
    # A docstring or a filter may speak of the key; none may define or call it.
    dotted = imports(tree)
    assert not {name for name in dotted if name.startswith("hydra.utils")}
    assert not [call for call in calls(path) if ast.unparse(call.func).endswith(".instantiate")]
    keys = [
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert "_target_" not in keys


def test_no_yaml_names_code_to_call():
    assert not [p for p in lossbench.CONF.rglob("*.yaml") if "_target_" in p.read_text()]


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_file_is_named_after_what_is_in_it(path):
    assert not re.search(r"util|helper|common|misc", path.stem)


@pytest.mark.parametrize(
    "path", FILES + PLUGINS, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_function_is_named_get(path):
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
    assert not [name for name in names if name.lstrip("_").startswith("get_")]


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_command_line_prints(path):
    prints = [c for c in calls(path) if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints or room_of(path) == "cli"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_a_plugin_is_a_registration_only(path):
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
