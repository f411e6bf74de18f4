"""`lossbench plan`: the cost of a command, and the differences that its seeds can detect."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from lossbench import protocol
from lossbench.cli.exit_codes import DONE
from lossbench.cli.options import parser
from lossbench.cli.overrides import with_question
from lossbench.errors import ConfigError
from lossbench.protocol import forecast
from lossbench.question import Question


def main(arguments: list[str]) -> int:
    """Print the expected cost of a command without training; returns the exit code."""
    options, overrides = parser("plan").parse_known_args(arguments)
    if not (math.isnan(options.spread) or options.spread > 0):
        raise ConfigError(f"plan --spread {options.spread}: use a positive number, like 0.02")

    def foretell(question: Question) -> int:
        outline = protocol.outline(question)
        if options.json:
            looks = [asdict(look) for look in forecast.forecast(outline.runs, outline.sweep)]
            print(json.dumps({"schema": 1, "name": question.name, "looks": looks}, indent=1))
            return DONE
        print("\n".join(forecast.lines(outline)))
        if options.power or not math.isnan(options.spread):
            print("\n" + "\n".join(forecast.power(outline, spread=options.spread)))
        return DONE

    return with_question(overrides, foretell)
