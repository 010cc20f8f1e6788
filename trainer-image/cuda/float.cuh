// Sections 1 to 3 of docs/spec/numerics.md for one thread or one warp. Each named operation is one rounding: built with -fmad=false,
// and the intrinsics are never contracted anyway; subnormals are kept (-ftz=false, nvcc's default).
#pragma once
#include <cstdint>

#define DEVICE __device__ __forceinline__

constexpr unsigned ALL_LANES = 0xffffffffu;

DEVICE float from_bits(unsigned bits) { return __uint_as_float(bits); }
DEVICE float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE float sub(float a, float b) { return __fsub_rn(a, b); }
DEVICE float div_(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float root(float a) { return __fsqrt_rn(a); }
// 1.3: what may be -0 becomes +0.
DEVICE float never_minus_zero(float a) { return __fadd_rn(a, 0.0f); }

// 3.1
DEVICE float exp_(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float magic = from_bits(0x4b400000u);
  const float t = fma_(x, from_bits(0x3fb8aa3bu), magic);
  const float n = sub(t, magic);
  float r = fma_(n, -from_bits(0x3f318000u), x);
  r = fma_(n, from_bits(0x395e8083u), r);
  float p = from_bits(0x39506967u);
  p = fma_(p, r, from_bits(0x3ab743ceu));
  p = fma_(p, r, from_bits(0x3c088908u));
  p = fma_(p, r, from_bits(0x3d2aa9c1u));
  p = fma_(p, r, from_bits(0x3e2aaaaau));
  p = fma_(p, r, from_bits(0x3f000000u));
  p = add(fma_(p, mul(r, r), r), 1.0f);
  const int whole = __float_as_int(t) - 0x4b400000;
  const int one = whole >> 1, two = whole - one;
  return mul(mul(p, __int_as_float((one + 127) << 23)), __int_as_float((two + 127) << 23));
}

// 3.2
DEVICE float log_(float x) {
  const int b = __float_as_int(x);
  if ((b & 0x7f800000) == 0x7f800000) return from_bits(0x7fc00000u);
  const int k = (b - 0x3f3504f3) >> 23;
  const float m = sub(__int_as_float(b - (k << 23)), 1.0f);
  const float e = __int2float_rn(k), z = mul(m, m);
  float y = from_bits(0x3d9021bbu);
  y = fma_(y, m, from_bits(0xbdebd1b8u));
  y = fma_(y, m, from_bits(0x3def251au));
  y = fma_(y, m, from_bits(0xbdfe5d4fu));
  y = fma_(y, m, from_bits(0x3e11e9bfu));
  y = fma_(y, m, from_bits(0xbe2aae50u));
  y = fma_(y, m, from_bits(0x3e4cceacu));
  y = fma_(y, m, from_bits(0xbe7ffffcu));
  y = fma_(y, m, from_bits(0x3eaaaaaau));
  y = mul(mul(y, m), z);
  y = fma_(e, -from_bits(0x395e8083u), y);
  y = fma_(z, -0.5f, y);
  return fma_(e, from_bits(0x3f318000u), add(m, y));
}

// 2.2: the 32 lanes of a row sum are the lanes of a warp. Every lane gets the result.
DEVICE float halve(float lane) {
#pragma unroll
  for (int s = 16; s > 0; s /= 2) lane = add(lane, __shfl_down_sync(ALL_LANES, lane, s));
  return never_minus_zero(__shfl_sync(ALL_LANES, lane, 0));
}

// The largest of a row; NaN where all are.
DEVICE float warp_max(float x) {
#pragma unroll
  for (int s = 16; s > 0; s /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, s));
  return x;
}

DEVICE unsigned lane_of() { return threadIdx.x & 31; }
// Rows are given to warps.
DEVICE long long row_of() { return (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); }
DEVICE long long element_of() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
