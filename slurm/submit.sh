#!/usr/bin/env bash
# Submit the pending runs of an experiment as one job array, and the figures after it. Submitting again continues.
#   slurm/submit.sh EXPERIMENT [--set FIELD=VALUE ...] [--runs-per-task N] [--max-parallel N] [--dry-run]
#                   [-- SBATCH FLAGS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/environment.sh
exec binenc submit "$@"
