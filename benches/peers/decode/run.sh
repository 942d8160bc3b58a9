#!/usr/bin/env bash
# Frames out of H.264 clips: our CPU time against the best of torchcodec, decord and PyAV (seeking to
# each frame, and in one pass), our peak memory against decord's, in one interleaved run. All read the
# same frames and resize them to the same size, each in a process of its own with its default threads
# (ours: one, as torchcodec); importing Python packages is not counted in the time.
#     benches/peers/decode/run.sh [ROUNDS [ROWS]]
# Needs the ffmpeg command line tool and python3; peers live under $SAVI_PEERS.
set -euo pipefail
rounds=${1:-5}
rows=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
peers=${SAVI_PEERS:-$HOME/.cache/savi-peers}
venv=$peers/decode
if [ ! -x "$venv/bin/python" ]; then
  mkdir -p "$peers"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q torch==2.11.0 --index-url https://download.pytorch.org/whl/cpu ||
    "$venv/bin/pip" install -q torch==2.11.0
  "$venv/bin/pip" install -q torchvision torchcodec==0.17.0 decord==0.6.0 av==18.1.0 numpy
fi
"$here/clips.sh" "$peers/decode-clips"
cd "$root"
cargo build --locked --release -q -p savi-video-ingest --example read_frames
target=$(cargo metadata --no-deps --format-version 1 | "$venv/bin/python" -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
echo "$(date -I), commit $(git rev-parse --short HEAD), $(uname -m), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $(nproc) cores"
"$venv/bin/python" "$here/compare.py" "$target/release/examples/read_frames" "$peers/decode-clips" "$rounds" "$rows"
