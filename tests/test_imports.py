"""The house: one-way imports, no torch where it has no place, no code from strings or files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import lossbench

HOUSE = Path(lossbench.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

ROOMS = (
    "errors",
    "progress",
    "processes",
    "store",
    "records",
    "fingerprints",
    "losses",
    "claims",
    "data",
    "optimizers",
    "models",
    "measures",
    "user_code",
    "statistics",
    "question",
    "ask",
    "engine",
    "sweep",
    "protocol",
    "figures",
    "report",
    "export",
    "catalog",
    "api",
    "cli",
)
"""Rooms from the ground up; a room imports earlier ones only."""

READING = (
    "errors",
    "progress",
    "processes",
    "store",
    "records",
    "statistics",
    "figures",
    "report",
    "export",
)
"""What reads a finished sweep: these import one another, and never torch."""


def label(path: Path) -> str:
    return str(path.relative_to(HOUSE.parent))


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def allowed(room: str) -> set[str]:
    earlier = set(ROOMS[: ROOMS.index(room)])
    return earlier & set(READING) if room in READING else earlier


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of what is imported anywhere below a node, type checking left out."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{name.name}" for name in node.names} | {str(node.module)}
        names |= imports(node)
    return names


TREES = {path: ast.parse(path.read_text()) for path in FILES}
NODES = {path: [*ast.walk(tree)] for path, tree in TREES.items()}
IMPORTS = {path: imports(tree) for path, tree in TREES.items()}
PACKAGES = {path: {name.split(".")[0] for name in names} for path, names in IMPORTS.items()}
"""By file of the package, its syntax tree, its nodes, and what it imports."""


def calls(path: Path) -> list[ast.Call]:
    return [node for node in NODES[path] if isinstance(node, ast.Call)]


def calls_of(path: Path, *names: str) -> list[ast.Call]:
    """Calls of a plain name, such as `print`."""
    return [c for c in calls(path) if isinstance(c.func, ast.Name) and c.func.id in names]


def breaches(rule, paths=FILES) -> dict[str, object]:
    """By file what the rule finds in it, where it finds anything."""
    return {label(path): wrong for path in paths if (wrong := rule(path))}


def test_every_file_belongs_to_a_room():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ROOMS)


def test_a_room_imports_earlier_rooms_only():
    def rule(path):
        room = room_of(path)
        if room == "__init__":
            return set()
        second = {name.split(".")[1] for name in IMPORTS[path] if name.startswith("lossbench.")}
        return (second & set(ROOMS)) - {room} - allowed(room)

    assert breaches(rule) == {}


def test_no_import_is_relative():
    def rule(path):
        return [
            node.lineno for node in NODES[path] if isinstance(node, ast.ImportFrom) and node.level
        ]

    assert breaches(rule) == {}


def test_what_reads_a_finished_sweep_never_imports_torch():
    code = (
        "import importlib, sys\n"
        f"for room in {READING!r}:\n"
        "    importlib.import_module('lossbench.' + room)\n"
        "    if 'torch' in sys.modules: sys.exit(room)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert breaches(lambda path: room_of(path) in READING and PACKAGES[path] & {"torch"}) == {}


def test_only_the_doors_know_hydra_and_nothing_imports_its_private_parts():
    def rule(path):
        meets_hydra = room_of(path) in ("ask", "cli")
        private = {name for name in IMPORTS[path] if name.startswith("hydra._internal")}
        return private or (not meets_hydra and PACKAGES[path] & {"omegaconf", "hydra"})

    assert breaches(rule) == {}


def test_no_code_comes_from_a_pickle():
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    # What processes of one command send each other, or is hashed; nothing of a file is unpickled.
    senders = {
        "user_code/examination.py",
        "user_code/modules.py",
        "ask/own_files.py",
        "fingerprints/notebook.py",
    }
    senders = {f"lossbench/{name}" for name in senders}
    assert breaches(lambda path: PACKAGES[path] & pickles).keys() == senders


def test_what_could_unpickle_is_told_not_to():
    safe = {"weights_only": True, "allow_pickle": False}

    def rule(path):
        words = [word for call in calls(path) for word in call.keywords if word.arg in safe]
        return [ast.unparse(w) for w in words if ast.unparse(w.value) != str(safe[str(w.arg)])]

    assert breaches(rule) == {}


def test_no_code_comes_from_a_string():
    assert breaches(lambda path: calls_of(path, "eval", "exec")) == {}


def test_nothing_is_instantiated_by_its_name():
    # A docstring or a filter may speak of the key; none may define or call it.
    def rule(path):
        assigned = [node.target for node in NODES[path] if isinstance(node, ast.AnnAssign)]
        return (
            [name for name in IMPORTS[path] if name.startswith("hydra.utils")]
            + [call for call in calls(path) if ast.unparse(call.func).endswith(".instantiate")]
            + [one for one in assigned if ast.unparse(one) == "_target_"]
        )

    assert breaches(rule) == {}
    assert not [p for p in lossbench.CONF.rglob("*.yaml") if "_target_" in p.read_text()]


def test_a_file_is_named_after_what_is_in_it():
    assert breaches(lambda path: re.search(r"util|helper|common|misc", path.stem)) == {}


def test_no_function_is_named_get():
    def rule(path):
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        names = [node.name for node in NODES[path] if isinstance(node, functions)]
        return [name for name in names if name.lstrip("_").startswith("get_")]

    assert breaches(rule, FILES) == {}


def test_only_the_command_line_prints():
    assert breaches(lambda path: room_of(path) != "cli" and calls_of(path, "print")) == {}


def test_no_test_imports_another_test():
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    others = {path.stem for path in paths if path.stem.startswith("test_")}
    imported = {path.name: imports(ast.parse(path.read_text())) & others for path in paths}
    assert not any(imported.values()), imported
