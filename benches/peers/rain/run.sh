#!/bin/sh
# Tokens through the model in one search, here and by the reference's procedure for the same search:
#   benches/peers/rain/run.sh [MODEL]
set -eu
cd "$(dirname "$0")/../../.."
cargo build --locked --workspace --release --example rain_worker
target/release/examples/rain_worker "$@"
