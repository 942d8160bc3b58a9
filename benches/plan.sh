#!/bin/sh
# Measured peak memory of trainings beside what `savi plan` said of them.
#
# plan.sh SAVI FOLDER [MODEL]: SAVI is the binary, FOLDER an empty folder to work in, MODEL a Hugging Face directory of
# a text model (SmolLM2-135M in benches/results). Prints for each config what was planned and measured, and their
# ratio. The measured figure is the process's peak resident memory, from the last line of its metrics.
set -eu
savi=$1 folder=$2 model=${3:-}
mkdir -p "$folder"
cd "$folder"
python3 - <<'PY'
import json, random
random.seed(1)
words = "the red circle moves left and right of a blue square while it turns up or down again".split()
def text(n):
    return " ".join(random.choice(words) for _ in range(n))
def turn(role, words):
    return [{"role": role, "content": words}]
with open("pairs.jsonl", "w") as file:
    for _ in range(16):
        row = {"prompt": turn("user", text(100)), "chosen": turn("assistant", text(60)), "rejected": turn("assistant", text(60))}
        file.write(json.dumps(row) + "\n")
with open("turns.jsonl", "w") as file:
    for _ in range(16):
        file.write(json.dumps({"messages": turn("user", text(60)) + turn("assistant", text(200))}) + "\n")
PY
config() { # NAME TRAINER MODEL BATCH LORA_R MORE
    data=pairs.jsonl
    [ "$2" = sft ] && data=turns.jsonl
    cat > "$1.toml" <<TOML
model = "$3"
data = "$data"
device = "cpu"
[$2]
lora_r = $5
[$2.optim]
per_device_train_batch_size = $4
max_steps = 3
save_steps = 100
$6
TOML
}
measure() { # NAME TRAINER
    planned=$("$savi" plan --config "$1.toml" --json --log error)
    "$savi" train "$2" --config "$1.toml" --run-dir "run-$1" --log error > /dev/null 2>&1
    PLANNED=$planned python3 - "$1" <<'PY'
import json, os, sys
name, plan = sys.argv[1], json.loads(os.environ["PLANNED"])
lines = [json.loads(line) for line in open(f"run-{name}/metrics.jsonl")]
measured = max(line["memory/peak_rss_gib"] for line in lines)
times = [line["time"] for line in lines]
rate = (lines[-1]["num_tokens"] - lines[0]["num_tokens"]) / (times[-1] - times[0])
planned, parts = plan["memory"]["total"] / 2**30, plan["memory"]
said = ", ".join(f"{part} {parts[part] / 2**30:.3f}" for part in parts if part != "total")
print(f"{name:<22}planned {planned:.3f} GiB ({said})")
print(f"{'':<22}measured {measured:.3f} GiB, planned / measured {planned / measured:.3f}; "
      f"time planned / measured {plan['seconds'] / plan['tokens'] * rate:.2f}")
PY
}
config dpo-tiny dpo builtin:tiny 8 16 ""
measure dpo-tiny dpo
config sft-tiny-full sft builtin:tiny-text 8 0 ""
measure sft-tiny-full sft
if [ -n "$model" ]; then
    config dpo-lora dpo "$model" 8 16 ""
    measure dpo-lora dpo
    config dpo-checkpointed dpo "$model" 8 16 "gradient_checkpointing = true"
    measure dpo-checkpointed dpo
    config sft-lora sft "$model" 4 8 ""
    measure sft-lora sft
    config sft-full sft "$model" 4 0 "gradient_checkpointing = true"
    measure sft-full sft
fi
