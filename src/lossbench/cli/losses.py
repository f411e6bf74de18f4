"""`lossbench losses`: prints the catalog, or the whole entry of each named loss."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

import lossbench
from lossbench import catalog, store
from lossbench.ask import with_names
from lossbench.cli.exit_codes import DONE, SOME_FAILED
from lossbench.cli.options import extensions_in, flags_of, parser, yaml_folder
from lossbench.errors import ConfigError, nearest
from lossbench.store import WriteError
from lossbench.user_code import load_extensions


def main(arguments: list[str]) -> int:
    """Print entries of the catalog, with new measurements on request; returns the exit code."""
    options = _loss_options(arguments)
    try:
        load_extensions(options.extensions)
        words = with_names(f"loss={name}" if ".py:" in name else name for name in options.names)
        options.names = [word.removeprefix("loss=") for word in words]
        entries = catalog.entries([*map(yaml_folder, options.config_dir), lossbench.CONF])
        for name in options.names:
            if name not in entries:
                hint = nearest(name, entries, otherwise="see 'lossbench losses'")
                raise ConfigError(f"loss {name!r} is unknown: {hint}")
        chosen = [entries[name] for name in options.names] or list(entries.values())
        measured = {}
        if options.measure or options.card:
            bar = tqdm(chosen, "measuring", unit="loss", file=sys.stderr, disable=None, leave=False)
            measured = {entry.name: catalog.measured(entry) for entry in bar}
    except catalog.CatalogError as error:
        raise ConfigError(str(error)) from error
    descriptions = [catalog.facts(entry) for entry in chosen]
    if options.card:
        from lossbench.catalog import card

        try:
            page = card.page(chosen[0], measured[chosen[0].name])
            store.write(Path(options.card), page.encode())
        except WriteError as error:
            raise ConfigError(f"--card {error}, or name another file") from error
        print(f"Card: {options.card}")
    elif options.json:
        rows = [{**row, "measured": measured.get(row["name"])} for row in descriptions]
        print(json.dumps(rows, indent=1, allow_nan=False))
    else:
        columns = shutil.get_terminal_size((catalog.NORMAL_WIDTH, 24)).columns
        width = 0 if options.wide else columns
        if options.names:
            print("\n\n\n".join(catalog.description(row, width=width) for row in descriptions))
        elif not measured:
            print(catalog.table(descriptions, width=width))
        for row in descriptions if measured else ():
            print("\n" + catalog.verdicts(row, measured[row["name"]], width=width))
    # A variant has no claims of its own.
    names = [entry.name for entry in chosen if not entry.is_variant]
    is_disputed = any(measured[name]["disagrees"] for name in names if name in measured)
    return SOME_FAILED if is_disputed else DONE


def _loss_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the options of `losses`; refuses a wrong `--card` before any measurement."""
    options, unknown = parser("losses").parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"losses {unknown[0]}: {nearest(unknown[0], flags_of('losses'))}")
    options.extensions = extensions_in(options.names)
    names = [word for word in options.names if not word.startswith("extensions=")]
    options.names = [*dict.fromkeys(names)]
    path = Path(options.card)
    if options.card:
        if len(options.names) != 1:
            count = len(options.names) or "all"
            raise ConfigError(
                f"--card {path} of {count} losses: name exactly one, as in "
                "'lossbench losses focal --card focal.html'"
            )
        if options.json:
            raise ConfigError(f"--card {path} --json: give one of the two")
        if path.suffix != ".html":
            raise ConfigError(f"--card {path}: name a file that ends in .html")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"--card {path}: there is no folder {path.parent}, make it first")
    return options
