"""The command line: a bare word is a command, anything else is a Hydra override."""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import lossbench
from lossbench import store
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.store import StoreError, WriteError

DONE, SOME_FAILED, MISTAKE, BY_SIGNAL = 0, 1, 2, 128
"""Exit codes; the last is added to the number of the signal that ended a command."""

INTERRUPTED = BY_SIGNAL + signal.SIGINT


HELP = """\
lossbench trains identical models under many losses, proves that they were identical,
and says with honest statistics what the loss changed.

  lossbench                                the essay's comparison on real data, and its report
  lossbench experiment=NAME [overrides]    a named sweep, until it is settled
  lossbench experiment=essay loss=huber_tight
                                           adds one loss; only its runs are trained
  lossbench try FILE.py [NAME ...]         a fair trial of functions of your own, (output, target):
      --task --link  what they are, if what is measured is wrong   --against mse,huber
      --data --model  where, in the place of three standard tasks   --name  of the folder
  lossbench experiment=NAME size=smoke     the same in seconds, to see that it runs
  lossbench -m loss=mse,mae data=diabetes seed='range(10)' optimizer.lr=0.01,0.1 name=mine
                                           your own sweep
  lossbench loss=huber data=diabetes       one run
  lossbench plan experiment=NAME           what it would cost: runs, packs, time, budget;
      --power    what its seeds can resolve    --spread 0.02  from a stated spread
      --json     the same for programs
  lossbench report runs/NAME [--strict]    HTML page and tables (--strict: exit 1 if a
                                           run is missing or a verdict is undecided or
                                           rests on less than declared, proven pairs)
      --figures                            each figure as PNG, SVG and PDF too
      --json                               the verdicts for programs, nothing written
  lossbench export runs/NAME --to tensorboard|mlflow|wandb|csv
                                           its runs behind the verdicts, for a tool you know;
      --all      every run     --into WHERE   folder, tracking URI or project
  lossbench verify runs/NAME               every file as it was written? every run there?
  lossbench verify --machine               does a run depend on its pack-mates on this machine?
  lossbench losses                         the catalog: all losses, a line each
  lossbench losses NAME ...                all that is known of some of them
      --measure  measures their claims again     --card FILE.html  one loss as a page, drawn
      --json     plain values for programs       --wide            cuts nothing off

  what to choose (KEY=VALUE; KEY=A,B sweeps; the files in conf/ are the choices)
    data=         {data}
    loss=         {loss}
    model=        {model}
                  model.params.widths=[64,64]
    optimizer=    {optimizer}  optimizer.lr=0.1 optimizer.weight_decay=0.001
    schedule=     {schedule}
    experiment=   {experiment}
    size=         {size}         of an experiment       report=all (verdicts, none)
    seed=0  steps=500  batch_size=64  log_every=10  eval_every=100  name=default
    data.targets=sampled (or distribution)  init.from=random (or permuted_labels)
    data.root=data  data.download=false (true brings files of data sets that are missing)
    engine.device=cpu  engine.precision=float32  engine.pack_size=128
    hydra.launcher.workers=0 (a process on each core where that is faster; 1: one in all)

  --config-dir DIR   adds your own yaml files   extensions=[my_module]   adds your own losses
  --cfg job          prints the configuration   --info   Hydra's own view   --version

Everything is written to runs/NAME. The same command again trains only what is missing.
Exit codes: 0 done, 1 some runs failed (losses: a row claims what is not measured),
2 a mistake in what was asked.
"""

SELECTION = {
    "regression": ("mse", "mae", "quartic", "huber", "huber_tight", "log_cosh", "pinball", "tukey"),
    "classification": ("cross_entropy", "brier", "mse_logits", "mae_probs", "focal", "gce"),
}
"""The losses that the help names, by task; `lossbench losses` lists all of them."""


FLAGS = {
    "plan": ("--power", "--spread", "--json"),
    "report": ("--strict", "--figures", "--json"),
    "export": ("--to", "--into", "--all"),
    "verify": ("--machine",),
    "losses": ("--measure", "--json", "--wide", "--card", "--config-dir"),
    "try": ("--task", "--link", "--against", "--data", "--model", "--name"),
}
"""Flags by command."""

LONGEST = 1000
"""Letters of a message, at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `lossbench` command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # closed by who called
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may know no ± and no ×
            stream.reconfigure(errors="replace")
    if any(word in arguments for word in ("--help", "-h", "help")):
        print(usage(), end="")
        return DONE
    if "--version" in arguments:
        print(f"lossbench {lossbench.__version__}")
        return DONE
    if arguments[:1] == ["--config-dir"] and {*arguments[2:3]} & COMMANDS.keys():
        arguments = [arguments[2], *arguments[:2], *arguments[3:]]
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    command = next(iter(arguments), "")
    try:
        if command in COMMANDS:
            return COMMANDS[command](arguments[1:])
        if re.fullmatch(r"[A-Za-z][\w-]*", command):
            hint = nearest(command, FLAGS)
            if command == "compare":
                hint = "use lossbench experiment=compare data=... loss=..."
            raise ConfigError(f"unknown command {command!r}: {hint}")
        typed = shlex.join(["lossbench", *arguments])
        return _with_hydra(arguments, functools.partial(_launch, command=typed))
    except (ConfigError, StoreError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt as end:
        print("\nInterrupted. What was done is kept; the same command goes on from there.")
        return BY_SIGNAL + getattr(end, "signal", signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return _refuse(str(error))


def usage() -> str:
    """The help: what can be typed, the choices read from the names of the yaml files."""
    indent = "\n" + " " * 18
    choices = {}
    for group in ("data", "model", "optimizer", "schedule", "experiment", "size"):
        names = " ".join(sorted(path.stem for path in (lossbench.CONF / group).glob("*.yaml")))
        choices[group] = textwrap.fill(names, 72).replace("\n", indent)
    losses = [f"{' '.join(names)}  ({task})" for task, names in SELECTION.items()]
    losses.append("and more: lossbench losses")
    return HELP.format(loss=indent.join(losses), **choices)


FOREIGN_FLAGS = {
    "hydra-help": "see 'lossbench --help', and 'lossbench --info' for what Hydra sees",
    "config-name": "name an experiment, with experiment=NAME",
    "config-path": "add yaml files of your own with --config-dir DIR",
    "run": "leave it out, one run goes the way of many",
    "experimental-rerun": "give the same command again, it trains what is missing",
}
"""Flags of Hydra's own main that would be taken and not be obeyed, and what serves."""


def _with_hydra(arguments: list[str], act: Callable[[Any, Any], int]) -> int:
    """Read overrides as Hydra does, act, and turn mistakes into one line and exit code 2.

    Args:
        arguments: As typed.
        act: Given the composed configuration and Hydra's loader, returns the exit code.
    """
    import yaml
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lossbench.config import explained
    from lossbench.launch import RunsFailed

    logging.getLogger("lossbench").setLevel(logging.INFO)
    args, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if any(".py:" in word or word.startswith("data=") for word in args.overrides):
        from lossbench.own import with_names

        args.overrides = with_names(args.overrides)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}: see 'lossbench --help'")
    for flag, cure in FOREIGN_FLAGS.items():
        if getattr(args, flag.replace("-", "_")):
            raise ConfigError(f"--{flag} is Hydra's, and does nothing here: {cure}")
    # Hydra would have it that an experiment is added, because it is none by default.
    args.overrides = [re.sub(r"^\+\+?experiment=", "experiment=", word) for word in args.overrides]
    if not args.overrides and not args.multirun:
        args.overrides = ["experiment=essay"]
    try:
        return _hydra(args, act)
    except RunsFailed as failure:
        return max(SOME_FAILED, _finish(failure.folder, _loading(failure.folder), extent="none"))
    except UnicodeDecodeError as error:
        return _refuse(f"a yaml file of --config-dir is not UTF-8 ({error}): save it as UTF-8")
    except yaml.YAMLError as error:
        return _refuse("a yaml file cannot be read: " + " ".join(str(error).split()))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explained(error))
    except RecursionError:
        return _refuse("a yaml file takes in itself, or is nested without end: mend its defaults")
    except WriteError as error:
        print(f"lossbench: {_in_a_line(str(error))}", file=sys.stderr)
        return SOME_FAILED


def _hydra(args: Any, act: Callable[[Any, Any], int]) -> int:
    """What Hydra's own main does, with our search path, checks and exit codes."""
    from omegaconf import OmegaConf

    from lossbench import launch
    from lossbench.own import load_extensions

    load_extensions(_extensions(args.overrides))
    folder = _yaml_folder(args.config_dir) if args.config_dir else None
    with launch.hydra(folder) as hydra:
        if args.shell_completion:
            hydra.shell_completion("config", args.overrides)
            return DONE
        config = launch.composed(hydra.config_loader, args.overrides, folder)
        if args.cfg == "job" and not args.package:
            from lossbench.config import named

            config = named(config, {**config.hydra.runtime.choices})
            print(OmegaConf.to_yaml(config, resolve=args.resolve), end="")
            return DONE
        if args.cfg:
            hydra.show_cfg("config", args.overrides, args.cfg, args.package, args.resolve)
            return DONE
        if args.info:
            logging.getLogger().handlers.clear()  # Hydra brings its own
            hydra.show_info(args.info, "config", args.overrides)
            return DONE
        return act(config, hydra.config_loader)


def _extensions(words: Iterable[str]) -> list[str]:
    """The modules in `extensions=[a,b]` among the words of a command."""
    typed = [word.partition("=")[2] for word in words if word.startswith("extensions=")]
    return re.findall(r"""[^\s,\[\]"']+""", " ".join(typed))


def _launch(config: Any, loader: Any, *, command: str) -> int:
    from lossbench import launch

    folder = launch.train(config, loader, command=command).folder
    # An experiment has the report that it asks for, another sweep none.
    is_experiment = any("experiment=" in line for line in config.hydra.overrides.task)
    extent = str(config.report) if is_experiment else "none"
    return _finish(folder, _loading(folder), extent=extent)


def _plan(arguments: list[str]) -> int:
    parser = _parser("plan")
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--spread", type=float, default=math.nan)
    options, overrides = parser.parse_known_args(arguments)
    if not (math.isnan(options.spread) or options.spread > 0):
        raise ConfigError(f"plan --spread {options.spread}: use a positive number, like 0.02")

    def foretell(config: Any, loader: Any) -> int:
        from lossbench import launch
        from lossbench.protocol import forecast

        outline = launch.outline(config, loader)
        if options.json:
            looks = [asdict(look) for look in forecast.forecast(outline.runs, outline.sweep)]
            print(json.dumps({"schema": 1, "name": outline.sweep.name, "looks": looks}, indent=1))
            return DONE
        print("\n".join(forecast.lines(outline)))
        if options.power or not math.isnan(options.spread):
            print("\n" + "\n".join(forecast.power(outline, spread=options.spread)))
        return DONE

    return _with_hydra(overrides, foretell)


def _parser(command: str) -> argparse.ArgumentParser:
    """A parser of a command's own flags whose mistakes are ours."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{command}: {message}: see 'lossbench --help'")

    return Parser(prog=f"lossbench {command}", add_help=False, allow_abbrev=False)


def _yaml_folder(config_dir: str) -> Path:
    from lossbench.config import check_folder

    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder, name one with yaml files")
    check_folder(folder)
    return folder


def _loading(folder: Path) -> Callable[[], Any]:
    """Gives the records of a sweep, which are read when it is called first."""

    @functools.cache
    def load() -> Any:
        from lossbench import records

        return records.load(folder)

    return load


def _finish(folder: Path, load: Callable[[], Any], *, extent: str) -> int:
    """Print the table of results and the failures, write the report of an experiment.

    Args:
        folder: Of the sweep.
        load: Gives its records.
        extent: Of the report: all, verdicts or none.
    """
    if extent != "none":
        _show(folder, load, extent=extent)
    else:
        from lossbench.report import terminal

        _print_answer(terminal.table(load()))
        print(f"\nRecords: {folder}  (in Python: lossbench.records.load)")
        print(f"Next:    lossbench report {folder}  (page, tables)")
    ends = [(store.committed(pack) or {}).get("members", {}) for pack in store.packs_of(folder)]
    if all(facts["status"] != "failed" for end in ends for facts in end.values()):
        return DONE
    runs = load().runs
    failed = runs[runs.status == "failed"]
    for run in failed.itertuples():
        reason = str(run.reason).strip().splitlines()[-1]
        print(f"failed: {run.run_id} {run.data} {run.loss} lr={run.lr:g} seed={run.seed}: {reason}")
    return SOME_FAILED if len(failed) else DONE


def _report(arguments: list[str]) -> int:
    folders = [argument for argument in arguments if not argument.startswith("--")]
    if len(folders) != 1 or set(arguments) - {*folders, "--strict", "--json", "--figures"}:
        typed = " ".join(["report", *arguments])
        usage = "'lossbench report runs/NAME [--strict] [--figures] [--json]'"
        raise ConfigError(f"{typed}: use {usage}")
    if {"--figures", "--json"} <= {*arguments}:
        raise ConfigError("report --figures --json: --json writes nothing, ask for one at a time")

    load = _loading(Path(folders[0]))
    try:
        if "--json" in arguments:
            from lossbench.export import plain

            print(json.dumps(plain.verdicts(load()), indent=1, allow_nan=False))
        else:
            _show(Path(folders[0]), load, has_figures="--figures" in arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if "--strict" not in arguments:
        return DONE
    from lossbench import statistics

    objections = statistics.objections(load(), statistics.all_comparisons(load()))
    if "--json" not in arguments:  # which has them
        for objection in objections or ["no objection"]:
            print(f"strict: {objection}")
    return SOME_FAILED if objections else DONE


def _show(
    folder: Path, load: Callable[[], Any], *, extent: str = "all", has_figures: bool = False
) -> None:
    """Print what came out, write the report if it would be another, and say where all of it lies.

    Args:
        folder: Of the sweep.
        load: Gives its records, which takes a while.
        extent: Of the report: all or verdicts.
        has_figures: Whether figures are written as files too.
    """
    from lossbench.report import edition
    from lossbench.report.sections import SECTIONS

    sections = ("verdicts",) if extent == "verdicts" else tuple(SECTIONS)
    current = edition.current(folder, sections=sections, has_figures=has_figures)
    path = folder / "report" / "index.html"
    if current is None:
        # Statistics and figures take a second to import, so only where they have work to do.
        from lossbench.processes import cores
        from lossbench.report import page, terminal

        _print_answer(terminal.answer(load()))
        start = time.monotonic()
        print("\nWriting the report ...", flush=True)
        page.write(load(), workers=min(8, cores()), drawn_in=sections, has_figures=has_figures)
        print(f"Report:  {path}  ({time.monotonic() - start:.0f} s)")
    else:
        _print_answer(current["answer"])
        print(f"\nReport:  {path}  (nothing has changed since it was written)")
    drawn = len([*(path.parent / "figures").glob("*_one_column.pdf")])
    tables = len([*(path.parent / "tables").glob("*.csv")])
    if drawn:
        print(f"Figures: {path.parent / 'figures'}  ({drawn} as PNG, SVG and PDF, at two widths)")
    elif extent == "verdicts":
        print(f"Figures: that of the verdicts, in the page; all: lossbench report {folder}")
    else:
        print(f"Figures: in the page; as PNG, SVG and PDF: lossbench report {folder} --figures")
    print(f"Tables:  {path.parent / 'tables'}  ({tables} as CSV, Markdown and LaTeX)")
    print(f"Records: {folder}  (in Python: lossbench.records.load)")


def _print_answer(text: str) -> None:
    """Print it with its colours where a reader looks at a terminal and did not forbid them."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if is_plain or not sys.stdout.isatty():
        text = re.sub(r"\033\[[\d;]*m", "", text)
    print(text, end="")


def _export(arguments: list[str]) -> int:
    parser = _parser("export")
    parser.add_argument("folder", metavar="runs/NAME")
    parser.add_argument("--to", required=True)
    parser.add_argument("--into", default="")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_intermixed_args(arguments)

    from lossbench import export, records

    refuse_unknown(options.to, export.TARGETS, "--to")
    loaded = records.load(options.folder)
    try:
        print(export.export(loaded, to=options.to, into=options.into, is_whole=options.all))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return DONE


def _verify(arguments: list[str]) -> int:
    from lossbench.records import verify
    from lossbench.runs import is_named_after

    if "--machine" in arguments:
        return _verify_machine([word for word in arguments if word != "--machine"])
    if len(arguments) != 1:
        raise ConfigError(
            "verify: use 'lossbench verify runs/NAME' or 'lossbench verify --machine'"
        )
    result = verify.verified(Path(arguments[0]), is_named_after=is_named_after)
    for problem in result.problems:
        print(problem)
    damaged = f"{len(result.problems)} damaged" if result.problems else "all as written"
    print(f"{result.packs} packs, {result.files} files, {result.bytes / 1e6:.1f} MB: {damaged}")
    if result.unplanned:
        print(f"{result.unplanned} recorded runs are in no plan: no table or page has them")
    if result.unfinished:
        print(f"{result.unfinished} packs are not finished: the same command goes on with them")
    if result.runs:
        counts = ", ".join(f"{count:,} {status}" for status, count in result.runs.items() if count)
        print(f"{sum(result.runs.values()):,} planned runs: {counts}")
    return DONE if result.is_whole else SOME_FAILED


def _verify_machine(arguments: list[str]) -> int:
    if arguments:
        raise ConfigError(f"verify --machine {' '.join(arguments)}: it takes nothing else")
    import torch

    from lossbench.sweep import invariance

    torch.set_num_threads(1)
    exit_code = DONE
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    cases = itertools.product(devices, ("float32", "float64"), invariance.MODELS)
    for device, precision, strategy in cases:
        padding = 2 if device == "cpu" else 8
        result = invariance.invariance(device, precision, padding, strategy)
        print(
            f"{device} {precision} {strategy}: {result.compared:,} values of the same runs in "
            f"other packs, {result.differing} differ: {result.mode}"
        )
        exit_code = SOME_FAILED if result.differing else exit_code
    return exit_code


def _losses(arguments: list[str]) -> int:
    from tqdm import tqdm

    from lossbench import catalog
    from lossbench.own import load_extensions

    options = _loss_options(arguments)
    try:
        load_extensions(options.extensions)
        entries = catalog.entries([*map(_yaml_folder, options.config_dir), lossbench.CONF])
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
    facts = [catalog.facts(entry) for entry in chosen]
    if options.card:
        from lossbench.catalog import card

        try:
            page = card.page(chosen[0], measured[chosen[0].name])
            store.write(Path(options.card), page.encode())
        except WriteError as error:
            raise ConfigError(f"--card {error}, or name another file") from error
        print(f"Card: {options.card}")
    elif options.json:
        rows = [{**row, "measured": measured.get(row["name"])} for row in facts]
        print(json.dumps(rows, indent=1, allow_nan=False))
    else:
        columns = shutil.get_terminal_size((catalog.NORMAL_WIDTH, 24)).columns
        width = 0 if options.wide else columns
        if options.names:
            print("\n\n\n".join(catalog.description(row, width=width) for row in facts))
        elif not measured:
            print(catalog.table(facts, width=width))
        for row in facts if measured else ():
            print("\n" + catalog.verdicts(row, measured[row["name"]], width=width))
    # A variant has no claims of its own.
    names = [entry.name for entry in chosen if not entry.is_variant]
    is_disputed = any(measured[name]["disagrees"] for name in names if name in measured)
    return SOME_FAILED if is_disputed else DONE


def _loss_options(arguments: list[str]) -> argparse.Namespace:
    """What was typed after `losses`; refuses before anything is measured what cannot be written."""
    parser = _parser("losses")
    parser.add_argument("names", nargs="*")
    for flag in ("--measure", "--json", "--wide"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--card", metavar="FILE.html", default="")
    parser.add_argument("--config-dir", metavar="DIR", action="append", default=[])
    options, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"losses {unknown[0]}: {nearest(unknown[0], FLAGS['losses'])}")
    options.extensions = _extensions(options.names)
    names = [word for word in options.names if not word.startswith("extensions=")]
    options.names = [*dict.fromkeys(names)]
    path = Path(options.card)
    if options.card:
        if len(options.names) != 1:
            count = len(options.names) or "all"
            raise ConfigError(f"--card of {count} losses: name exactly one, like 'losses focal'")
        if options.json:
            raise ConfigError(f"--card {path} --json: ask for them one after the other")
        if path.suffix != ".html":
            raise ConfigError(f"--card {path}: name a file that ends in .html")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"--card {path}: there is no folder {path.parent}, make it first")
    return options


def _try(arguments: list[str]) -> int:
    parser = _parser("try")
    parser.add_argument("file", metavar="FILE.py")
    parser.add_argument("names", nargs="*")
    for flag in FLAGS["try"]:
        parser.add_argument(flag, default="")
    options = parser.parse_intermixed_args(arguments)
    overrides = [word for word in options.names if "=" in word]
    names = [word for word in options.names if "=" not in word]

    from lossbench import challenge

    path = Path(options.file)
    kind = {"task": options.task, "link": options.link, "against": options.against}
    tried = challenge.prepared(path, names, **kind)
    print("\n".join(challenge.cards(tried, width=shutil.get_terminal_size((100, 24)).columns)))
    print(flush=True)
    sizes = [word.partition("=")[2] for word in overrides if word.startswith("size=")]
    name = options.name or "-".join([challenge.default_name(path, names), *sizes])
    lines = tried.overrides(name, data=options.data, model=options.model)

    def train_and_answer(config: Any, loader: Any) -> int:
        from lossbench import launch

        typed = shlex.join(["lossbench", "try", *arguments])
        trained = launch.train(config, loader, command=typed, question=tried.question)
        folder = trained.folder
        load = _loading(folder)
        code = _finish(folder, load, extent=str(config.report))
        print("\n" + "\n".join(challenge.sentences(tried, load())))
        return code

    return _with_hydra([*lines, *overrides], train_and_answer)


def _complete(arguments: list[str]) -> int:
    """Called by a shell, see docs/commands.md, with the word as that shell breaks words."""
    from lossbench import completion

    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    word, of_shell = line.split(" ")[-1], (arguments[1:] or [""])[0]
    keys = dict.fromkeys(re.findall(r"([a-z][\w./]*)=(?=[\w{\[])", HELP))
    for one in completion.candidates(line, flags=FLAGS, keys=[*keys]):
        print(one[len(word) - len(of_shell) :])
    return DONE


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "plan": _plan,
    "report": _report,
    "export": _export,
    "verify": _verify,
    "losses": _losses,
    "try": _try,
    "complete": _complete,
}


def _refuse(message: str) -> int:
    print(f"lossbench: {_in_a_line(message)}", file=sys.stderr)
    return MISTAKE


def _in_a_line(message: str) -> str:
    """A message without breaks, the middle of an endless one left out."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 200]} ... {line[-200:]}"


if __name__ == "__main__":
    sys.exit(main())
