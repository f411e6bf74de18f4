#!/bin/bash
# A sweep as a PBS array (SGE: -t 1-8 and $SGE_TASK_ID): eight jobs give the same command, and share
# its packs. Which of them a job is does not matter.
#   qsub pbs.sh
# When all have ended: lossbench report runs/essay
#PBS -N essay
#PBS -J 1-8
#PBS -l select=1:ncpus=1:mem=2gb
#PBS -l walltime=04:00:00
#PBS -r y
set -euo pipefail
cd "$PBS_O_WORKDIR" # in a folder that all nodes see
source .venv/bin/activate
exec lossbench experiment=essay hydra.launcher.workers=1 report=none
