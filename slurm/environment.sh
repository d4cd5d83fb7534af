# Sourced by submit.sh and the batch scripts, in the repository: the cluster's settings, and the command `binenc`.
set +eu # in cluster.sh, a command may fail and a variable may not be set: modules and conda need that
source slurm/cluster.sh
if ! command -v binenc > /dev/null && [ -x .venv/bin/binenc ]; then PATH="$PWD/.venv/bin:$PATH"; fi
if ! command -v binenc > /dev/null; then
    echo "binenc is not installed here: run pip install '.[lab]', or activate its environment in slurm/cluster.sh" >&2
    echo "Without a network: pip download --dest wheels '.[lab]' setuptools by the same Python elsewhere, then" >&2
    echo "pip install --no-index --find-links wheels '.[lab]'" >&2
    exit 1
fi
export BINENC_REPO=$PWD BINENC_TRAIN_FLAGS BINENC_FIGURES_FLAGS BINENC_SCRATCH
