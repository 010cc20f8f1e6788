// Products of 2.1: each element is one chain of fused multiply-adds over k ascending, so it runs on the f32 pipes.
//
// C[m, n] = bias[n] + op(A)[m, k] op(B)[k, n], row-major; op(A)(m, k) is A[k * lda + m] if TA, op(B)(k, n) is B[n * ldb + k] if TB.
// A block computes a tile of BM x BN in steps of BK, a thread TM x TN of it in registers; two tiles of operands alternate in shared
// memory, and the next are fetched into registers meanwhile.
#pragma once
#include "float.cuh"

namespace chain {

enum Mode : int {
  // Only j <= i of C are wanted: tiles above the diagonal are left alone.
  LOWER_RESULT = 1,
  // op(A)(i, k) is zero for k > i, so those terms change nothing (1.3).
  UNTIL_DIAGONAL = 2,
  // op(A)(i, k) is zero for k < i.
  FROM_DIAGONAL = 4,
  // The chain goes on from what C has (2.1).
  RESUME = 8,
};

// A batch of equal products: number z has (z / inner, z % inner), each with its stride; B has one for every `b_share` of the inner.
struct Batch {
  int inner, b_share;
  long long a_outer, a_inner, b_outer, b_inner, c_outer, c_inner;
};

// Four neighbours of a row of `cols`, zero where it ends.
DEVICE float4 fetch(const float *x, long long ld, int row, int rows, int col, int cols, bool aligned) {
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (row >= rows) return v;
  const float *at = x + row * ld + col;
  if (aligned && col + 3 < cols) return *reinterpret_cast<const float4 *>(at);
  if (col + 0 < cols) v.x = at[0];
  if (col + 1 < cols) v.y = at[1];
  if (col + 2 < cols) v.z = at[2];
  if (col + 3 < cols) v.w = at[3];
  return v;
}

DEVICE bool aligned16(const float *x, long long ld) {
  return ld % 4 == 0 && reinterpret_cast<unsigned long long>(x) % 16 == 0;
}

template <int BM, int BN, int BK, int TM, int TN, bool TA, bool TB>
DEVICE void product(int M, int N, int K, const float *__restrict__ A, long long lda, const float *__restrict__ B, long long ldb,
                    float *__restrict__ C, long long ldc, const float *__restrict__ bias, Batch batch, int mode, float *shared) {
  constexpr int THREADS = (BM / TM) * (BN / TN), LDA = BM + 4, LDB = BN + 4;
  constexpr int FA = BM * BK / 4 / THREADS, FB = BN * BK / 4 / THREADS;
  float(*As)[BK][LDA] = reinterpret_cast<float(*)[BK][LDA]>(shared);
  float(*Bs)[BK][LDB] = reinterpret_cast<float(*)[BK][LDB]>(shared + 2 * BK * LDA);
  const int t = threadIdx.x, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  if ((mode & LOWER_RESULT) && n0 > m0 + BM - 1) return;
  const long long outer = blockIdx.z / batch.inner, inner = blockIdx.z % batch.inner;
  A += outer * batch.a_outer + inner * batch.a_inner;
  B += outer * batch.b_outer + inner / batch.b_share * batch.b_inner;
  C += outer * batch.c_outer + inner * batch.c_inner;
  const int begin = (mode & FROM_DIAGONAL) ? m0 : 0;
  const int end = (mode & UNTIL_DIAGONAL) ? min(K, m0 + BM) : K;
  const bool va = aligned16(A, lda), vb = aligned16(B, ldb), vc = aligned16(C, ldc);

  // A warp has 4 x 8 threads; a thread has chunks of four rows and columns, strided so that 16-byte reads of a warp do not collide.
  const int warp = t >> 5, lane = t & 31;
  constexpr int WARPS_N = BN / (8 * TN);
  const int wm = (warp / WARPS_N) * (4 * TM), wn = (warp % WARPS_N) * (8 * TN);
  const int lm = (lane >> 3) * 4, ln = (lane & 7) * 4;
  float4 ra[FA], rb[FB];
  auto load = [&](int k0) {
#pragma unroll
    for (int c = 0; c < FA; c++) {
      const int i = t + c * THREADS;
      if (TA) ra[c] = fetch(A, lda, k0 + i / (BM / 4), end, m0 + (i % (BM / 4)) * 4, M, va);
      else ra[c] = fetch(A, lda, m0 + i / (BK / 4), M, k0 + (i % (BK / 4)) * 4, end, va);
    }
#pragma unroll
    for (int c = 0; c < FB; c++) {
      const int i = t + c * THREADS;
      if (TB) rb[c] = fetch(B, ldb, n0 + i / (BK / 4), N, k0 + (i % (BK / 4)) * 4, end, vb);
      else rb[c] = fetch(B, ldb, k0 + i / (BN / 4), end, n0 + (i % (BN / 4)) * 4, N, vb);
    }
  };
  auto store = [&](int s) {
#pragma unroll
    for (int c = 0; c < FA; c++) {
      const int i = t + c * THREADS;
      if (TA) {
        *reinterpret_cast<float4 *>(&As[s][i / (BM / 4)][(i % (BM / 4)) * 4]) = ra[c];
      } else {
        const int m = i / (BK / 4), k = (i % (BK / 4)) * 4;
        As[s][k][m] = ra[c].x, As[s][k + 1][m] = ra[c].y, As[s][k + 2][m] = ra[c].z, As[s][k + 3][m] = ra[c].w;
      }
    }
#pragma unroll
    for (int c = 0; c < FB; c++) {
      const int i = t + c * THREADS;
      if (TB) {
        const int n = i / (BK / 4), k = (i % (BK / 4)) * 4;
        Bs[s][k][n] = rb[c].x, Bs[s][k + 1][n] = rb[c].y, Bs[s][k + 2][n] = rb[c].z, Bs[s][k + 3][n] = rb[c].w;
      } else {
        *reinterpret_cast<float4 *>(&Bs[s][i / (BN / 4)][(i % (BN / 4)) * 4]) = rb[c];
      }
    }
  };

  float acc[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) {
      const int m = m0 + wm + (i / 4) * 16 + lm + i % 4, n = n0 + wn + (j / 4) * 32 + ln + j % 4;
      const bool inside = m < M && n < N;
      acc[i][j] = inside && (mode & RESUME) ? C[m * ldc + n] : bias && n < N ? bias[n] : 0.0f;
    }
  if (begin < end) load(begin), store(0);
  __syncthreads();
  int s = 0;
  for (int k0 = begin; k0 < end; k0 += BK) {
    const bool more = k0 + BK < end;
    if (more) load(k0 + BK);
    alignas(16) float a[2][TM], b[2][TN];
    auto pick = [&](int k, int to) {
#pragma unroll
      for (int i = 0; i < TM; i += 4)
        *reinterpret_cast<float4 *>(&a[to][i]) = *reinterpret_cast<float4 *>(&As[s][k][wm + (i / 4) * 16 + lm]);
#pragma unroll
      for (int j = 0; j < TN; j += 4)
        *reinterpret_cast<float4 *>(&b[to][j]) = *reinterpret_cast<float4 *>(&Bs[s][k][wn + (j / 4) * 32 + ln]);
    };
    pick(0, 0);
#pragma unroll
    for (int k = 0; k < BK; k++) {
      if (k + 1 < BK) pick(k + 1, (k + 1) & 1);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) acc[i][j] = fma_(a[k & 1][i], b[k & 1][j], acc[i][j]);
    }
    if (more) {
      store(s ^ 1);
      __syncthreads();
      s ^= 1;
    }
  }
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      const int m = m0 + wm + (i / 4) * 16 + lm + i % 4, n = n0 + wn + (j / 4) * 32 + ln;
      if (m >= M) continue;
      alignas(16) float out[4];
#pragma unroll
      for (int x = 0; x < 4; x++) out[x] = never_minus_zero(acc[i][j + x]);
      if (vc && n + 3 < N) *reinterpret_cast<float4 *>(C + m * ldc + n) = *reinterpret_cast<float4 *>(out);
      else
#pragma unroll
        for (int x = 0; x < 4; x++)
          if (n + x < N) C[m * ldc + n + x] = out[x];
    }
}

}  // namespace chain

// One entry for each shape of tile and layout of operands.
#define CHAIN(name, BM, BN, BK, TM, TN, TA, TB, BLOCKS)                                                                                \
  extern "C" __global__ void __launch_bounds__((BM / TM) * (BN / TN), BLOCKS)                                                          \
      name(int m, int n, int k, const float *a, long long lda, const float *b, long long ldb, float *c, long long ldc,                 \
           const float *bias, int inner, int b_share, long long a_outer, long long a_inner, long long b_outer, long long b_inner,      \
           long long c_outer, long long c_inner, int mode) {                                                                           \
    extern __shared__ __align__(16) float shared_of_chain[];                                                                           \
    const chain::Batch batch{inner, b_share, a_outer, a_inner, b_outer, b_inner, c_outer, c_inner};                                    \
    chain::product<BM, BN, BK, TM, TN, TA, TB>(m, n, k, a, lda, b, ldb, c, ldc, bias, batch, mode, shared_of_chain);                   \
  }
CHAIN(chain_nt_256, 256, 128, 16, 16, 8, false, true, 1)
CHAIN(chain_nn_256, 256, 128, 16, 16, 8, false, false, 1)
CHAIN(chain_tn_256, 256, 128, 16, 16, 8, true, false, 1)
CHAIN(chain_nt_128, 128, 128, 16, 8, 8, false, true, 2)
CHAIN(chain_nn_128, 128, 128, 16, 8, 8, false, false, 2)
CHAIN(chain_tn_128, 128, 128, 16, 8, 8, true, false, 2)
CHAIN(chain_nn_64, 128, 64, 16, 8, 4, false, false, 2)
CHAIN(chain_tn_64, 128, 64, 16, 8, 4, true, false, 2)
// For few rows: twice the blocks.
CHAIN(chain_nn_few, 64, 64, 16, 4, 4, false, false, 3)
CHAIN(chain_tn_few, 64, 64, 16, 4, 4, true, false, 3)
