#!/usr/bin/env bash
# The full-size study within slices of time: trains, then analyses, and packs what is small enough to take along.
#
#   tests/benchmarks/full_size.sh RECIPE DATA_ROOT RUNS OUT SECONDS
#
# Run it again until it says "complete": training and analysis continue where they were stopped. On a GPU all optimizers train
# side by side. OUT gets one archive per run, below 16 MB each: the checkpoints at the epochs of the published curves (10, 50,
# 100, 160, 170, 190, 200), the log, every stored result without its vectors, and of a run that is not finished the state to go
# on from: unpacked into RUNS on another machine, training continues there.
set -uo pipefail
recipe=$1 data=$2 runs=$3 out=$4 seconds=$5
began=$SECONDS
python=${PYTHON:-python}
left() { echo $((seconds - (SECONDS - began))); }
state=complete
for step in train analyze; do
  target=$recipe; extra=(--out "$runs")
  [ $step = analyze ] && { target=$runs/$recipe; extra=(); }
  timeout --signal=INT --kill-after=30 "$(left)" "$python" -m saddlescope $step "$target" "${extra[@]}" --data-root "$data" ${JOBS:+--jobs "$JOBS"}
  code=$?
  [ $code = 0 ] || { state="stopped in $step (exit $code): run again"; break; }
done
mkdir -p "$out"
for run in "$runs/$recipe"/*/; do
  [ -d "$run" ] || continue
  name=$(basename "$run")
  (cd "$runs" && find "$recipe/$name" -type f \( -name 'checkpoint.*' -o -name 'state.pt' -o -name '*.jsonl' -o -name 'run.json' -o -path '*/curvature/*.json' \
    -o -regex '.*/epoch-0*\(10\|50\|100\|160\|170\|190\|200\)\.\(pt\|json\)' \) -not -path '*/.*' | sort |
    tar --create --gzip --file - --files-from -) >"$out/.$name.partial" && mv "$out/.$name.partial" "$out/$name.tar.gz"
done
[ -d "$runs/$recipe" ] && cp "$runs/$recipe"/study.json "$runs/$recipe"/recipe.toml "$out/" 2>/dev/null
echo "$state"
