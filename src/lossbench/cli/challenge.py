"""`lossbench try`: compares loss functions in a file of the user with known losses."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from lossbench import protocol
from lossbench.ask import OF_FILE, from_file
from lossbench.catalog.trial_lines import cards, sentences
from lossbench.cli.options import parser
from lossbench.cli.overrides import with_question
from lossbench.cli.report import finish, loading
from lossbench.question import Question


def main(arguments: list[str]) -> int:
    """Measure a file's functions, and train until verdicts are settled; returns the exit code."""
    options = parser("try").parse_intermixed_args(arguments)
    overrides = [word for word in options.names if "=" in word]
    names = [word for word in options.names if "=" not in word]

    path = Path(options.file)
    if match := OF_FILE.fullmatch(options.file):  # FILE.py:NAME, as in loss=FILE.py:NAME
        path, names = Path(match[1]), [match[2], *names]
    kind = {"task": options.task, "link": options.link, "against": options.against}
    trial = from_file.prepared(path, names, **kind)
    print("\n".join(cards(trial, width=shutil.get_terminal_size((100, 24)).columns)))
    print(flush=True)
    sizes = [word.partition("=")[2] for word in overrides if word.startswith("size=")]
    name = options.name or "-".join(["_".join(["try", path.stem, *names]), *sizes])
    lines = trial.overrides(name, data=options.data, model=options.model)

    def answer(question: Question) -> int:
        protocol.answer(question)
        load = loading(question.folder)
        code = finish(question.folder, load, extent=question.report)
        print("\n" + "\n".join(sentences(trial, load())))
        return code

    command = shlex.join(["lossbench", "try", *arguments])
    return with_question([*lines, *overrides], answer, command=command, text=trial.question)
