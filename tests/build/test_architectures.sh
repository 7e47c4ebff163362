#!/usr/bin/env bash
# The CUDA build for every supported architecture, in both precisions (make nvcc-check).
exec "$(dirname "$0")/test_nvcc.sh" all
