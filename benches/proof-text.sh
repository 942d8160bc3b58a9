#!/usr/bin/env bash
# The measurement of SAR that PAPERS.md quotes: base, GRPO and SA-GRPO, several seeds, one table.
#     benches/proof-text.sh OUT [KEY=VALUE ...]
# SEEDS="1 2 3", SAVI=target/release/savi, JOBS runs at a time on a thread each (results do not depend on
# threads). Further keys go to every run; world.split=dev is how settings are chosen. Stopped, it goes on
# where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT}
shift
read -ra seeds <<<"${SEEDS:-1 2 3}"
export savi=${SAVI:-target/release/savi} out RAYON_NUM_THREADS=1
extra=()
for pair in "$@"; do extra+=(--set "$pair"); done
mkdir -p "$out/logs"

one() {
  local name=$1 seed=$2
  shift 2
  "$savi" text sar --config configs/text/sar-proof.toml "$@" --set "seed=$seed" --run-dir "$out/$name-$seed" \
    >"$out/logs/$name-$seed.log" 2>&1 || { echo "$name, seed $seed: failed"; tail -3 "$out/logs/$name-$seed.log"; return 1; }
  echo "$name, seed $seed: done"
}
export -f one
queue=()
for seed in "${seeds[@]}"; do
  queue+=("$(printf '%q ' one grpo "$seed" --set method.beside=nothing "${extra[@]}")")
  queue+=("$(printf '%q ' one sa-grpo "$seed" --set method.beside=self_aligned "${extra[@]}")")
done
printf '%s\0' "${queue[@]}" | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" bash -c

of() {
  local folders=() seed
  for seed in "${seeds[@]}"; do folders+=("$out/$1-$seed${2:-}"); done
  local IFS=,
  echo "${3:-$1}=${folders[*]}"
}
for metric in accuracy length; do
  echo "$metric"
  "$savi" eval compare --metric "$metric" --families "$(of grpo @0 base)" "$(of grpo)" "$(of sa-grpo)"
  "$savi" eval compare --metric "$metric" "$(of grpo)" "$(of sa-grpo)"
done | tee "$out/table.txt"
