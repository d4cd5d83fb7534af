# Sourced by the batch scripts: a temporary folder for this job alone. Kernels that share these folders between nodes
# get in each other's way.
export BINENC_TASK_DIR
BINENC_TASK_DIR=$(mktemp -d "${BINENC_SCRATCH:-${TMPDIR:-/tmp}}/binenc.XXXXXX") || exit 1
export TMPDIR=$BINENC_TASK_DIR IPYTHONDIR=$BINENC_TASK_DIR/ipython
export JUPYTER_RUNTIME_DIR=$BINENC_TASK_DIR/jupyter MPLCONFIGDIR=$BINENC_TASK_DIR/matplotlib
