"""Shell completions, read from text files because importing torch would take too long."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import lossbench
from lossbench.cli.exit_codes import DONE
from lossbench.cli.help import keys
from lossbench.cli.options import COMMANDS, flags_of

ROW = re.compile(r"^\s*(?:Loss\(|Data\(|Model\()?\s*fn=(?!partial)(\w+)", re.M)
LIKE_A_LOSS = re.compile(r"^def ([A-Za-z]\w*)\(\s*output\b", re.M)
PARAMETER = re.compile(r"(data|model)\.params\.\w*$")
EXPORTS = ("csv", "mlflow", "tensorboard", "wandb")
FUNCTION = re.compile(r"^(?:def|class) ([A-Za-z]\w*)", re.M)


def main(arguments: list[str]) -> int:
    """Print completions, cut to begin where the shell's own word begins; see docs/commands.md."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    word, of_shell = line.split(" ")[-1], (arguments[1:] or [""])[0]
    for candidate in candidates(line):
        print(candidate[len(word) - len(of_shell) :])
    return DONE


def candidates(line: str) -> list[str]:
    """Completions of the last word of a line; a completion ends with a blank if it is a whole word.

    Args:
        line: Typed text up to the cursor.
    """
    *before, word = line.split(" ")
    command = next((word for word in before[1:2] if word in COMMANDS), "")
    key, equals, values = word.partition("=")
    if before[-1:] == ["--to"]:
        offered = [f"{tool} " for tool in EXPORTS]
    elif before[-1:] == ["--against"]:
        offered = [f"{name} " for name in _choices("loss", before, "")]
    elif match := PARAMETER.match(word):
        offered = [f"{match[1]}.params.{name}=" for name in _parameters(match[1], before)]
    elif equals:
        done, comma, last = values.rpartition(",")
        head = f"{key}={done}{comma}"
        offered = [head + choice for choice in _choices(key.removeprefix("+"), before, last)]
    elif word.startswith("-"):
        offered = flags_of(command)
    elif not before[1:]:
        offered = [f"{name} " for name in COMMANDS] + [f"{key}=" for key in keys()]
    elif command in ("status", "report", "verify", "export"):
        offered = [f"{path.parent} " for path in sorted(Path("runs").glob("*/sweep.json"))]
    elif command == "losses":
        offered = [f"{name} " for name in _choices("loss", before, word)]
    elif command == "try":
        file = next((Path(one) for one in before[2:] if one.endswith(".py")), None)
        names = _named(file, LIKE_A_LOSS) if file else [f"{path}" for path in Path().glob("*.py")]
        offered = [f"{name} " for name in names]
    else:
        offered = [f"{key}=" for key in keys()]
    return sorted(candidate for candidate in offered if candidate.startswith(word))


def _choices(key: str, words: Sequence[str], typed: str) -> list[str]:
    """Choices of a config group: yaml files, losses of the catalog, and the user's own files."""
    folders = [lossbench.CONF]
    folders += [Path(value) for flag, value in itertools.pairwise(words) if flag == "--config-dir"]
    names = {path.stem for folder in folders for path in (folder / key).glob("*.yaml")}
    if key == "missing":
        return ["drop", "median"]
    if key not in ("loss", "data", "model"):
        return [*names]
    file, colon, _ = typed.partition(":")
    if colon:
        pattern = LIKE_A_LOSS if key == "loss" else FUNCTION
        return [f"{file}:{name}" for name in _named(Path(file), pattern)]
    if key == "loss":
        modules = re.search(r"extensions=\[?([\w.,]+)", " ".join(words))
        files = [Path(lossbench.__file__).parent.glob("losses/*.py")]
        files += [[Path(f"{name}.py")] for name in (modules[1] if modules else "").split(",")]
        names |= {name for path in itertools.chain(*files) for name in _named(path, ROW)}
    tables = [str(path) for kind in ("csv", "parquet") for path in Path().glob(f"*.{kind}")]
    files = [f"{path}:" for path in Path().glob("*.py")]
    return [*names, *files, *(tables if key == "data" else [])]


def _parameters(group: str, words: Sequence[str]) -> list[str]:
    """Names of parameters in the yaml file of the data set or model that an earlier word names."""
    named = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    try:
        text = (lossbench.CONF / group / f"{named[-1]}.yaml").read_text() if named else ""
    except OSError:
        return []
    return re.findall(r"^  (\w+):", text.partition("params:\n")[2], re.M)


def _named(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Names in a file that match a pattern; empty if the file cannot be read."""
    try:
        return pattern.findall(path.read_text())
    except (OSError, UnicodeDecodeError):
        return []
