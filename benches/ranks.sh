#!/bin/sh
# Trainings by one process and by ranks under mpirun, and how far apart they end.
#
# ranks.sh [SAVI [FOLDER [RANKS]]]: SAVI is a binary with the feature `mpi`, FOLDER an empty folder to work in, RANKS
# their number (2). Trains builtin:tiny by sft, dpo and grpo; prints for each the greatest difference of losses and of
# gradient norms over the steps, and of the adapter's weights at the end. Each is given half of the machine's cores.
set -eu
savi=$(realpath "${1:-target/release/savi}")
folder=${2:-$(mktemp -d)} ranks=${3:-2}
cd "$folder"
python3 - <<'PY'
import json, random
random.seed(1)
things = [f"{size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("circle", "square")]
ways = ["left", "right", "up", "down"]
def turn(role, words):
    return [{"role": role, "content": words}]
with open("sft.jsonl", "w") as sft, open("dpo.jsonl", "w") as dpo, open("grpo.jsonl", "w") as grpo:
    for thing in things:
        good, bad = random.sample(ways, 2)
        ask = turn("user", f"Where does the {thing} move?")
        sft.write(json.dumps({"messages": ask + turn("assistant", f"It moves {good}.")}) + "\n")
        pair = {"prompt": ask, "chosen": turn("assistant", good), "rejected": turn("assistant", f"It goes {bad}.")}
        dpo.write(json.dumps(pair) + "\n")
        grpo.write(json.dumps({"prompt": ask}) + "\n")
PY
config() { # NAME BATCH MORE
    cat > "$1.toml" <<TOML
model = "builtin:tiny"
data = "$1.jsonl"
device = "cpu"
$3
[$1]
lora_r = 4
lora_alpha = 8.0
$4
[$1.optim]
learning_rate = 1e-3
adam_epsilon = 1e-4
per_device_train_batch_size = $2
max_steps = 6
save_steps = 3
TOML
}
config sft 7 '' ''
config dpo 5 '' ''
config grpo 24 '[[rewards]]
func = "format"
pattern = "(?i)^\\W*(left|right|up|down)\\b"' 'num_generations = 8
max_completion_length = 12
lora = { target_modules = "all-linear" }'
for name in sft dpo grpo; do
    "$savi" --log warn train $name --config $name.toml --run-dir one-$name > /dev/null
    mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" \
        env RAYON_NUM_THREADS=$((($(nproc) + 1) / 2)) \
        "$savi" --log warn train $name --config $name.toml --run-dir ranks-$name > /dev/null
    python3 - $name <<'PY'
import json, struct, sys
name = sys.argv[1]
def lines(run):
    return [json.loads(line) for line in open(f"{run}-{name}/metrics.jsonl")]
def weights(run):
    data = open(f"{run}-{name}/adapter/adapter_model.safetensors", "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    return struct.unpack(f"<{(len(data) - 8 - size) // 4}f", data[8 + size:])
one, ranks = lines("one"), lines("ranks")
assert len(one) == len(ranks) == 6, (len(one), len(ranks))
far = lambda key: max(abs(a[key] - b[key]) for a, b in zip(one, ranks))
a, b = weights("one"), weights("ranks")
print(f"{name:5} loss {one[0]['loss']:.4f} to {one[-1]['loss']:.4f}, apart {far('loss'):.1e}; norm apart "
      f"{far('grad_norm'):.1e}; {len(a)} weights apart {max(abs(x - y) for x, y in zip(a, b)):.1e}, "
      f"the greatest is {max(map(abs, a)):.1e}")
PY
done
