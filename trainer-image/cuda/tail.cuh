// Sections 5 and 6 of docs/spec/numerics.md on flat buffers.
#pragma once
#include "float.cuh"

// 5, after the tree.
extern "C" __global__ void scale_each(long long n, float factor, float *__restrict__ x) {
  const long long i = element_of();
  if (i < n) x[i] = mul(x[i], factor);
}

// 6.2: chunks of at most 4096 elements, each within a tensor, one warp each.
extern "C" __global__ void squares_rows(int chunks, const long long *__restrict__ first, const int *__restrict__ length,
                                        const float *__restrict__ g, float *__restrict__ out) {
  const long long chunk = row_of();
  if (chunk >= chunks) return;
  g += first[chunk];
  float lane = 0.0f;
  for (int i = lane_of(); i < length[chunk]; i += 32) lane = fma_(g[i], g[i], lane);
  lane = halve(lane);
  if (lane_of() == 0) out[chunk] = lane;
}

// 2.3 in place, of each block's run of `x`; its result goes to out[block]. Half of the levels' reads would meet its writes, so a level
// is read whole before it is written.
extern "C" __global__ void tree_each(const int *__restrict__ start, float *__restrict__ x, float *__restrict__ out) {
  const int first = start[blockIdx.x];
  x += first;
  int n = start[blockIdx.x + 1] - first;
  while (n > 1) {
    const int half = n / 2, next = (n + 1) / 2;
    for (int base = 0; base < next; base += blockDim.x) {
      const int i = base + threadIdx.x;
      float v = 0.0f;
      if (i < next) v = i < half ? add(x[2 * i], x[2 * i + 1]) : x[n - 1];
      __syncthreads();
      if (i < next) x[i] = v;
      __syncthreads();
    }
    n = next;
  }
  if (threadIdx.x == 0) out[blockIdx.x] = x[0];
}

// 6.2 and 6.3: of the sum of squares, the norm and the factor.
extern "C" __global__ void clip_factor(float clip, const float *__restrict__ sum, float *__restrict__ norm_and_factor) {
  const float norm = root(*sum);
  const float f = div_(clip, add(norm, from_bits(0x358637bdu)));
  norm_and_factor[0] = norm;
  norm_and_factor[1] = clip > 0.0f && f < 1.0f ? f : 1.0f;
}

// 6.4 on a tensor; `decay` is +0 for one dimension.
extern "C" __global__ void adamw(long long n, float lr, float b1, float b2, float a1, float a2, float c1, float c2, float eps,
                                 float decay, const float *__restrict__ norm_and_factor, const float *__restrict__ g,
                                 float *__restrict__ p, float *__restrict__ m, float *__restrict__ v) {
  const long long i = element_of();
  if (i >= n) return;
  const float d = mul(g[i], norm_and_factor[1]);
  const float first = fma_(b1, m[i], mul(a1, d));
  const float second = fma_(b2, v[i], mul(mul(a2, d), d));
  const float up = div_(mul(first, c1), add(root(mul(second, c2)), eps));
  m[i] = first;
  v[i] = second;
  p[i] = sub(p[i], mul(lr, fma_(decay, p[i], up)));
}
