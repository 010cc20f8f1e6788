"""The kernels of trainer-image/cuda on a GPU, from Python: one function for each thing that they compute, on CuPy arrays."""

import pathlib
import subprocess

import cupy
import numpy as np

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "trainer-image/cuda"
F = np.float32
I, L = np.int32, np.int64
WARPS = 8
LOWER_RESULT, UNTIL_DIAGONAL, FROM_DIAGONAL, RESUME = 1, 2, 4, 8
# Sums of products of halves stay below 2^31 (exact.cuh).
LONGEST_LINE = 65535


def build(directory, portable=False):
    """Compiles for the GPU that is there, or to PTX of compute capability 8.0, which the driver of any later GPU compiles."""
    major, minor = divmod(int(cupy.cuda.Device().compute_capability), 10)
    arch = f"{major}{minor}" + ("a" if major >= 9 else "")
    kind, target = ("ptx", "arch=compute_80,code=compute_80") if portable else ("cubin", f"arch=compute_{arch},code=sm_{arch}")
    out = pathlib.Path(directory) / f"kernels.{kind}"
    subprocess.run(["nvcc", f"-{kind}", "-gencode", target, "-fmad=false", "-std=c++17", SOURCE / "kernels.cu", "-o", out], check=True)
    return out


def ceil(a, b):
    return -(-a // b)


class Lines:
    """Quantised lines (2.4): `high` and `low` are [count, padded], `scale` is [count]."""

    def __init__(self, count, k):
        self.count, self.padded = count, ceil(k, 128) * 128
        if self.padded > LONGEST_LINE:
            raise ValueError(f"lines of {k}: the sums of 32 bits hold {LONGEST_LINE}")
        self.high = cupy.empty((count, self.padded), cupy.int8)
        self.low = cupy.empty((count, self.padded), cupy.int8)
        self.scale = cupy.empty(count, cupy.float64)


class Device:
    def __init__(self, module):
        self.module = cupy.RawModule(path=str(module))
        self.kernels = {}
        hopper = cupy.cuda.Device().compute_capability == "90" and module.suffix == ".cubin"
        self.unit = "wgmma" if hopper else "mma"
        self.blocks = cupy.cuda.Device().attributes["MultiProcessorCount"]

    def launch(self, name, grid, threads, *arguments, shared=0):
        kernel = self.kernels.get(name)
        if kernel is None:
            kernel = self.kernels[name] = self.module.get_function(name)
            if shared > 48 << 10:
                kernel.max_dynamic_shared_size_bytes = shared
        arguments = tuple(np.uintp(0) if a is None else a for a in arguments)
        for a in arguments:
            assert isinstance(a, (cupy.ndarray, np.generic)), f"{name}: {type(a)} has no width"
        kernel(grid, (threads,), arguments, shared_mem=shared)

    def each(self, name, n, *arguments):
        self.launch(name, (ceil(n, 256),), 256, *arguments)

    def rows(self, name, n, *arguments):
        self.launch(name, (ceil(n, WARPS),), 32 * WARPS, *arguments)

    # ---- products

    def chain(self, layout, m, n, k, a, lda, b, ldb, c, ldc, bias=None, mode=0, count=1, inner=1, share=1, strides=(0,) * 6,
              tile=None):
        """2.1; `layout` is nt, nn or tn. `strides` are those of chain.cuh's Batch: outer and inner, of a, b and c."""
        if tile is None and n <= 64 and layout != "nt":
            tile = "64" if ceil(m, 128) * count >= 2 * self.blocks else "few"
        elif tile is None:
            tile = "256" if ceil(m, 256) * ceil(n, 128) * count >= 2 * self.blocks else "128"
        bm, bn = {"256": (256, 128), "128": (128, 128), "64": (128, 64), "few": (64, 64)}[tile]
        self.launch(
            f"chain_{layout}_{tile}", (ceil(n, bn), ceil(m, bm), count), 256, I(m), I(n), I(k), a, L(lda), b, L(ldb), c, L(ldc), bias,
            I(inner), I(share), *map(L, strides), I(mode), shared=2 * 16 * (bm + bn + 8) * 4,
        )

    def row_lines(self, x, rows, k, ld):
        out = Lines(rows, k)
        self.rows("quantise_rows", rows, I(rows), I(k), x, L(ld), out.high, out.low, I(out.padded), out.scale)
        return out

    def column_lines(self, x, k, columns, ld):
        out = Lines(columns, k)
        largest = cupy.zeros(columns, cupy.uint32)
        self.launch("columns_largest", (ceil(columns, 256), ceil(k, 64)), 256, I(k), I(columns), x, L(ld), largest)
        grid = (ceil(columns, 32), out.padded // 128)
        self.launch("quantise_columns", grid, 256, I(k), I(columns), x, L(ld), largest, out.high, out.low, I(out.padded), out.scale)
        return out

    def exact(self, a, b, c, ldc, bias=None, unit=None):
        """2.4: c[i, j] of lines i and j."""
        unit = unit or self.unit
        shared = 3 * 4 * 128 * 128 + 1024 if unit == "wgmma" else 3 * 4 * 128 * 80
        tiles = ceil(a.count, 128) * ceil(b.count, 128)
        self.launch(
            f"exact_{unit}", (min(tiles, self.blocks) if unit == "wgmma" else tiles,), 256, I(a.count), I(b.count), I(a.padded), a.high, a.low,
            a.scale, b.high, b.low, b.scale, c, L(ldc), bias, shared=shared,
        )

    # ---- reductions

    def cols(self, x, y, out):
        rows, columns = x.shape
        blocks = ceil(rows, 64)
        partial = cupy.empty((blocks, columns), cupy.float32)
        self.launch("column_blocks", (ceil(columns, 128), blocks), 128, I(rows), I(columns), x, L(x.strides[0] // 4), y, partial)
        self.launch("column_sums", (ceil(columns, 128),), 128, I(blocks), I(columns), partial, out)

    def tree(self, starts, x, out):
        self.launch("tree_each", (len(starts) - 1,), 1024, starts, x, out)

    def add(self, x, y, out):
        self.each("add_each", x.size, L(x.size), x, y, out)
