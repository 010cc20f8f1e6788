// Operands of 2.4: a line is quantised to integers of 16 bits, which are kept as 256 * high + low, both int8, along k; a line's place is
// filled with zeros up to a multiple of LINE, so that products need no edge in k. `scale` is 2^e of a line, NaN if it is not finite.
#pragma once
#include "float.cuh"

constexpr int LINE = 128;

struct Line {
  float down;
  double up;
};

// From the largest magnitude of a line, as bits.
DEVICE Line line_of(unsigned m) {
  if (m == 0) return {1.0f, 1.0};
  if (m >= 0x7f800000u) return {0.0f, __longlong_as_double(0x7ff8000000000000ll)};
  const int e = max((int)(m >> 23), 14) - 141 + ((m & 0x7fffffu) > 0x7e8000u);
  return {__int_as_float((127 - e) << 23), __longlong_as_double((long long)(e + 1023) << 52)};
}

// |q| <= 32576, so both halves fit: high in -127 .. 127.
DEVICE void quantise(float x, const Line &line, int8_t &high, int8_t &low) {
  const int q = line.down == 0.0f ? 0 : __float2int_rn(mul(x, line.down));
  const int h = (q + 128) >> 8;
  high = (int8_t)h;
  low = (int8_t)(q - (h << 8));
}

// Lines along rows: one warp each. x: [rows, k] with stride ld; out: [rows, padded].
extern "C" __global__ void quantise_rows(int rows, int k, const float *__restrict__ x, long long ld, int8_t *__restrict__ high,
                                         int8_t *__restrict__ low, int padded, double *__restrict__ scale) {
  const long long row = row_of();
  if (row >= rows) return;
  x += row * ld, high += row * padded, low += row * padded;
  unsigned largest = 0;
  for (int i = lane_of(); i < k; i += 32) largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
  const Line line = line_of(__reduce_max_sync(ALL_LANES, largest));
  if (lane_of() == 0) scale[row] = line.up;
  for (int first = 4 * lane_of(); first < padded; first += 128) {
    char4 h, l;
    int8_t *hs = reinterpret_cast<int8_t *>(&h), *ls = reinterpret_cast<int8_t *>(&l);
#pragma unroll
    for (int i = 0; i < 4; i++) quantise(first + i < k ? x[first + i] : 0.0f, line, hs[i], ls[i]);
    *reinterpret_cast<char4 *>(high + first) = h;
    *reinterpret_cast<char4 *>(low + first) = l;
  }
}

// Largest magnitudes of columns, into `largest`, which is zero before. A maximum has no order.
extern "C" __global__ void columns_largest(int rows, int columns, const float *__restrict__ x, long long ld,
                                           unsigned *__restrict__ largest) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  unsigned m = 0;
  const int first = blockIdx.y * 256, end = min(rows, first + 256);
  for (int r = first; r < end; r++) m = max(m, __float_as_uint(x[r * ld + column]) & 0x7fffffffu);
  atomicMax(largest + column, m);
}

// Lines along columns: x: [k, columns] with stride ld; out: [columns, padded]. A block of 256 threads turns 128 x 32 values.
extern "C" __global__ void quantise_columns(int k, int columns, const float *__restrict__ x, long long ld,
                                            const unsigned *__restrict__ largest, int8_t *__restrict__ high,
                                            int8_t *__restrict__ low, int padded, double *__restrict__ scale) {
  __shared__ __align__(16) int8_t turned[2][32][LINE + 16];
  const int column = blockIdx.x * 32 + (threadIdx.x & 31), first = blockIdx.y * LINE;
  const bool inside = column < columns;
  const Line line = line_of(inside ? largest[column] : 0);
  if (inside && blockIdx.y == 0 && threadIdx.x < 32) scale[column] = line.up;
  for (int r = threadIdx.x >> 5; r < LINE; r += 8) {
    const float v = inside && first + r < k ? x[(first + r) * ld + column] : 0.0f;
    quantise(v, line, turned[0][threadIdx.x & 31][r], turned[1][threadIdx.x & 31][r]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * 32 * (LINE / 16); i += 256) {
    const int which = i / (32 * (LINE / 16)), c = i / (LINE / 16) % 32, at = i % (LINE / 16) * 16;
    if (blockIdx.x * 32 + c >= columns) continue;
    int8_t *to = (which ? low : high) + (long long)(blockIdx.x * 32 + c) * padded + first + at;
    *reinterpret_cast<int4 *>(to) = *reinterpret_cast<const int4 *>(&turned[which][c][at]);
  }
}
