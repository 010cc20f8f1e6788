// Products of 2.4 on Hopper: wgmma reads both operands from shared memory, which two warpgroups share: a tile of 128 x 128, each
// warpgroup 64 x 128 of it in three sums of 64 registers.
#pragma once
#include "exact.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
namespace exact {

// A stage has four planes of 128 rows of 128 bytes, as wgmma wants them: rows of an atom of eight lie 128 bytes apart, and the 16-byte
// chunk c of row r at c xor (r mod 8) (PTX ISA, "matrix descriptor", 128-byte swizzle).
constexpr int WIDE = 128, WIDE_STAGES = 3, WIDE_PLANE = 128 * WIDE;

DEVICE unsigned long long descriptor(unsigned at) {
  return (unsigned long long)((at & 0x3ffff) >> 4) | 1ull << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

// d += a b^T: 64 x 128, 32 of k.
DEVICE void wgmma(int (&d)[64], unsigned long long a, unsigned long long b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0;"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, %64, %65, p;}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
        "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
        "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
        "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]),
        "+r"(d[32]), "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]),
        "+r"(d[40]), "+r"(d[41]), "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]),
        "+r"(d[48]), "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]),
        "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63])
      : "l"(a), "l"(b));
}

DEVICE void product_wgmma(int M, int N, int K, Operand a, Operand b, float *__restrict__ C, long long ldc,
                          const float *__restrict__ bias, unsigned shared) {
  // Of the tile's columns; read from global memory between stores, each would be waited for.
  __shared__ double scales[128];
  __shared__ float biases[128];
  const int t = threadIdx.x, group = t >> 7, steps = K / WIDE;
  const int tiles_m = (M + 127) / 128, tiles_n = (N + 127) / 128, tiles = tiles_m * tiles_n;
  auto plane = [&](int stage, int which) { return shared + (stage * 4 + which) * WIDE_PLANE; };
  // A thread copies one chunk of each 32nd row.
  const int row = t >> 3, chunk = t & 7, at = row * WIDE + ((chunk ^ (row & 7)) << 4);
  auto load = [&](int m0, int n0, int stage, int k0) {
    const long long from_a = (long long)(m0 + row) * K + chunk * 16 + k0, from_b = (long long)(n0 + row) * K + chunk * 16 + k0;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const bool in_a = m0 + row + 32 * c < M, in_b = n0 + row + 32 * c < N;
      const long long skip = (long long)32 * c * K, i = in_a ? from_a + skip : 0, j = in_b ? from_b + skip : 0;
      const int to = at + 32 * c * WIDE;
      copy16(plane(stage, 0) + to, a.high + i, in_a);
      copy16(plane(stage, 1) + to, a.low + i, in_a);
      copy16(plane(stage, 2) + to, b.high + j, in_b);
      copy16(plane(stage, 3) + to, b.low + j, in_b);
    }
  };
  int m0 = 0, n0 = 0;
  // Two groups of copies, empty ones beyond the last tile.
  auto begin = [&](int tile) {
    int tm = 0, tn = 0;
    if (tile < tiles) tile_of(tile, tiles_m, tiles_n, tm, tn);
    m0 = tm * 128, n0 = tn * 128;
#pragma unroll
    for (int i = 0; i < WIDE_STAGES - 1; i++) {
      if (tile < tiles && i < steps) load(m0, n0, i, i * WIDE);
      commit_copies();
    }
  };
  begin(blockIdx.x);
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    if (t < 128) {
      const bool inside = n0 + t < N;
      scales[t] = inside ? b.scale[n0 + t] : 0.0;
      biases[t] = bias && inside ? bias[n0 + t] : 0.0f;
    }
    const bool has_bias = bias != nullptr;
    int hh[64], mixed[64], ll[64];
#pragma unroll
    for (int i = 0; i < 64; i++) hh[i] = mixed[i] = ll[i] = 0;
    for (int it = 0; it < steps; it++) {
      await_copies<WIDE_STAGES - 2>();
      // The tensor cores shall see what ordinary stores wrote. When all are here, all have read the stage before.
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncthreads();
      const int stage = it % WIDE_STAGES;
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int k = 0; k < WIDE; k += 32) {
        const int rows = group * 64 * WIDE + k;
        const unsigned long long ah = descriptor(plane(stage, 0) + rows), al = descriptor(plane(stage, 1) + rows);
        const unsigned long long bh = descriptor(plane(stage, 2) + k), bl = descriptor(plane(stage, 3) + k);
        wgmma(hh, ah, bh);
        wgmma(mixed, ah, bl);
        wgmma(mixed, al, bh);
        wgmma(ll, al, bl);
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      if (it + WIDE_STAGES - 1 < steps) load(m0, n0, (it + WIDE_STAGES - 1) % WIDE_STAGES, (it + WIDE_STAGES - 1) * WIDE);
      commit_copies();
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    // The next tile's operands come while this one's results go.
    const int lane = t & 31, first = m0 + group * 64 + ((t >> 5) & 3) * 16 + (lane >> 2), left = n0 + (lane & 3) * 2;
    __syncthreads();
    begin(tile + gridDim.x);
    const bool pairs = ldc % 2 == 0 && reinterpret_cast<unsigned long long>(C) % 8 == 0;
    const double scale[2] = {first < M ? a.scale[first] : 0.0, first + 8 < M ? a.scale[first + 8] : 0.0};
#pragma unroll
    for (int j = 0; j < 16; j++) {
      const int c = (lane & 3) * 2 + j * 8, n = left + j * 8;
      const double s0 = scales[c], s1 = scales[c + 1];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int i = j * 4 + half * 2, m = first + 8 * half;
        float v0 = result(hh[i], mixed[i], ll[i], scale[half], s0);
        float v1 = result(hh[i + 1], mixed[i + 1], ll[i + 1], scale[half], s1);
        if (has_bias) v0 = add(biases[c], v0), v1 = add(biases[c + 1], v1);
        if (m >= M || n >= N) continue;
        float *to = C + m * ldc + n;
        if (pairs && n + 1 < N) {
          *reinterpret_cast<float2 *>(to) = make_float2(v0, v1);
        } else {
          to[0] = v0;
          if (n + 1 < N) to[1] = v1;
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace exact
#endif

// Blocks take tile after tile: one for each multiprocessor is enough.
extern "C" __global__ void __launch_bounds__(256, 1)
    exact_wgmma(int m, int n, int k, const int8_t *ah, const int8_t *al, const double *as, const int8_t *bh, const int8_t *bl,
                const double *bs, float *c, long long ldc, const float *bias) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) int8_t shared_of_wgmma[];
  const unsigned at = (exact::in_shared(shared_of_wgmma) + 1023) & ~1023u;
  exact::product_wgmma(m, n, k, {ah, al, as}, {bh, bl, bs}, c, ldc, bias, at);
#endif
}
