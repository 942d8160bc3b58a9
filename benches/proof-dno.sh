#!/usr/bin/env bash
# The measurement of DNO that PAPERS.md quotes: the start and three iterates, several seeds, one table.
#     benches/proof-dno.sh OUT [KEY=VALUE ...]
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
  local seed=$1
  shift
  "$savi" text dno --config configs/text/dno-proof.toml --set "seed=$seed" "$@" --run-dir "$out/dno-$seed" \
    >"$out/logs/$seed.log" 2>&1 || { echo "seed $seed: failed"; tail -3 "$out/logs/$seed.log"; return 1; }
  echo "seed $seed: done"
}
export -f one
for seed in "${seeds[@]}"; do printf '%s\0' "$(printf '%q ' one "$seed" "${extra[@]}")"; done |
  xargs -0 -n 1 -P "${JOBS:-$(nproc)}" bash -c

of() {
  local folders=() seed
  for seed in "${seeds[@]}"; do folders+=("$out/dno-$seed@$1"); done
  local IFS=,
  echo "$2=${folders[*]}"
}
{
  "$savi" eval compare --families "$(of 0 start)" "$(of 1 iterate-1)" "$(of 2 iterate-2)" "$(of 3 iterate-3)"
  "$savi" eval compare "$(of 1 iterate-1)" "$(of 2 iterate-2)" "$(of 3 iterate-3)"
  "$savi" eval compare "$(of 2 iterate-2)" "$(of 3 iterate-3)"
} | tee "$out/table.txt"
cat "$out"/dno-*/dynamics.json >"$out/dynamics.txt"
