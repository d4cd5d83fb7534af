#!/usr/bin/env bash
# Submit the pending runs of an experiment as one job array, and the figures after it. Submitting again continues.
#   slurm/submit.sh EXPERIMENT [--set FIELD=VALUE ...] [--runs-per-task N] [--max-parallel N] [--dry-run]
#                   [-- SBATCH FLAGS]
# Relative folders mean those of the caller; jobs run in the repository.
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source slurm/environment.sh
cd "$caller" || exit 1
exec binenc submit "$@"
