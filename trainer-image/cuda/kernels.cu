// All kernels in one module. Build: nvcc -cubin -gencode arch=compute_90a,code=sm_90a -fmad=false -std=c++17 kernels.cu
#include "chain.cuh"
#include "exact.cuh"
#include "exact_sm90.cuh"
#include "ops.cuh"
#include "tail.cuh"
