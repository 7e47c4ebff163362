#!/usr/bin/env bash
# The names of all __global__ functions of kernels/ and of the kernel lab, sorted.
perl -0ne 'print "$1\n" while /__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\(/g' \
    kernels/*.cu kernels/*.cuh bench/lab/*.cu | sort -u
