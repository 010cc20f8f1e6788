#!/usr/bin/env bash
# The CUDA kernels on this machine's GPU against tests/vectors: tests/cuda/run.sh. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${CUDA_PYTHON:-python3}
if ! command -v nvcc >/dev/null || ! "$python" -c 'import cupy; cupy.cuda.Device().synchronize()' 2>/dev/null; then
    echo "cuda: 0 passed, 0 failed, 1 skipped: needs a GPU, nvcc of CUDA 13 and Python with CuPy (CUDA_PYTHON)"
    exit 0
fi
"$python" "$here/conformance.py"
"$python" "$here/conformance.py" --portable
