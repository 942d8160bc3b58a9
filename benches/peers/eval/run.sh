#!/usr/bin/env bash
# lm-evaluation-harness and savi on the same items, held against each other item by item:
#     benches/peers/eval/run.sh OUT GGUF GSM8K_TEST_JSONL TRUTHFULQA_CSV
# GGUF is SmolLM2-135M-Instruct's, GSM8K_TEST_JSONL the authors' test.jsonl (its first 100 rows are asked, greedily, without
# worked examples, 256 tokens), TRUTHFULQA_CSV the authors' TruthfulQA.csv of 2025 (all rows, options by their log-probabilities).
# PYTHON has lm_eval 0.4.13 with transformers, torch and gguf; SAVI is the program. Both sides compute in f32.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?OUT} gguf=${2:?GGUF} gsm8k=${3:?GSM8K} truthfulqa=${4:?TRUTHFULQA}
python=${PYTHON:-python3} savi=${SAVI:-$here/../../../target/release/savi}
mkdir -p "$out/tasks" "$out/data/gsm8k" "$out/data/truthfulqa"
cp "$gsm8k" "$out/data/gsm8k/test.jsonl"
cp "$truthfulqa" "$out/data/truthfulqa/TruthfulQA.csv"
"$python" "$here/tasks.py" "$out"
if [ ! -e "$out/lm-eval.done" ]; then
  TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 "$python" -m lm_eval run --model hf \
    --model_args "pretrained=$(dirname "$gguf"),gguf_file=$(basename "$gguf"),dtype=float32" --device cpu \
    --tasks local_truthfulqa_mc1,local_truthfulqa_mc2 --include_path "$out/tasks" --batch_size 16 \
    --log_samples --output_path "$out/lm-eval"
  TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 "$python" -m lm_eval run --model hf \
    --model_args "pretrained=$(dirname "$gguf"),gguf_file=$(basename "$gguf"),dtype=float32" --device cpu \
    --tasks local_gsm8k --include_path "$out/tasks" --batch_size 16 --limit 100 \
    --log_samples --output_path "$out/lm-eval"
  touch "$out/lm-eval.done"
fi
ask() {
  "$savi" eval run --model "$gguf" --device cpu --data "$out/data/$2" --suite "$1" --out "$out/savi/$1" "${@:3}"
}
ask truthfulqa-mc1 truthfulqa
ask truthfulqa-mc2 truthfulqa
ask gsm8k gsm8k --plain --limit 100 --max-tokens 256
"$python" "$here/compare.py" "$out"
