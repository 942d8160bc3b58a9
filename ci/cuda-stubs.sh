#!/bin/sh
# Empty archives that satisfy -lcuda, -lcublas and so on when linking without a CUDA toolkit. Nothing
# is taken from them: CUDA's libraries are opened at run time, and fake-nvcc's kernels are empty.
set -e
cd "$(dirname "$0")/.."
mkdir -p .cuda/stubs/lib
for library in cuda cudart nvrtc curand cublas cublasLt cudnn nccl; do
  rm -f ".cuda/stubs/lib/lib$library.a"
  ar crs ".cuda/stubs/lib/lib$library.a"
done
