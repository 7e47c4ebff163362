#!/usr/bin/env bash
# Training on several ranks of emulated CUDA, with NCCL's stand-in (tests/cli/test_ranks.sh).
set -eu
cd "$(dirname "$0")/../.."
make --no-print-directory BACKEND=emu PRECISION=fp32 build/emu-fp32/cocogold >/dev/null
COCOGOLD_PREPARE=${COCOGOLD:-./cocogold} COCOGOLD=build/emu-fp32/cocogold SHORT=1 exec tests/cli/test_ranks.sh
