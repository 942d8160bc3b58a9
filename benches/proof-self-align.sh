#!/usr/bin/env bash
# What engraving does to SmolLM2-135M-Instruct, three seeds:
#     benches/proof-self-align.sh OUT MODEL TRUTHFULQA_DIR ADVBENCH_DIR VICUNA_DIR
# Arms: the base under the standard prompt, the base under principles and examples (without thoughts: the answer follows at
# once), and for each seed what was engraved, under the standard prompt. Measures: TruthfulQA's MC1 (the first 400 rows), refusals
# of the first 100 of AdvBench's requests, length and share cut off of replies to the first 40 of Vicuna's questions.
# DEVICE=auto, SAVI=target/release/savi, JOBS=1: so many seeds and arms beside each other.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT} model=${2:?MODEL} truthfulqa=${3:?TRUTHFULQA} advbench=${4:?ADVBENCH} vicuna=${5:?VICUNA}
savi=${SAVI:-target/release/savi} device=${DEVICE:-auto} jobs=${JOBS:-1}
mkdir -p "$out"

engrave() {
  "$savi" text self-align --config configs/text/self-align-proof.toml --set "model=$model" --set "device=$device" \
    --set "seed=$1" --run-dir "$out/seed-$1" >"$out/seed-$1.log" 2>&1 &&
    "$savi" model merge "$model" "$out/engraved-$1" --overwrite --adapter "$out/seed-$1/checkpoints/round-1/adapter" --dtype f32 \
      >>"$out/seed-$1.log" 2>&1
}
ask() { # arm, model, template
  "$savi" eval run --suite truthfulqa-mc1 --limit 400 --data "$truthfulqa" --model "$2" --template "$3" --device "$device" --chunk 16 \
    --out "$out/$1-mc1" >"$out/$1.log" 2>&1
  "$savi" eval run --suite advbench --limit 100 --data "$advbench" --model "$2" --template "$3" --plain --stop "### User" \
    --max-tokens 64 --device "$device" --out "$out/$1-advbench" >>"$out/$1.log" 2>&1
  "$savi" eval run --suite vicuna-80 --limit 40 --data "$vicuna" --model "$2" --template "$3" --plain --stop "### User" \
    --max-tokens 128 --device "$device" --out "$out/$1-vicuna" >>"$out/$1.log" 2>&1
}
export -f engrave ask
export savi out model truthfulqa advbench vicuna device

printf '%s\n' 1 2 3 | xargs -P "$jobs" -I{} bash -c 'engrave {} || { tail -3 "$out/seed-{}.log"; exit 1; }'
standard=$out/seed-1/prompts/standard.txt
# The thoughts are left out: options are scored, and replies read, right after the heading of the answer.
sed '$ s/ (internal thoughts)$//' "$out/seed-1/prompts/principles.txt" >"$out/principles.txt"
{
  echo "base $model $standard"
  echo "principles $model $out/principles.txt"
  for seed in 1 2 3; do echo "engraved-$seed $out/engraved-$seed $standard"; done
} | xargs -P "$jobs" -L 1 bash -c 'ask "$@" || { tail -3 "$out/$1.log"; exit 255; }' _

engraved() { echo "engraved=$out/engraved-1-$1,$out/engraved-2-$1,$out/engraved-3-$1"; }
for suite in mc1 advbench; do
  echo "== $suite"
  "$savi" eval compare "base=$out/base-$suite" "principles=$out/principles-$suite" "$(engraved $suite)" --other-words
  "$savi" eval compare "principles=$out/principles-$suite" "$(engraved $suite)" --other-words
done
for metric in length cut-off; do
  echo "== vicuna-80, $metric"
  "$savi" eval compare "base=$out/base-vicuna" "principles=$out/principles-vicuna" "$(engraved vicuna)" \
    --metric "$metric" --other-words
done
for seed in 1 2 3; do echo "== seed $seed"; grep -A12 "^stage " "$out/seed-$seed.log"; done
