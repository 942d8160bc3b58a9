#!/usr/bin/env bash
# Installs the system packages that the build needs and that are missing: FFmpeg's development
# files, clang (for the bindings to FFmpeg), pkg-config and a C++ compiler. Says so first; does
# nothing where all are there. Debian and Ubuntu; elsewhere it names what to install.
set -euo pipefail

packages=()
have() { command -v "$1" >/dev/null 2>&1; }

have c++ || packages+=(g++)
have pkg-config || packages+=(pkg-config)
for library in libavcodec libavformat libavutil libswscale; do
  { have pkg-config && pkg-config --exists "$library"; } || packages+=("$library-dev")
done
have clang || packages+=(clang)
if [ -z "${LIBCLANG_PATH:-}" ] &&
  ! compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null &&
  ! compgen -G '/usr/lib*/libclang*.so*' >/dev/null &&
  ! compgen -G '/usr/lib/*-linux-gnu/libclang*.so*' >/dev/null; then
  packages+=(libclang-dev)
fi

[ ${#packages[@]} -eq 0 ] && exit 0

if ! have apt-get; then
  echo "ci/setup.sh: please install (Debian's names): ${packages[*]}" >&2
  exit 1
fi
run=()
if [ "$(id -u)" -ne 0 ]; then
  if ! have sudo; then
    echo "ci/setup.sh: not root and no sudo; please have installed: ${packages[*]}" >&2
    exit 1
  fi
  run=(sudo)
fi
echo "ci/setup.sh: installing missing system packages: ${packages[*]}" >&2
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
