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

// Four of a line, zeros after its end.
DEVICE float4 four(const float *__restrict__ x, int first, int k, bool aligned) {
  if (aligned && first + 3 < k) return *reinterpret_cast<const float4 *>(x + first);
  return make_float4(first < k ? x[first] : 0.0f, first + 1 < k ? x[first + 1] : 0.0f, first + 2 < k ? x[first + 2] : 0.0f,
                     first + 3 < k ? x[first + 3] : 0.0f);
}
DEVICE unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// Lines along rows: one warp each. x: [rows, k] with stride ld; out: [rows, padded].
extern "C" __global__ void quantise_rows(int rows, int k, const float *__restrict__ x, long long ld, int8_t *__restrict__ high,
                                         int8_t *__restrict__ low, int padded, double *__restrict__ scale) {
  const long long row = row_of();
  if (row >= rows) return;
  x += row * ld, high += row * padded, low += row * padded;
  const bool aligned = reinterpret_cast<unsigned long long>(x) % 16 == 0;
  unsigned largest = 0;
#pragma unroll 4
  for (int first = 4 * lane_of(); first < padded; first += LINE) {
    const float4 v = four(x, first, k, aligned);
    largest = max(max(largest, max(magnitude(v.x), magnitude(v.y))), max(magnitude(v.z), magnitude(v.w)));
  }
  const Line line = line_of(__reduce_max_sync(ALL_LANES, largest));
  if (lane_of() == 0) scale[row] = line.up;
#pragma unroll 4
  for (int first = 4 * lane_of(); first < padded; first += LINE) {
    const float4 v = four(x, first, k, aligned);
    int8_t h[4], l[4];
    quantise(v.x, line, h[0], l[0]);
    quantise(v.y, line, h[1], l[1]);
    quantise(v.z, line, h[2], l[2]);
    quantise(v.w, line, h[3], l[3]);
    *reinterpret_cast<char4 *>(high + first) = make_char4(h[0], h[1], h[2], h[3]);
    *reinterpret_cast<char4 *>(low + first) = make_char4(l[0], l[1], l[2], l[3]);
  }
}

// Largest magnitudes of columns, into `largest`, which is zero before. A maximum has no order.
constexpr int ROWS_AT_ONCE = 64;
extern "C" __global__ void columns_largest(int rows, int columns, const float *__restrict__ x, long long ld,
                                           unsigned *__restrict__ largest) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  unsigned m = 0;
  const int first = blockIdx.y * ROWS_AT_ONCE, end = min(rows, first + ROWS_AT_ONCE);
#pragma unroll 16
  for (int r = first; r < end; r++) m = max(m, magnitude(x[r * ld + column]));
  atomicMax(largest + column, m);
}

// Lines along columns: x: [k, columns] with stride ld; out: [columns, padded]. A block of 256 threads turns LINE x 32 values; a row of
// 33 words keeps both ways free of bank conflicts.
extern "C" __global__ void quantise_columns(int k, int columns, const float *__restrict__ x, long long ld,
                                            const unsigned *__restrict__ largest, int8_t *__restrict__ high,
                                            int8_t *__restrict__ low, int padded, double *__restrict__ scale) {
  __shared__ __align__(4) int8_t turned[2][32][LINE + 4];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.x * 32 + lane, first = blockIdx.y * LINE;
  const bool inside = column < columns;
  const Line line = line_of(inside ? largest[column] : 0);
  if (inside && blockIdx.y == 0 && warp == 0) scale[column] = line.up;
  float v[LINE / 8];
#pragma unroll
  for (int i = 0; i < LINE / 8; i++) {
    const int r = warp + 8 * i;
    v[i] = inside && first + r < k ? x[(first + r) * ld + column] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < LINE / 8; i++) quantise(v[i], line, turned[0][lane][warp + 8 * i], turned[1][lane][warp + 8 * i]);
  __syncthreads();
#pragma unroll
  for (int i = warp; i < 64; i += 8) {
    const int which = i / 32, c = i % 32;
    if (blockIdx.x * 32 + c >= columns) continue;
    int8_t *to = (which ? low : high) + (long long)(blockIdx.x * 32 + c) * padded + first + 4 * lane;
    *reinterpret_cast<int *>(to) = *reinterpret_cast<const int *>(&turned[which][c][4 * lane]);
  }
}
