#!/usr/bin/env bash
# Steps of training with 2 threads in f32: ours against PyTorch (transformers with its fused attention, fused AdamW,
# PEFT) and against TRL's DPO and GRPO, interleaved, warm, on the same tokens and from the same weights.
#     benches/peers/train/run.sh [ROUNDS [ROW]]
# Needs python3; peers and the model live under $SAVI_PEERS, where benches/peers/generate/run.sh puts them.
set -euo pipefail
rounds=${1:-5}
row=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
peers=${SAVI_PEERS:-$HOME/.cache/savi-peers}
venv=$peers/generate
model=$peers/smollm2/f32
export SAVI_BENCH_THREADS=${SAVI_BENCH_THREADS:-2}
export RAYON_NUM_THREADS=$SAVI_BENCH_THREADS OMP_NUM_THREADS=$SAVI_BENCH_THREADS
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1 TOKENIZERS_PARALLELISM=false
if [ ! -x "$venv/bin/python" ] || [ ! -d "$model" ]; then
  echo 'run benches/peers/generate/run.sh first: it installs the peers and writes the model' >&2
  exit 2
fi
"$venv/bin/python" -c 'import peft, trl' 2>/dev/null || "$venv/bin/pip" install -q peft==0.21.2 trl==1.16.0
cd "$root"
cargo build --locked --release -q --example train_worker
target=$(cargo metadata --no-deps --format-version 1 | "$venv/bin/python" -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
echo "$(date -I), commit $(git rev-parse --short HEAD), $(uname -m), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $SAVI_BENCH_THREADS threads of $(nproc) cores"
"$venv/bin/python" -W ignore "$here/compare.py" "$target/release/examples/train_worker" "$model" "$rounds" "$row"
