#!/usr/bin/env bash
# A build-only CUDA 13.0 toolkit from PyPI's wheels in .cuda/ (105 MB to download, 271 MB unpacked). No
# GPU, driver or root is needed to build; see "Building with CUDA" in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
toolkit=.cuda/site/nvidia/cu13
[ -x "$toolkit/bin/nvcc" ] && [ -e "$toolkit/lib/libcudart.a" ] && exit 0
rm -rf .cuda/site
mkdir -p .cuda
python3 -m pip install -q --no-deps --no-compile --only-binary=:all: --require-hashes \
  --root-user-action=ignore --target .cuda/site -r ci/cuda-requirements.txt
ln -sfn lib "$toolkit/lib64"
# CUDA's libraries are opened at run time, so -lcuda, -lcublas ... only have to exist.
for library in cuda nvrtc curand cublas cublasLt cudnn nccl; do
  rm -f "$toolkit/lib/lib$library.a"
  ar crs "$toolkit/lib/lib$library.a"
done
# candle-kernels' -lcudart takes the static runtime: no libcudart.so.13 at run time.
ln -sfn libcudart_static.a "$toolkit/lib/libcudart.a"
ln -sfn site/nvidia/cu13 .cuda/toolkit
.cuda/toolkit/bin/nvcc --version | grep release
