// What the kernels share: copies that a warp waits for by a barrier, fragments, and the sum over warps and CTAs.
//
// NVRTC compiles this without any header. A kernel's shape comes as macros (-D), so that each variant is one
// small program. One source serves sm_80, sm_89 and sm_90: on sm_90 one lane starts a bulk copy and the copy
// engine counts the bytes on the barrier; before, the lanes of a warp copy 16 bytes each and arrive when these land.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef BULK  // 0 compiles the portable copies for sm_90 too, so that they can be tested there
#define BULK (__CUDA_ARCH__ >= 900)
#endif

#define DEVICE __device__ __forceinline__

// BF16: 1 for bfloat16, 0 for float16.
#if BF16
#define MMA_TYPE "bf16"
#else
#define MMA_TYPE "f16"
#endif

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// ---- 16-bit floats -------------------------------------------------------------------------------------------

// Two floats, rounded; the first in the lower half.
DEVICE u32 round_pair(float low, float high) {
  u32 pair;
#if BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}

DEVICE float widen(u16 value) {
#if BF16
  return __uint_as_float((u32)value << 16);
#else
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
  return wide;
#endif
}

// Two pairs of e4m3 values as pairs of 16-bit floats, exactly: sign, exponent and mantissa go where these have them, and
// the product with a power of two makes up for the other bias, of numbers below the smallest normal one too.
DEVICE uint2 widen_fp8(u32 four) {
#if BF16
  const u32 shift = 4, rest = 0x07f007f0, bias = 0x7b807b80;  // 2^120
#else
  const u32 shift = 1, rest = 0x3f803f80, bias = 0x5c005c00;  // 2^8
#endif
  u32 pair[2] = {__byte_perm(four, 0, 0x1404), __byte_perm(four, 0, 0x3424)};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    pair[i] = pair[i] & 0x80008000 | pair[i] >> shift & rest;
#if BF16
    asm("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(pair[i]) : "r"(bias), "r"(0x80008000));
#else
    asm("mul.rn.f16x2 %0, %0, %1;" : "+r"(pair[i]) : "r"(bias));
#endif
  }
  return make_uint2(pair[0], pair[1]);
}

// ---- shared memory -------------------------------------------------------------------------------------------

DEVICE uint4 load_shared_16(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}

DEVICE uint2 load_shared_8(u32 address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}

DEVICE u16 load_shared_2(u32 address) {
  u16 v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(address));
  return v;
}

// Four 8×8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE uint4 load_matrices(u32 address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}

// ---- sparse products ----------------------------------------------------------------------------------------------

// d += A B of m16 n8 k32, A sparse: a lane's four words of two values, as PTX lays them out. SELECTOR: which pair of each
// four lanes gives the metadata.
template <int SELECTOR>
DEVICE void multiply(float (&d)[4], const u32 (&a)[4], const uint4& b, u32 metadata) {
  asm volatile(
#if __CUDA_ARCH__ >= 900
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." MMA_TYPE "." MMA_TYPE ".f32 "
#else
      "mma.sp.sync.aligned.m16n8k32.row.col.f32." MMA_TYPE "." MMA_TYPE ".f32 "
#endif
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(metadata), "n"(SELECTOR));
}

// The four columns that word i of a lane's share of A stands for: its two values where the metadata says, else zeros.
// metadata: the lane's word, which is another lane's business; all lanes of the warp call this together.
DEVICE u64 place_values(u32 values, u32 metadata, int tile, int i, int lane) {
  const u32 owner = __shfl_sync(~0u, metadata, lane / 4 * 4 + tile * 2 + i / 2);
  const u32 code = owner >> (i % 2 * 16 + lane % 4 * 4) & 15;
  return (u64)(values & 0xffff) << (code & 3) * 16 | (u64)(values >> 16) << (code >> 2) * 16;
}

// ---- barriers and copies ---------------------------------------------------------------------------------------

#if BULK
#define COPY_ARRIVALS 1  // the lane that announces the bytes
#else
#define COPY_ARRIVALS 32  // every lane of the copying warp
#endif

// Lanes of a warp that say that it has read a stage: one, behind a __syncwarp(). With 32 every lane speaks for itself:
// where one does for all, racecheck reports the reads of the others.
#ifndef SIGNALS
#define SIGNALS 1
#endif

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// What was initialised becomes visible to the copy engine and to the cluster.
DEVICE void barriers_ready() {
#if BULK
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEVICE void barrier_wait(u32 barrier, u32 parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .pred done;\nAGAIN_%=: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
               "@!done bra AGAIN_%=;\n}" ::"r"(barrier), "r"(parity) : "memory");
#else
  asm volatile("{\n.reg .pred done;\nAGAIN_%=: mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
               "@!done bra AGAIN_%=;\n}" ::"r"(barrier), "r"(parity) : "memory");
#endif
}

DEVICE void barrier_arrive(u32 barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

DEVICE void barrier_expect(u32 barrier, u32 bytes) {
#if BULK
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

// Weights are read once a call: they leave the L2 cache first.
DEVICE u64 streaming_policy() {
  u64 policy = 0;
#if BULK
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

#if BULK
DEVICE void bulk_copy(u32 target, const void* source, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(target), "l"(source), "r"(bytes), "r"(barrier) : "memory");
}
#endif

// A whole warp starts a stage: `stage_begin` announces `bytes`, `stage_copy` copies (multiples of 16 bytes, both
// sides aligned to 16), `stage_end` closes it. The barrier takes COPY_ARRIVALS arrivals a phase.
DEVICE void stage_begin(u32 barrier, u32 bytes, int lane) {
#if BULK
  if (lane == 0) barrier_expect(barrier, bytes);
#endif
}

DEVICE void stage_copy(u32 target, const void* source, u32 bytes, u32 barrier, int lane, u64 policy) {
#if BULK
  if (lane == 0)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;"
                 ::"r"(target), "l"(source), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
#else
  for (u32 at = lane * 16; at < bytes; at += 512)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target + at), "l"((const u8*)source + at) : "memory");
#endif
}

DEVICE void stage_end(u32 barrier) {
#if !BULK
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// All threads of the cluster; what they wrote before is seen by the others.
DEVICE void cluster_barrier() {
  __syncwarp();
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same without a word about memory, and so without waiting for it: before a CTA leaves whose memory, or
// barriers, others may still use.
DEVICE void cluster_farewell() {
  __syncwarp();
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}

// A kernel may start before the one ahead of it in its stream has ended (`driver.OVERLAP`), to fetch what that one cannot
// change: the weights. This waits for its end, and so for all before it; nothing else is read or written earlier.
DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind this one in the stream may start. Only after `wait_for_earlier`: whoever starts then can rely on all
// before this kernel having ended.
DEVICE void let_later_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The warp's number, known to the compiler to be the same in all its lanes, as addresses made of it then are.
DEVICE int warp_index() { return __shfl_sync(~0u, threadIdx.x / 32, 0); }

// `rows` rows of `bytes` each, by one warp; a stage of its own on `barrier`.
DEVICE void copy_rows(u32 target, u32 target_stride, const u8* source, size_t source_stride, int rows, u32 bytes,
                      u32 barrier, int lane) {
#if BULK
  if (lane == 0) barrier_expect(barrier, rows * bytes);
  if (bytes)
    for (int row = lane; row < rows; row += 32)
      bulk_copy(target + row * target_stride, source + row * source_stride, bytes, barrier);
#else
  for (int row = 0; row < rows; row++)
    stage_copy(target + row * target_stride, source + row * source_stride, bytes, barrier, lane, 0);
  stage_end(barrier);
#endif
}

// ---- the sum over warps and CTAs, for a kernel with WARPS_M × WARPS_K warps a CTA --------------------------------
#ifdef WARPS_M

// Four floats at a shared address of the CTA with this rank in the cluster.
DEVICE float4 load_remote(u32 address, int rank) {
  float4 v = {0.f, 0.f, 0.f, 0.f};
#if __CUDA_ARCH__ >= 900
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(remote) : "memory");
#endif
  return v;
}

DEVICE void add(float4& sum, const float4& more) {
  sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
}

// Four results of one token, from `row` on; rows past the weight's last are not there.
// scale: of each row, or null.
DEVICE void store_rows(u16* y, const u16* bias, const float* scale, float4 v, int row, int rows) {
  float value[4] = {v.x, v.y, v.z, v.w};
  if (scale)
    for (int i = 0; i < 4; i++)
      if (row + i < rows) value[i] *= scale[row + i];
  if (bias)
    for (int i = 0; i < 4; i++)
      if (row + i < rows) value[i] += widen(bias[row + i]);
  const u32 low = round_pair(value[0], value[1]), high = round_pair(value[2], value[3]);
  if (row + 4 <= rows && rows % 4 == 0) {
    *(uint2*)(y + row) = make_uint2(low, high);
  } else {
    const u16 rounded[4] = {(u16)low, (u16)(low >> 16), (u16)high, (u16)(high >> 16)};
    for (int i = 0; i < 4; i++)
      if (row + i < rows) y[row + i] = rounded[i];
  }
}

// y[token][row] = bias[row] + the sum of what the warps of the CTA (along k) and the CTAs of the cluster hold.
//
// Each warp holds acc[tile][token tile][4], the accumulators of TILES tiles of 16 rows × 8 tokens. All is added in
// one order that depends on nothing but the launch, so that two runs agree bit for bit. The sums lie in `memory`, shared,
// aligned to 16 bytes, free to be written (every copy has landed and been read) and without barriers: the hardware may
// write to a barrier's memory after all have passed it.
// splits: CTAs in the cluster, each with its own part of k. first_row: that of the CTA's first warp.
template <int TILES>
DEVICE void reduce_and_store(float (&acc)[TILES][TOKEN_TILES][4], u8* memory, int splits, int rank, u16* y,
                             const u16* bias, const float* scale, int tokens, int first_row, int rows) {
  constexpr int THREADS = WARPS_M * WARPS_K * 32, HEIGHT = TILES * 16, STRIDE = HEIGHT + 4;  // no bank conflicts
  constexpr int PART = TOKEN_TILES * 8 * STRIDE, CTA_ROWS = WARPS_M * HEIGHT;
  const int warp = warp_index(), lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
  float* sums = (float*)memory;
  float* mine = sums + warp * PART;
  __syncthreads();
#pragma unroll
  for (int tile = 0; tile < TILES; tile++)
#pragma unroll
    for (int t = 0; t < TOKEN_TILES; t++) {
      float* at = mine + (t * 8 + 2 * pair) * STRIDE + tile * 16 + group;
      at[0] = acc[tile][t][0], at[STRIDE] = acc[tile][t][1];
      at[8] = acc[tile][t][2], at[STRIDE + 8] = acc[tile][t][3];
    }
  __syncthreads();
  // Where the four sums of a token from `row` on lie, in floats, of the warp with this place along k.
  auto place = [&](int token, int row, int warp_k) {
    return (warp_k * WARPS_M + row / HEIGHT) * PART + token * STRIDE + row % HEIGHT;
  };
  const int quads = tokens * (CTA_ROWS / 4);
  float* joined = sums + WARPS_M * WARPS_K * PART;
  if (splits == 1 || WARPS_K > 1)
    for (int i = threadIdx.x; i < quads; i += THREADS) {
      const int token = i / (CTA_ROWS / 4), row = i % (CTA_ROWS / 4) * 4;
      float4 sum = *(float4*)(sums + place(token, row, 0));
#pragma unroll
      for (int k = 1; k < WARPS_K; k++) add(sum, *(float4*)(sums + place(token, row, k)));
      if (splits == 1) store_rows(y + (size_t)token * rows, bias, scale, sum, first_row + row, rows);
      else *(float4*)(joined + i * 4) = sum;
    }
  if (splits == 1) return;
  cluster_barrier();
  const u32 base = shared_address(memory);
  for (int i = quads * rank / splits + threadIdx.x; i < quads * (rank + 1) / splits; i += THREADS) {
    const int token = i / (CTA_ROWS / 4), row = i % (CTA_ROWS / 4) * 4;
    const u32 address = base + 4 * (WARPS_K == 1 ? place(token, row, 0) : WARPS_M * WARPS_K * PART + i * 4);
    float4 sum = load_remote(address, 0);
    for (int k = 1; k < splits; k++) add(sum, load_remote(address, k));
    store_rows(y + (size_t)token * rows, bias, scale, sum, first_row + row, rows);
  }
  cluster_farewell();
}
#endif
