#!/usr/bin/env bash
# The measurement of VideoSAVi that PAPERS.md quotes: both forms, all controls, several seeds, one table.
#     benches/proof.sh OUT [KEY=VALUE ...]
# FORM=judge|critique (the form whose controls run), SEEDS="1 2 3", SAVI=target/release/savi. Further
# keys go to every run; evaluation.split=dev is how settings are chosen. Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT}
shift
form=${FORM:-judge}
read -ra seeds <<<"${SEEDS:-1 2 3}"
savi=${SAVI:-target/release/savi}
extra=()
for pair in "$@"; do extra+=(--set "$pair"); done

# arm NAME FORM KEY=VALUE...: one run a seed.
arm() {
  local name=$1 config=configs/video/proof-$2.toml sets=() pair seed
  shift 2
  for pair in "$@"; do sets+=(--set "$pair"); done
  for seed in "${seeds[@]}"; do
    echo "== $name, seed $seed"
    "$savi" video run --config "$config" "${sets[@]}" "${extra[@]}" --set "seed=$seed" --run-dir "$out/$name-$seed"
  done
}

# of NAME [@ROUND]: the arm as `eval compare` takes it.
of() {
  local folders=() seed
  for seed in "${seeds[@]}"; do folders+=("$out/$1-$seed${2:-}"); done
  local IFS=,
  echo "$1${2:+-base}=${folders[*]}"
}

arm judge judge
arm critique critique
arm other-clip "$form" method.judge_video=other method.no_pairs=skip
arm no-video "$form" method.judge_video=none method.no_pairs=skip
arm sft-initial "$form" method.learn=sft-initial
arm sft-labelled "$form" method.learn=sft-labelled
arm self-correction critique method.rounds=0 evaluation.answering=critique-revise
arm vote-of-5 judge method.rounds=0 evaluation.answering=majority
arm blind judge method.rounds=0 evaluation.view=blind

others=(judge critique other-clip no-video sft-initial self-correction vote-of-5 sft-labelled blind)
arms=()
for name in "${others[@]}"; do arms+=("$(of "$name")"); done
"$savi" eval compare "$(of judge @0)" "${arms[@]}" --families | tee "$out/table.txt"
for control in other-clip no-video sft-initial self-correction vote-of-5; do
  "$savi" eval compare "$(of "$control")" "$(of "$form")" | tee -a "$out/table.txt"
done
world=$(sed -n 's/^dir = "\(.*\)"/\1/p' "configs/video/proof-$form.toml")
split=test
for pair in "$@"; do
  case $pair in
    world.dir=*) world=${pair#*=} ;;
    evaluation.split=*) split=${pair#*=} ;;
  esac
done
"$savi" eval run --model floor:majority-class --suite moving-shapes --data "$world" --split "$split" \
  --out "$out/majority-class" | tee -a "$out/table.txt"

# What every arm learnt from, and for how long.
for lesson in "$out"/*/checkpoints/round-*/{pairs,examples}.jsonl; do
  [[ -e $lesson ]] || continue
  run=${lesson%%/checkpoints/*} round=${lesson%/*}
  steps=$(grep -c "\"round\":${round##*-}[,}]" "$run/metrics.jsonl" || true)
  echo "${run##*/} ${round##*/}: $(wc -l <"$lesson") records, $steps steps"
done | sort | tee "$out/steps.txt"
for file in "$out"/{judge,critique}-*/{audit.json,stages/*1-ask/done.json,stages/*8-audit/done.json}; do
  echo "$file"
  cat "$file"
done >"$out/audits.txt"
