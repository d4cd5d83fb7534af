#!/usr/bin/env bash
# On a borrowed machine without a scheduler: train an experiment for so many minutes, attack and draw what finished, and
# pack the results into files of at most 15 MB. The same command continues where it stopped.
#   slurm/borrowed.sh EXPERIMENT MINUTES FOLDER [--archive FILE] [--set FIELD=VALUE ...] [--jobs N]
# FILE is NAME.tar.*, a packed folder of images (train/ and test/), and is unpacked to datasets/NAME. Ctrl-C ends the
# training early. At home: cat FOLDER/EXPERIMENT.tar.gz.* | tar xz -C there && binenc merge there
set -euo pipefail
if [ $# -lt 3 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=$1 minutes=$2 out=$(realpath -m "$3") # relative folders mean those of the caller
sweep=(binenc sweep "$1")
shift 3
archive=
if [ "${1-}" = --archive ]; then
    archive=$(realpath "$2")
    shift 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/environment.sh
if [ "$archive" ]; then
    data=$(basename "$archive")
    mkdir -p "datasets/${data%%.tar*}"
    tar xf "$archive" -C "datasets/${data%%.tar*}"
fi
for option in "$@"; do # the name under which the results are kept
    case $option in experiment=*) name=${option#experiment=} ;; esac
done

# A signal lets the runs end their epochs and save checkpoints. What has not ended in three minutes is killed.
code=0
timeout --foreground --signal=INT --kill-after=180 "${minutes}m" "${sweep[@]}" "$@" || code=$?
[ $code = 124 ] && echo "$minutes minutes are over: the same command continues"

# Both say it where no run has finished yet. If one of them fails, what finished is packed all the same.
attacked=0 drawn=0
binenc attack "$name" || attacked=$?
binenc figures "$name" > /dev/null || drawn=$?
[ $drawn = 0 ] || compgen -G "results/$name/runs/*/metrics.json" > /dev/null || exit 1

# Tables, histories, thinned latents and snapshots are kept in the experiment's folder; the weights of every finished
# run join them, and the list of what is stored. Where the figures failed, the tables may lack runs: whole runs are
# packed instead.
staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
mkdir -p "$out" "$staged/$name/weights"
rm -f "$out/.$name".tar.gz.* # of a packing that was killed
left_out=$name/runs
[ $drawn = 0 ] || left_out="$name/runs/*/checkpoint*"
tar c -C results --exclude="$left_out" --exclude="$name/notebooks" "$name" | tar x -C "$staged"
for run in "results/$name/runs"/*/; do
    weights=weights/$(basename "$run").safetensors
    if [ $drawn = 0 ] && [ -e "$run/metrics.json" ] && [ -e "$run/weights.safetensors" ]; then
        cp "$run/weights.safetensors" "$staged/$name/$weights"
        (cd "$staged/$name" && { grep -q "  $weights\$" SHA256SUMS || sha256sum "$weights" >> SHA256SUMS; })
    fi
done
tar cz -C "$staged" "$name" | split -b 15000000 -d - "$out/.$name.tar.gz."
rm -f "$out/$name".tar.gz.* # the last pack stays until the next one is whole
for part in "$out/.$name".tar.gz.*; do mv "$part" "$out/$(basename "$part" | cut -c2-)"; done
du -ch "$out/$name".tar.gz.* | tail -n 1
[ $code = 124 ] && code=0
exit $((code ? code : attacked ? attacked : drawn))
