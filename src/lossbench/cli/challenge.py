"""`lossbench try`: a fair trial of functions in a file."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from lossbench import challenge, launch
from lossbench.cli.options import FLAGS, parser
from lossbench.cli.overrides import with_hydra
from lossbench.cli.report import finish, loading
from lossbench.user_code import OF_FILE


def main(arguments: list[str]) -> int:
    """Measure functions of a file, and try them until it is settled; returns the exit code."""
    flags = parser("try")
    flags.add_argument("file", metavar="FILE.py")
    flags.add_argument("names", nargs="*")
    for flag in FLAGS["try"]:
        flags.add_argument(flag, default="")
    options = flags.parse_intermixed_args(arguments)
    overrides = [word for word in options.names if "=" in word]
    names = [word for word in options.names if "=" not in word]

    path = Path(options.file)
    if match := OF_FILE.fullmatch(options.file):  # as elsewhere: FILE.py:NAME
        path, names = Path(match[1]), [match[2], *names]
    kind = {"task": options.task, "link": options.link, "against": options.against}
    tried = challenge.prepared(path, names, **kind)
    print("\n".join(challenge.cards(tried, width=shutil.get_terminal_size((100, 24)).columns)))
    print(flush=True)
    sizes = [word.partition("=")[2] for word in overrides if word.startswith("size=")]
    name = options.name or "-".join(["_".join(["try", path.stem, *names]), *sizes])
    lines = tried.overrides(name, data=options.data, model=options.model)

    def train_and_answer(config: Any, loader: Any) -> int:
        typed = shlex.join(["lossbench", "try", *arguments])
        trained = launch.train(config, loader, command=typed, question=tried.question)
        folder = trained.folder
        load = loading(folder)
        code = finish(folder, load, extent=str(config.report))
        print("\n" + "\n".join(challenge.sentences(tried, load())))
        return code

    return with_hydra([*lines, *overrides], train_and_answer)
