#!/bin/sh
# Measured peak memory of trainings beside what `savi plan` said of them.
#
# plan.sh SAVI FOLDER [MODEL]: SAVI is the binary, FOLDER an empty folder to work in, MODEL a Hugging Face directory of
# a text model (SmolLM2-135M in benches/results). Prints a line for each config: planned and measured bytes, and their
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
PY
config() { # NAME MODEL MORE
    cat > "$1.toml" <<TOML
model = "$2"
data = "pairs.jsonl"
device = "cpu"
[dpo]
lora_r = 16
[dpo.optim]
per_device_train_batch_size = 8
max_steps = 3
save_steps = 100
$3
TOML
}
config tiny builtin:tiny ""
configs=tiny
if [ -n "$model" ]; then
    config lora "$model" ""
    config checkpointed "$model" "gradient_checkpointing = true"
    configs="tiny lora checkpointed"
fi
for name in $configs; do
    planned=$("$savi" plan --config "$name.toml" --json --log error)
    "$savi" train dpo --config "$name.toml" --run-dir "run-$name" --log error > /dev/null 2>&1
    PLANNED=$planned python3 - "$name" <<'PY'
import json, os, sys
name, plan = sys.argv[1], json.loads(os.environ["PLANNED"])
lines = [json.loads(line) for line in open(f"run-{name}/metrics.jsonl")]
measured = max(line["memory/peak_rss_gib"] for line in lines)
planned = plan["memory"]["total"] / 2**30
print(f"{name:<14}planned {planned:.3f} GiB, measured {measured:.3f} GiB, ratio {planned / measured:.3f}", plan["memory"])
PY
done
