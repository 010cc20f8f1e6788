// Section 4 of docs/spec/numerics.md but for its products. Matrices are row-major, without gaps unless a stride is given; kernels whose
// names end in _rows give a warp to each row, the others a thread to each element or column.
#pragma once
#include "float.cuh"

// ---- functions, as the conformance vectors have them
extern "C" __global__ void exp_each(long long n, const float *__restrict__ x, float *__restrict__ y) {
  const long long i = element_of();
  if (i < n) y[i] = exp_(x[i]);
}
extern "C" __global__ void log_each(long long n, const float *__restrict__ x, float *__restrict__ y) {
  const long long i = element_of();
  if (i < n) y[i] = log_(x[i]);
}
extern "C" __global__ void sum_rows(int rows, int n, const float *__restrict__ x, long long ld, float divisor, float *__restrict__ out) {
  const long long row = row_of();
  if (row >= rows) return;
  float lane = 0.0f;
  for (int i = lane_of(); i < n; i += 32) lane = add(lane, x[row * ld + i]);
  lane = halve(lane);
  if (lane_of() == 0) out[row] = divisor == 0.0f ? lane : div_(lane, divisor);
}
extern "C" __global__ void dot_rows(int rows, int n, const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ out) {
  const long long row = row_of();
  if (row >= rows) return;
  float lane = 0.0f;
  for (int i = lane_of(); i < n; i += 32) lane = fma_(x[row * n + i], y[row * n + i], lane);
  lane = halve(lane);
  if (lane_of() == 0) out[row] = lane;
}

// ---- 2.2, cols: the sums of blocks of 64 rows, then their sum. `ld` is the stride of x.
extern "C" __global__ void column_blocks(int rows, int columns, const float *__restrict__ x, long long ld,
                                         const float *__restrict__ y, float *__restrict__ out) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  const int first = blockIdx.y * 64, end = min(rows, first + 64);
  float a = 0.0f;
  for (int r = first; r < end; r++) {
    const float v = x[r * ld + column];
    a = y ? fma_(v, y[(long long)r * columns + column], a) : add(a, v);
  }
  out[(long long)blockIdx.y * columns + column] = a;
}
extern "C" __global__ void column_sums(int blocks, int columns, const float *__restrict__ x, float *__restrict__ out) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  float a = 0.0f;
  for (int b = 0; b < blocks; b++) a = add(a, x[(long long)b * columns + column]);
  out[column] = a;
}

// ---- 4.1
extern "C" __global__ void embedding(long long rows, int width, int length, const int *__restrict__ tokens,
                                     const float *__restrict__ table, const float *__restrict__ positions, float *__restrict__ y) {
  const long long i = element_of();
  if (i >= rows * width) return;
  const long long r = i / width;
  const int c = i % width;
  const float x = table[(long long)tokens[r] * width + c];
  y[i] = positions ? add(x, positions[(r % length) * width + c]) : x;
}
// The rows that a token has, ascending, are order[start[b] .. start[b + 1]); block b has token token[b]. What its chain gives is added
// to the gradient, which has other contributions or +0.
extern "C" __global__ void embedding_gradient(int width, const int *__restrict__ token, const int *__restrict__ start,
                                              const int *__restrict__ order, const float *__restrict__ dx, float *__restrict__ grad) {
  const int c = blockIdx.y * blockDim.x + threadIdx.x, b = blockIdx.x;
  if (c >= width) return;
  float a = 0.0f;
  for (int i = start[b]; i < start[b + 1]; i++) a = add(a, dx[(long long)order[i] * width + c]);
  float *g = grad + (long long)token[b] * width + c;
  *g = add(*g, a);
}

// ---- 4.2
extern "C" __global__ void add_each(long long n, const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ out) {
  const long long i = element_of();
  if (i < n) out[i] = add(x[i], y[i]);
}

// ---- 4.3 and 4.11; `n` and `rs` are kept for the backward pass. Without a bias it is rms_norm.
extern "C" __global__ void norm_rows(int rows, int width, float inv, const float *__restrict__ x, const float *__restrict__ w,
                                     const float *__restrict__ b, float *__restrict__ n, float *__restrict__ rs,
                                     float *__restrict__ y) {
  const long long row = row_of();
  if (row >= rows) return;
  x += row * width, n += row * width, y += row * width;
  const float eps = from_bits(0x3727c5acu);
  float mean = 0.0f;
  if (b) {
    float lane = 0.0f;
    for (int i = lane_of(); i < width; i += 32) lane = add(lane, x[i]);
    mean = mul(halve(lane), inv);
  }
  float lane = 0.0f;
  for (int i = lane_of(); i < width; i += 32) {
    const float c = b ? sub(x[i], mean) : x[i];
    lane = fma_(c, c, lane);
  }
  const float s = div_(1.0f, root(add(mul(halve(lane), inv), eps)));
  for (int i = lane_of(); i < width; i += 32) {
    const float one = mul(b ? sub(x[i], mean) : x[i], s);
    n[i] = one;
    y[i] = b ? fma_(one, w[i], b[i]) : mul(one, w[i]);
  }
  if (lane_of() == 0) rs[row] = s;
}
extern "C" __global__ void norm_gradient_rows(int rows, int width, float inv, int has_mean, const float *__restrict__ dy,
                                              const float *__restrict__ w, const float *__restrict__ n, const float *__restrict__ rs,
                                              const float *__restrict__ more, float *__restrict__ dx) {
  const long long row = row_of();
  if (row >= rows) return;
  dy += row * width, n += row * width, dx += row * width;
  float sum = 0.0f, dots = 0.0f;
  for (int i = lane_of(); i < width; i += 32) {
    const float dn = mul(dy[i], w[i]);
    sum = add(sum, dn);
    dots = fma_(dn, n[i], dots);
  }
  const float a = mul(halve(sum), inv), g = mul(halve(dots), inv), s = rs[row];
  for (int i = lane_of(); i < width; i += 32) {
    const float dn = mul(dy[i], w[i]);
    const float d = mul(fma_(-n[i], g, has_mean ? sub(dn, a) : dn), s);
    // 4.10: the sum of 4.2 is the later node, so its contribution comes first.
    dx[i] = more ? add(more[row * width + i], d) : d;
  }
}

// ---- 4.5, between its products. `z` has a matrix [T, T] for each (sequence, head); rows are all of them.
extern "C" __global__ void softmax_rows(long long rows, int T, float sc, float *__restrict__ z) {
  const long long row = row_of();
  if (row >= rows) return;
  z += row * T;
  const int seen = row % T + 1;
  float m = from_bits(0xff800000u);
  for (int j = lane_of(); j < seen; j += 32) m = fmaxf(m, mul(z[j], sc));
  m = warp_max(m);
  float lane = 0.0f;
  for (int j = lane_of(); j < seen; j += 32) {
    const float e = exp_(sub(mul(z[j], sc), m));
    z[j] = e;
    lane = add(lane, e);
  }
  const float r = div_(1.0f, halve(lane));
  for (int j = lane_of(); j < T; j += 32) z[j] = j < seen ? mul(z[j], r) : 0.0f;
}
// D_i of each (sequence, head, i): dot of a head's columns of do and o.
extern "C" __global__ void head_dots_rows(long long rows, int T, int heads, int hd, const float *__restrict__ d_out,
                                          const float *__restrict__ out, float *__restrict__ dots) {
  const long long row = row_of();
  if (row >= rows) return;
  const long long i = row % T, h = row / T % heads, sequence = row / T / heads;
  const long long at = ((sequence * T + i) * heads + h) * hd;
  float lane = 0.0f;
  for (int c = lane_of(); c < hd; c += 32) lane = fma_(d_out[at + c], out[at + c], lane);
  lane = halve(lane);
  if (lane_of() == 0) dots[row] = lane;
}
// dP becomes dS.
extern "C" __global__ void softmax_gradient_rows(long long rows, int T, float sc, const float *__restrict__ p,
                                                 const float *__restrict__ dots, float *__restrict__ d) {
  const long long row = row_of();
  if (row >= rows) return;
  p += row * T, d += row * T;
  const int seen = row % T + 1;
  const float dot = dots[row];
  for (int j = lane_of(); j < T; j += 32) d[j] = j < seen ? mul(mul(p[j], sub(d[j], dot)), sc) : 0.0f;
}

// ---- 4.6
struct Gelu {
  float x2, den;
};
DEVICE Gelu gelu_parts(float x) {
  const float x2 = mul(x, x);
  const float u = mul(mul(from_bits(0x3f4c422au), x), fma_(from_bits(0x3d372713u), x2, 1.0f));
  return {x2, add(1.0f, exp_(mul(-2.0f, u)))};
}
extern "C" __global__ void gelu(long long n, const float *__restrict__ x, float *__restrict__ y) {
  const long long i = element_of();
  if (i < n) y[i] = div_(x[i], gelu_parts(x[i]).den);
}
extern "C" __global__ void gelu_gradient(long long n, const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ dx) {
  const long long i = element_of();
  if (i >= n) return;
  const Gelu g = gelu_parts(x[i]);
  const float s = div_(1.0f, g.den);
  const float k1 = from_bits(0x3d372713u);
  const float du = mul(from_bits(0x3f4c422au), fma_(mul(3.0f, k1), g.x2, 1.0f));
  dx[i] = mul(dy[i], fma_(mul(mul(x[i], s), sub(1.0f, s)), mul(2.0f, du), s));
}

// ---- 4.12; tables have [length, hd / 2].
extern "C" __global__ void rotary(long long rows, int length, int width, int turned, int half, int backward,
                                  const float *__restrict__ cosines, const float *__restrict__ sines, const float *__restrict__ x,
                                  float *__restrict__ y) {
  const long long i = element_of();
  if (i >= rows * width) return;
  const int column = i % width, j = column % (2 * half);
  if (column >= turned) {
    y[i] = x[i];
    return;
  }
  const long long at = i / width % length * half + j % half;
  const float c = cosines[at], s = sines[at];
  const bool first = j < half;
  const float other = mul(x[first ? i + half : i - half], s);
  y[i] = fma_(x[i], c, first != (backward != 0) ? -other : other);
}

// ---- 4.13
extern "C" __global__ void swiglu(long long rows, int f, const float *__restrict__ x, float *__restrict__ y) {
  const long long i = element_of();
  if (i >= rows * f) return;
  const float g = x[i / f * 2 * f + i % f], u = x[i / f * 2 * f + f + i % f];
  y[i] = mul(div_(g, add(1.0f, exp_(-g))), u);
}
extern "C" __global__ void swiglu_gradient(long long rows, int f, const float *__restrict__ x, const float *__restrict__ dh,
                                           float *__restrict__ dx) {
  const long long i = element_of();
  if (i >= rows * f) return;
  const long long at = i / f * 2 * f + i % f;
  const float g = x[at], u = x[at + f];
  const float den = add(1.0f, exp_(-g)), s = div_(1.0f, den);
  dx[at + f] = mul(dh[i], div_(g, den));
  dx[at] = mul(mul(dh[i], u), fma_(mul(g, s), sub(1.0f, s), s));
}

// ---- 4.8: logits become their gradient; one loss a row.
extern "C" __global__ void cross_entropy_rows(int rows, int width, long long ld, float inv, const int *__restrict__ targets,
                                              float *__restrict__ x, float *__restrict__ losses) {
  const long long row = row_of();
  if (row >= rows) return;
  x += row * ld;
  float m = from_bits(0xff800000u);
  for (int i = lane_of(); i < width; i += 32) m = fmaxf(m, x[i]);
  m = warp_max(m);
  const int target = targets[row];
  const float wanted = sub(x[target], m);
  __syncwarp();
  float lane = 0.0f;
  for (int i = lane_of(); i < width; i += 32) {
    const float e = exp_(sub(x[i], m));
    x[i] = e;
    lane = add(lane, e);
  }
  const float s = halve(lane), factor = div_(inv, s);
  for (int i = lane_of(); i < width; i += 32) {
    const float d = mul(x[i], factor);
    x[i] = i == target ? sub(d, inv) : d;
  }
  if (lane_of() == 0) losses[row] = sub(log_(s), wanted);
}
