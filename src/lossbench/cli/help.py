"""Text of `lossbench --help`, with the choices of the yaml files."""

from __future__ import annotations

import re
import textwrap

import lossbench

HELP = """\
lossbench trains identical models under many losses, proves that they were identical,
and says with honest statistics what the loss changed.

  lossbench                                the essay's comparison on real data, and its report
  lossbench experiment=NAME [overrides]    a named sweep, until it is settled
  lossbench experiment=essay loss=huber_tight
                                           adds one loss; only its runs are trained
  lossbench try FILE.py [NAME ...]         a fair trial of functions of your own, (output, target):
      --task --link  what they are, if what is measured is wrong   --against mse,huber
      --data --model  where, in the place of three standard data sets   --name  of the folder
  lossbench experiment=NAME size=smoke     as small as it goes, to see that it runs
  lossbench -m loss=mse,mae data=diabetes seed='range(10)' optimizer.lr=0.01,0.1 name=mine
                                           your own sweep
  lossbench loss=huber data=diabetes       one run
  lossbench plan experiment=NAME           what it would cost: runs, packs, time, budget;
      --power    what its seeds can resolve    --spread 0.02  from a stated spread
      --json     the same for programs
  lossbench status runs/NAME [--json]      what is done, trains, waits and has failed
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
    optimizer=    {optimizer}  optimizer.lr=0.1 optimizer.momentum=0.9
                  optimizer.weight_decay=0.001
    schedule=     {schedule}
    experiment=   {experiment}
    size=         {size}         of an experiment       report=all (verdicts, none)
    seed=0  steps=500  batch_size=64  log_every=10  eval_every=100  name=default
    data=FILE.csv target=COLUMN without=COLUMN,COLUMN   a table of your own
                  missing=median (fills missing numbers in; drop leaves their rows out)
    data.targets=sampled (or distribution, teacher)
    init.from=random (or permuted_labels, pretrained)
    pretrained.loss=cross_entropy  pretrained.steps=500   of that teacher or that start
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
"""Losses that the help names, by task; `lossbench losses` lists all losses."""


def usage() -> str:
    """The whole help, with choices read from the names of the yaml files."""
    indent = "\n" + " " * 18
    choices = {}
    for group in ("data", "model", "optimizer", "schedule", "experiment", "size"):
        names = " ".join(sorted(path.stem for path in (lossbench.CONF / group).glob("*.yaml")))
        choices[group] = textwrap.fill(names, 72).replace("\n", indent)
    losses = [f"{' '.join(names)}  ({task})" for task, names in SELECTION.items()]
    losses.append("and more: lossbench losses")
    return HELP.format(loss=indent.join(losses), **choices)


def usage_of(command: str) -> str:
    """Lines of the help for one command, and a line that says how to see the whole help."""
    lines, is_of_command = [], False
    for line in HELP.partition("  what to choose")[0].splitlines():
        if line.startswith("  lossbench"):
            is_of_command = line.startswith(f"  lossbench {command} ")
        if is_of_command and line.strip():
            lines.append(line)
    return "\n".join([*lines, "", "All of it: lossbench --help", ""])


def keys() -> list[str]:
    """Keys of overrides that the help mentions, without repetition."""
    return [*dict.fromkeys(re.findall(r"([a-z][\w./]*)=(?=[\w{\[])", HELP))]
