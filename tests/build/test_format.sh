#!/usr/bin/env bash
# Checks that `make format` would change nothing. Versions of clang-format differ: cocogold uses 14 (Debian 12, Ubuntu
# 22.04).
set -u
cd "$(dirname "$0")/../.."
if ! clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    echo "skipped: clang-format 14 is not installed"
    exit 0
fi
if make --no-print-directory format-check; then
    echo "1 passed, 0 failed"
else
    echo "0 passed, 1 failed"
    exit 1
fi
