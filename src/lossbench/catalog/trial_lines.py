"""Lines of a trial for the terminal: measurements and verdicts of the functions of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lossbench import claims, statistics
from lossbench.ask.from_file import Trial
from lossbench.catalog.listing import hanging
from lossbench.claims import kind
from lossbench.losses import LOSSES
from lossbench.report import words
from lossbench.user_code import file_and_line


def cards(trial: Trial, *, width: int) -> Iterator[str]:
    """Lines with the measurements of each function of a file."""
    for one in trial.losses:
        row, (file, line) = one.row, file_and_line(one.row)
        held = [name for name, verdict in one.verdicts.items() if verdict.holds]
        yield f"{row.name}  ({file}, line {line})"
        purpose = f"{row.task} behind the inverse link {row.inverse_link}"
        if one.why:
            purpose += f": {one.why} (--task and --link say otherwise)"
        yield from hanging("  it is    ", purpose, width)
        count = f"{len(held)} of {len(one.verdicts)} claims: {', '.join(held) or 'none'}"
        yield from hanging("  holds    ", count, width)
        same = [
            name if abs(factor - 1) < 1e-9 else f"{factor:.4g} {name}"
            for name, factor in claims.duplicates(row, LOSSES.values()).items()
        ]
        if same:
            yield from hanging("  is       ", f"{', '.join(same)}, up to the learning rate", width)
        faults = [*row.unsound]
        if "gradient_is_derivative" not in held and kind.DRAWS not in faults:
            witness = one.verdicts["gradient_is_derivative"].witness
            faults.append(
                "its gradient is not its derivative, by something detached or a backward of its "
                f"own: {witness}"
            )
        if row.task == "regression" and "minimised_at_target" not in held:
            faults.append("is not least where the prediction is the target")
        for fault in faults:
            yield from hanging("  unsound  ", fault, width)
        yield ""
    yield from hanging("  against  ", ", ".join(trial.against), width)


def sentences(trial: Trial, verdicts: Iterable[statistics.Comparison]) -> Iterator[str]:
    """A sentence on each function of the file for each comparison."""
    defaults = {one.row.name: one.row.defaults for one in trial.losses}
    for comparison in verdicts:
        for row in words.verdicts_of(comparison).to_dict("records"):
            name, _, params = row["loss"].rstrip(")").partition("(")
            # The name of a loss includes its defaults if a version with other defaults was run.
            own_defaults = {f"{key}={value}" for key, value in defaults.get(name, {}).items()}
            if name in defaults and {*filter(None, params.split(", "))} <= own_defaults:
                yield words.sentence(row)
