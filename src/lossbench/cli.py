"""The command line: a bare word is a command, anything else is a Hydra override."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lossbench

DONE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

HELP = """\
lossbench trains identical models under many losses, proves that they were identical,
and says with honest statistics what the loss changed.

  lossbench                                the essay's comparison on real data, and its report
  lossbench experiment=NAME [overrides]    a named sweep: tune, confirm, report
  lossbench experiment=essay loss=huber_tight
                                           adds one loss; only its runs are trained
  lossbench -m loss=mse,mae data=diabetes seed='range(10)' optimizer.lr=0.01,0.1 name=mine
                                           your own sweep
  lossbench loss=huber data=diabetes       one run
  lossbench report runs/NAME [--strict]    figures, tables, HTML page (--strict: exit 1 if
                                           the sweep is not complete)
  lossbench losses [NAME ...] [--measure]  the catalog: formula, link, claims

  what to choose (KEY=VALUE; KEY=A,B sweeps; the files in conf/ are the choices)
    data=         digits diabetes gaussian_mixture noisy_linear noisy_linear_student_t
    loss=         mse mae quartic huber huber_tight log_cosh
                  cross_entropy brier mse_logits mae_probs quartic_probs
    model=        mlp linear                model.params.widths=[64,64]
    optimizer=    sgd adam                  optimizer.lr=0.1 optimizer.weight_decay=0.001
    schedule=     constant cosine
    seed=0  steps=500  batch_size=64  log_every=10  eval_every=100  name=default
    engine.device=cpu  engine.precision=float32  engine.pack_size=128

  --config-dir DIR   adds your own yaml files   extensions=[my_module]   adds your own losses
  --cfg job          prints the configuration   --info   Hydra's own view   --version

Everything is written to runs/NAME. The same command again trains only what is missing.
Exit codes: 0 done, 1 some runs failed, 2 a mistake in what was asked.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `lossbench` command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in arguments for word in ("--help", "-h", "help")):
        print(HELP, end="")
        return DONE
    if "--version" in arguments:
        print(f"lossbench {lossbench.__version__}")
        return DONE
    command = next(iter(arguments), "")
    try:
        if command in COMMANDS:
            return COMMANDS[command](arguments[1:])
        if re.fullmatch(r"[A-Za-z][\w-]*", command):
            return _mistake(f"unknown command {command!r}: {_nearest_command(command)}")
        return _sweep(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished is kept; the same command goes on from there.")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def conf_dir() -> Path:
    """The folder of yaml files: inside the installed package, or the checkout's own."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def _sweep(arguments: list[str]) -> int:
    import yaml
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lossbench.config import ConfigError, explained, register
    from lossbench.launch import RunsFailed
    from lossbench.store import StoreError

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("lossbench").setLevel(logging.INFO)
    args, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        return _mistake(f"unknown option {unknown[0]!r}: see 'lossbench --help'")
    if not args.overrides and not args.multirun:
        args.overrides = ["experiment=essay"]
    register()
    try:
        return _hydra(args)
    except RunsFailed as failure:
        return _finish(failure.folder, with_report=False)
    except BrokenPipeError:
        raise
    except yaml.YAMLError as error:
        return _mistake("a yaml file cannot be read: " + " ".join(str(error).split()))
    except (HydraException, OmegaConfBaseException) as error:
        return _mistake(explained(error))
    except (ConfigError, StoreError, OSError) as error:
        return _mistake(str(error))


def _hydra(args: Any) -> int:
    """What Hydra's own main does, with our search path, checks and exit codes."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    from lossbench.config import check_overrides
    from lossbench.launch import task

    hydra = Hydra.create_main_hydra2("lossbench", _search_path(args.config_dir))
    try:
        if args.shell_completion:
            hydra.shell_completion("config", args.overrides)
            return DONE
        check_overrides(args.overrides, hydra.config_loader)
        if args.cfg:
            hydra.show_cfg("config", args.overrides, args.cfg, args.package, args.resolve)
            return DONE
        if args.info:
            hydra.show_info(args.info, "config", args.overrides)
            return DONE
        launched = hydra.multirun("config", task, args.overrides, with_log_configuration=False)
    finally:
        GlobalHydra.instance().clear()
    folder = Path(next(job for jobs in launched for job in jobs).working_dir)
    return _finish(folder, with_report=any("experiment=" in line for line in args.overrides))


def _search_path(config_dir: str | None) -> Any:
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra._internal.utils import create_config_search_path

    from lossbench.config import ConfigError

    path = create_config_search_path(str(conf_dir()))
    assert isinstance(path, ConfigSearchPathImpl)
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(
                f"--config-dir {config_dir}: no such folder, name one with yaml files"
            )
        path.prepend("command-line", f"file://{folder}")
    return path


def _finish(folder: Path, *, with_report: bool) -> int:
    """Print the table of results and the failures, write the report of an experiment."""
    from lossbench import records, report

    loaded = records.load(folder)
    print(report.table(loaded), end="")
    if with_report:
        start = time.monotonic()
        print("\nWriting the report ...", flush=True)
        path = report.write(folder)
        print(f"Report: {path}  (written in {time.monotonic() - start:.1f} s)")
    else:
        print(f"\nRecords: {folder}  (figures and tables: lossbench report {folder})")
    failed = loaded.runs[loaded.runs.status == "failed"]
    for run in failed.itertuples():
        reason = str(run.reason).strip().splitlines()[-1]
        print(f"failed: {run.run_id} {run.data} {run.loss} lr={run.lr:g} seed={run.seed}: {reason}")
    return SOME_FAILED if len(failed) else DONE


def _report(arguments: list[str]) -> int:
    from lossbench import records, report
    from lossbench.store import StoreError

    folders = [argument for argument in arguments if not argument.startswith("--")]
    if len(folders) != 1 or set(arguments) - {*folders, "--strict"}:
        return _mistake(
            f"report {' '.join(arguments)}: use 'lossbench report runs/NAME [--strict]'"
        )
    try:
        loaded = records.load(folders[0])
        path = report.write(Path(folders[0]))
        print(report.table(loaded), end="")
    except (StoreError, ValueError) as error:
        return _mistake(str(error))
    print(f"\nReport: {path}")
    missing = int(loaded.runs.status.isin(["missing", "failed"]).sum())
    if missing and "--strict" in arguments:
        print(f"{missing} of {len(loaded.runs)} runs are missing or failed")
        return SOME_FAILED
    return DONE


def _losses(arguments: list[str]) -> int:
    from lossbench.config import ConfigError, load_extensions, nearest
    from lossbench.losses import LOSSES

    modules = [line for line in arguments if line.startswith("extensions=")]
    arguments = [line for line in arguments if line not in modules]
    try:
        load_extensions(re.findall(r"[^\s,\[\]]+", " ".join(m.partition("=")[2] for m in modules)))
    except ConfigError as error:
        return _mistake(str(error))
    names = [argument for argument in arguments if not argument.startswith("--")]
    if flags := set(arguments) - {*names, "--measure"}:
        return _mistake(f"losses {' '.join(flags)}: use 'lossbench losses [NAME ...] [--measure]'")
    for name in names:
        if name not in LOSSES:
            return _mistake(f"loss {name!r} is unknown: {nearest(name, LOSSES)}")
    if names:
        print("\n\n".join(_card(LOSSES[name]) for name in names))
    else:
        print(_catalog(list(LOSSES.values())))
    if "--measure" in arguments:
        _print_measured(names or list(LOSSES))
    return DONE


def _catalog(rows: Sequence[Any]) -> str:
    lines = []
    for task in ("regression", "classification"):
        lines.append(f"{task}\n  {'name':<16}{'family':<12}{'inverse link':<15}formula")
        for row in rows:
            if row.task == task:
                lines.append(f"  {row.name:<16}{row.family:<12}{row.inverse_link:<15}{row.formula}")
    return "\n".join([*lines, "\nlossbench losses NAME tells all about one of them."])


def _card(row: Any) -> str:
    claims = textwrap.fill(", ".join(sorted(row.claims)) or "none", 76, subsequent_indent=" " * 16)
    facts = {
        "task": row.task,
        "family": row.family,
        "inverse link": row.inverse_link,
        "formula": row.formula,
        "claims": claims,
        "source": row.source,
    }
    about = (row.fn.__doc__ or "").strip().splitlines() or [""]
    lines = [f"  {name:<14}{value}" for name, value in facts.items()]
    return "\n".join([f"{row.name}: {about[0]}", *lines])


def _print_measured(names: list[str]) -> None:
    from lossbench.claims import measure
    from lossbench.losses import LOSSES

    for name in names:
        print(f"\n{name}, measured")
        for claim, verdict in measure(LOSSES[name]).items():
            print(f"  {claim:<22}{'holds' if verdict.holds else 'fails':<7}{verdict.witness}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {"report": _report, "losses": _losses}


def _mistake(message: str) -> int:
    print(f"lossbench: {message}", file=sys.stderr)
    return MISTAKE


def _nearest_command(word: str) -> str:
    found = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"did you mean {found[0]!r}?" if found else f"use one of {', '.join(COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
