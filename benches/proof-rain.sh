#!/usr/bin/env bash
# The measurement of RAIN that PAPERS.md quotes: judges of several accuracies, several seeds, one table.
#     benches/proof-rain.sh OUT [KEY=VALUE ...]
# ACCURACIES="0.5 0.7 0.9 1.0", SEEDS="1 2 3", SAVI=target/release/savi, JOBS runs at a time on a thread each (results do
# not depend on threads). Each seed has problems of its own. Further keys go to every run. Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT}
shift
read -ra seeds <<<"${SEEDS:-1 2 3}"
read -ra accuracies <<<"${ACCURACIES:-0.5 0.7 0.9 1.0}"
export savi=${SAVI:-target/release/savi} out RAYON_NUM_THREADS=1
extra=()
for pair in "$@"; do extra+=(--set "$pair"); done
mkdir -p "$out/logs"

one() {
  local accuracy=$1 seed=$2
  shift 2
  "$savi" text rain --config configs/text/rain-proof.toml --set "graded.accuracy=$accuracy" --set "seed=$seed" \
    --set "world.seed=2$seed" "$@" --run-dir "$out/$accuracy-$seed" >"$out/logs/$accuracy-$seed.log" 2>&1 ||
    { echo "$accuracy, seed $seed: failed"; tail -3 "$out/logs/$accuracy-$seed.log"; return 1; }
  echo "$accuracy, seed $seed: done"
}
export -f one
queue=()
for seed in "${seeds[@]}"; do
  for accuracy in "${accuracies[@]}"; do
    queue+=("$(printf '%q ' one "$accuracy" "$seed" "${extra[@]}")")
  done
done
printf '%s\0' "${queue[@]}" | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" bash -c
python3 benches/proof_rain.py "$out" "${accuracies[@]}" | tee "$out/table.txt"
