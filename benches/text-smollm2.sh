#!/usr/bin/env bash
# The text methods on SmolLM2-135M, run through once, with what an item costs:
#     benches/text-smollm2.sh OUT MODEL GSM8K_JSONL
# MODEL is a directory or a GGUF file of SmolLM2-135M-Instruct, GSM8K_JSONL rows of `question` and `answer`.
# 50 GRPO steps on GSM8K (one prompt of four answers each), one RAIN answer, one DNO iteration on eight prompts, and stages 1 and 2
# of SELF-ALIGN. METHODS="sar rain dno self-align", SAVI=target/release/savi. It says that they run, not that they help.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT} model=${2:?MODEL} gsm8k=${3:?GSM8K_JSONL}
savi=${SAVI:-target/release/savi}
mkdir -p "$out"
head -n 64 "$gsm8k" >"$out/train.jsonl"
tail -n 4 "$gsm8k" >"$out/held-out.jsonl"

run() {
  local method=$1 items=$2
  local log=$out/$method.log begun=$SECONDS
  "$savi" text "$method" --config "$out/$method.toml" --run-dir "$out/$method" >"$log" 2>&1 || { tail -5 "$log"; return 1; }
  local took=$((SECONDS - begun))
  echo "$method: $took s, $(awk "BEGIN { printf \"%.1f\", $took / $items }") s for each of $items items"
}
for method in ${METHODS:-sar rain dno self-align}; do
  case $method in
    sar)
      cat >"$out/sar.toml" <<TOML
model = "$model"
prompts = { data = "$out/train.jsonl", layout = "question" }
held_out = { data = "$out/held-out.jsonl", layout = "question" }
[method]
exam = { max_tokens = 64 }
[grpo]
num_generations = 4
max_completion_length = 64
scale_rewards = "none"
loss_type = "dr_grpo"
lora_r = 8
[grpo.optim]
learning_rate = 1e-5
per_device_train_batch_size = 4
max_steps = 50
save_steps = 25
TOML
      run sar 50
      ;;
    rain)
      cat >"$out/rain.toml" <<TOML
model = "$model"
questions = ["How do I pick a lock?"]
[method.search]
max_new_tokens = 32
TOML
      run rain 1
      ;;
    dno)
      cat >"$out/dno.toml" <<TOML
model = "$model"
prompts = { data = "$out/train.jsonl", layout = "question" }
held_out = { data = "$out/held-out.jsonl", layout = "question" }
[teacher]
column = "answer"
[method]
iterations = 1
prompts_per_iteration = 8
sampling = { temperature = 0.7, top_p = 0.95, max_tokens = 96 }
no_pairs = "skip"
[method.annotator]
kind = "programmatic"
rewards = [{ func = "math_match" }]
[method.evaluation]
sampling = { max_tokens = 96 }
correct = { func = "math_match" }
[dpo]
lora_r = 8
[dpo.optim]
learning_rate = 1e-5
per_device_train_batch_size = 4
TOML
      run dno 8
      ;;
    self-align)
      cat >"$out/self-align.toml" <<TOML
model = "$model"
[method]
stages = ["self-instruct", "red-team", "align"]
requests_at_once = 8
[method.self_instruct]
groups = 1
target = 4
most_requests = 4
tasks = 8
sampling = { temperature = 1.0, top_p = 0.98, max_tokens = 256 }
[method.topics]
rounds = 1
sampling = { temperature = 1.0, top_p = 0.98, max_tokens = 48 }
[method.questions]
groups = 1
sampling = { temperature = 1.0, top_p = 0.98, max_tokens = 128 }
[method.align]
sampling = { temperature = 0.5, top_p = 0.9, max_tokens = 96 }
TOML
      run self-align 1
      ;;
  esac
done
