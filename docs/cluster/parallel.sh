#!/bin/bash
# A sweep over machines that you can reach by ssh, with GNU parallel: each gives the same command,
# in the folder where you stand, which all of them see.
#   bash parallel.sh node1 node2 node3
set -euo pipefail
machines=$(IFS=,; echo "$*")
parallel -n0 --jobs 1 --sshlogin "$machines" --workdir . --tag --line-buffer \
  .venv/bin/lossbench experiment=essay hydra.launcher.workers=4 report=none ::: $(seq $#)
.venv/bin/lossbench report runs/essay
