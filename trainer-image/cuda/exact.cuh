// Products of 2.4 on the int8 tensor cores: with q = 256 h + l, a product is 65536 hh + 256 (hl + lh) + ll, three sums in 32 bits.
// They are exact, so order, tile and unit cannot be seen in the result; only its one rounding is ours.
//
// Bounds of the sums: |h| <= 127, |l| <= 128, so 2 * 127 * 128 * k < 2^31 for k <= 65535. Callers refuse longer lines.
#pragma once
#include "lines.cuh"

namespace exact {

struct Operand {
  const int8_t *high, *low;
  const double *scale;
};

// The order in which tiles are taken: groups of `GROUP` rows of tiles, so that those at work at a time share operands in the cache.
constexpr int GROUP = 16;
DEVICE void tile_of(int index, int tiles_m, int tiles_n, int &m, int &n) {
  const int per_group = GROUP * tiles_n, group = index / per_group, first = group * GROUP;
  const int height = min(GROUP, tiles_m - first), within = index - group * per_group;
  m = first + within % height;
  n = within / height;
}

// The one rounding. The sum, below 2^47, becomes f64 as the low bits of 1.5 * 2^52, which is cheaper than a conversion.
DEVICE float result(int hh, int mixed, int ll, double a, double b) {
  const long long sum = ((long long)hh << 16) + ((long long)mixed << 8) + ll;
  const double exact = __dsub_rn(__longlong_as_double(0x4338000000000000ll + sum), 0x1.8p52);
  return never_minus_zero(__double2float_rn(__dmul_rn(__dmul_rn(exact, a), b)));
}
DEVICE float biased(const float *bias, int n, float v) { return bias ? add(bias[n], v) : v; }

DEVICE unsigned in_shared(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
// 16 bytes, or zeros.
DEVICE void copy16(unsigned to, const void *from, bool inside) {
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING>
DEVICE void await_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// ---- sm_80 and later: mma.sync, 128 x 128 tiles of eight warps, 64 of k at a time, three stages.
constexpr int STEP = 64, STRIDE = STEP + 16, STAGES = 3;
constexpr int PLANE = 128 * STRIDE;

DEVICE void mma(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void load_matrix(unsigned (&r)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

DEVICE void product_mma(int M, int N, int K, Operand a, Operand b, float *__restrict__ C, long long ldc,
                        const float *__restrict__ bias, unsigned shared) {
  const int t = threadIdx.x, warp = t >> 5, lane = t & 31, wm = (warp >> 1) * 32, wn = (warp & 1) * 64;
  int tm, tn;
  tile_of(blockIdx.x, (M + 127) / 128, (N + 127) / 128, tm, tn);
  const int m0 = tm * 128, n0 = tn * 128;
  auto plane = [&](int stage, int which) { return shared + (stage * 4 + which) * PLANE; };
  auto load = [&](int stage, int k0) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int i = t + c * 256, row = i >> 2, k = (i & 3) * 16, at = row * STRIDE + k;
      const bool in_a = m0 + row < M, in_b = n0 + row < N;
      const long long from_a = in_a ? (long long)(m0 + row) * K + k0 + k : 0, from_b = in_b ? (long long)(n0 + row) * K + k0 + k : 0;
      copy16(plane(stage, 0) + at, a.high + from_a, in_a);
      copy16(plane(stage, 1) + at, a.low + from_a, in_a);
      copy16(plane(stage, 2) + at, b.high + from_b, in_b);
      copy16(plane(stage, 3) + at, b.low + from_b, in_b);
    }
  };
  int hh[2][8][4] = {}, mixed[2][8][4] = {}, ll[2][8][4] = {};
  const int steps = K / STEP;
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < steps) load(i, i * STEP);
    commit_copies();
  }
  for (int it = 0; it < steps; it++) {
    await_copies<STAGES - 2>();
    __syncthreads();
    if (it + STAGES - 1 < steps) load((it + STAGES - 1) % STAGES, (it + STAGES - 1) * STEP);
    commit_copies();
    const int stage = it % STAGES;
#pragma unroll
    for (int k = 0; k < STEP; k += 32) {
      unsigned ah[2][4], al[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int at = (wm + i * 16 + (lane & 15)) * STRIDE + k + (lane >> 4) * 16;
        load_matrix(ah[i], plane(stage, 0) + at);
        load_matrix(al[i], plane(stage, 1) + at);
      }
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        unsigned bh2[4], bl2[4];
        const int at = (wn + j * 8 + (lane & 7) + ((lane >> 4) << 3)) * STRIDE + k + ((lane >> 3) & 1) * 16;
        load_matrix(bh2, plane(stage, 2) + at);
        load_matrix(bl2, plane(stage, 3) + at);
#pragma unroll
        for (int u = 0; u < 2; u++) {
          const unsigned bh[2] = {bh2[2 * u], bh2[2 * u + 1]}, bl[2] = {bl2[2 * u], bl2[2 * u + 1]};
#pragma unroll
          for (int i = 0; i < 2; i++) {
            mma(hh[i][j + u], ah[i], bh);
            mma(mixed[i][j + u], ah[i], bl);
            mma(mixed[i][j + u], al[i], bh);
            mma(ll[i][j + u], al[i], bl);
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int m = m0 + wm + i * 16 + (lane >> 2) + (e >> 1) * 8, n = n0 + wn + j * 8 + (lane & 3) * 2 + (e & 1);
        if (m < M && n < N) C[m * ldc + n] = biased(bias, n, result(hh[i][j][e], mixed[i][j][e], ll[i][j][e], a.scale[m], b.scale[n]));
      }
}

}  // namespace exact

// K, the padded length of a line, is a multiple of LINE.
extern "C" __global__ void __launch_bounds__(256, 1)
    exact_mma(int m, int n, int k, const int8_t *ah, const int8_t *al, const double *as, const int8_t *bh, const int8_t *bl,
              const double *bs, float *c, long long ldc, const float *bias) {
  extern __shared__ __align__(128) int8_t shared_of_exact[];
  exact::product_mma(m, n, k, {ah, al, as}, {bh, bl, bs}, c, ldc, bias, exact::in_shared(shared_of_exact));
}
