#!/usr/bin/env bash
# Execute every notebook in nbs/ in place, so that its pictures are seen where the repository is browsed. Needs results/demo (make demo).
# What papermill runs is executed with a results folder of its own, which is removed again.
set -euo pipefail
cd "$(dirname "$0")/../nbs"
execute() { jupyter nbconvert --log-level WARN --to notebook --execute --inplace "$@"; }
for notebook in [0-9][0-9]_*.ipynb explore.ipynb index.ipynb; do echo "$notebook"; execute "$notebook"; done
rm -rf ../results/scratch ../results/demo-notebook-digits # finished runs would not be trained again
for notebook in train.ipynb demo.ipynb; do echo "$notebook"; execute "$notebook"; done
cd figures
for notebook in *.ipynb; do echo "figures/$notebook"; execute "$notebook"; done
cd ../..
nbdev_clean
