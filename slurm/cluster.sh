# The one file to edit for your cluster. It is sourced when you submit and at the start of every job.
# As it is, it works where the environment is already active (jobs inherit it) or lies in .venv of this folder.

# Software: modules and environment.
# module load python/3.11 cuda
# source ~/envs/binenc/bin/activate

# What a training run asks for. Flags after -- on the command line of submit.sh win over these. A run is told half
# a minute before its time is over to save a checkpoint; --signal=B:USR1@120 tells it two minutes before.
BINENC_TRAIN_FLAGS="--gres=gpu:1 --time=04:00:00"

# What the job that draws the figures asks for; it needs no GPU. Of the flags after --, it takes only account and mail.
BINENC_FIGURES_FLAGS="--time=01:00:00"

# Partition or account, if your cluster wants one, for both:
# BINENC_TRAIN_FLAGS+=" --partition=gpu --account=me"; BINENC_FIGURES_FLAGS+=" --partition=cpu --account=me"

# A folder on the node's own disk for temporary files; by default TMPDIR, else /tmp.
# BINENC_SCRATCH=/local/$USER
