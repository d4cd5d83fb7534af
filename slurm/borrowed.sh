#!/usr/bin/env bash
# On a borrowed machine without a scheduler: train an experiment for MINUTES, draw what has finished, attack it for
# MINUTES more at most, and pack the results into files of at most 15 MB. The same command continues where it stopped.
#   slurm/borrowed.sh EXPERIMENT MINUTES FOLDER [--archive FILE] [--set FIELD=VALUE ...] [--jobs N]
# FILE is NAME.tar.*, a packed folder of images (train/ and test/), and is unpacked to datasets/NAME. Ctrl-C ends the
# training early. FOLDER gets three packs, each in parts: EXPERIMENT.tar.gz.* (tables, histories, thinned latents; once
# before the attacks and once after them), EXPERIMENT.weights.tar.gz.* (to be unpacked after it), and
# EXPERIMENT.unfinished.tar.gz.* (checkpoints, attacks that were stopped, and why runs failed).
#   At home:            cat FOLDER/EXPERIMENT.tar.gz.* | tar xz -C there && binenc merge there
#   To continue there:  cat FOLDER/EXPERIMENT.unfinished.tar.gz.* | tar xz -C results, then the same command
set -euo pipefail
if [ $# -lt 3 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
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
jobs=() previous=
for option in "$@"; do # the name under which the results are kept, and the runs side by side
    case "$previous $option" in
        *" experiment="* | *" --set=experiment="*) name=${option##*experiment=} ;;
        "--jobs "* | "-j "*) jobs=(--jobs "$option") ;;
    esac
    previous=$option
done
mkdir -p "$out"
shopt -s nullglob

pack() { # the name of the pack, then what tar takes from results/
    rm -f "$out/.$1".tar.gz.* # of a packing that was killed
    tar cz -C results "${@:2}" | split -b 15000000 -d - "$out/.$1.tar.gz."
    rm -f "$out/$1".tar.gz.* # the last pack stays until the next one is whole
    for part in "$out/.$1".tar.gz.*; do mv "$part" "$out/${part##*/.}"; done
    du -ch "$out/$1".tar.gz.* | tail -n 1
}

tables() { # Where the figures fail, the tables may lack runs: whole runs are packed instead.
    drawn=0
    binenc figures "$name" > /dev/null || drawn=$?
    if [ $drawn = 0 ]; then
        pack "$name" --exclude="$name/runs" --exclude="$name/notebooks" "$name"
    elif finished; then
        pack "$name" --exclude="$name/notebooks" --exclude="$name/runs/*/checkpoint*" "$name"
    fi
}

in_time() { # The command, and Ctrl-C when the minutes are over. What has not ended three minutes later is killed.
    local code=0
    timeout --foreground --signal=INT --kill-after=180 "${minutes}m" "$@" || code=$?
    [ $code != 124 ] || echo "$minutes minutes are over: the same command continues"
    return $code
}

attacked() { # Whether a run's attacks are complete, and in the table.
    { zcat "results/$name/attacks.csv.gz" 2> /dev/null || true; } | grep "^$1," > /dev/null
}

finished() { compgen -G "results/$name/runs/*/metrics.json" > /dev/null; }

code=0
in_time "${sweep[@]}" "$@" || code=$?

stopped=0
tables
if [ $drawn = 0 ] || finished; then
    in_time binenc attack "$name" "${jobs[@]}" || stopped=$?
    tables
fi

# The weights of finished runs come with a list of all that is stored. Packed whole runs have theirs.
staged=$(mktemp -d) unfinished=()
trap 'rm -rf "$staged"' EXIT
mkdir -p "$staged/$name/weights"
for run in "results/$name/runs"/*/; do
    id=$(basename "$run")
    weights=weights/$id.safetensors
    if ! [ -e "$run/metrics.json" ]; then
        unfinished+=("${run#results/}")
        continue
    fi
    if [ -e "$run/attacks.csv" ] && ! attacked "$id"; then
        unfinished+=("${run#results/}")
    fi
    if [ $drawn = 0 ] && [ -e "$run/weights.safetensors" ]; then
        cp "$run/weights.safetensors" "$staged/$name/$weights"
        (cd "$staged/$name" && sha256sum "$weights" >> SHA256SUMS)
    fi
done
if [ -e "$staged/$name/SHA256SUMS" ]; then
    sort -u -o "$staged/$name/SHA256SUMS" "results/$name/SHA256SUMS" "$staged/$name/SHA256SUMS"
    pack "$name.weights" -C "$staged" "$name"
fi
if [ ${#unfinished[@]} -gt 0 ]; then
    pack "$name.unfinished" --exclude='checkpoint-previous*' --exclude=lock "$name/experiment.json" "${unfinished[@]}"
else
    rm -f "$out/$name.unfinished".tar.gz.*
fi
[ $code != 124 ] || code=0
[ $stopped != 124 ] || stopped=0
exit $((code ? code : stopped ? stopped : drawn))
