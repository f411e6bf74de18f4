"""`lossbench verify`: checks a sweep's files, or that packs do not change results here."""

from __future__ import annotations

import itertools

from lossbench.cli.exit_codes import DONE, SOME_FAILED
from lossbench.cli.options import parser
from lossbench.errors import ConfigError
from lossbench.question import is_named_after
from lossbench.records import integrity


def main(arguments: list[str]) -> int:
    """Print a sweep's damaged files and counts of its runs, or verify this machine."""
    options = parser("verify").parse_intermixed_args(arguments)
    if options.machine == (options.sweep is not None):
        raise ConfigError(
            "verify: use 'lossbench verify runs/NAME' or 'lossbench verify --machine'"
        )
    if options.machine:
        import torch

        from lossbench.sweep import invariance

        # The same runs are trained in different packs on each device, and recorded bits compared.
        torch.set_num_threads(1)
        exit_code = DONE
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        cases = itertools.product(devices, ("float32", "float64"), invariance.MODELS)
        for device, precision, strategy in cases:
            padding = 2 if device == "cpu" else 8
            measured = invariance.invariance(device, precision, padding, strategy)
            print(
                f"{device} {precision} {strategy}: {measured.compared:,} values of the same runs "
                f"in other packs, {measured.differing} differ: {measured.mode}"
            )
            exit_code = SOME_FAILED if measured.differing else exit_code
        return exit_code
    result = integrity.verified(options.sweep, is_named_after=is_named_after)
    for problem in result.problems:
        print(problem)
    damaged = f"{len(result.problems)} damaged" if result.problems else "all as written"
    print(f"{result.packs} packs, {result.files} files, {result.bytes / 1e6:.1f} MB: {damaged}")
    if result.unplanned:
        print(f"{result.unplanned} recorded runs are in no plan: tables and pages leave them out")
    if result.unfinished:
        print(f"{result.unfinished} packs are not finished: the same command goes on with them")
    if result.runs:
        counts = ", ".join(f"{count:,} {status}" for status, count in result.runs.items() if count)
        print(f"{sum(result.runs.values()):,} planned runs: {counts}")
    return DONE if result.is_whole else SOME_FAILED
