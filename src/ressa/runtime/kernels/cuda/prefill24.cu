// y[n, rows] = x[n, columns] Wᵀ + bias for many tokens, W 2:4 sparse, on sm_90a: wgmma's sparse form.
//
// W comes in the same blocks as for few tokens (decode24.cu), so that a layer holds it once. A warp's A operands are
// its own block of 32 rows × 64 columns, taken from shared memory into registers in fragment order; the two m64 of
// a warpgroup are the upper and the lower tiles of its four blocks, one word of metadata serving both by the
// selector. B is x, TOKENS × 64 columns, swizzled by the tensor copy engine.
//
// A CTA makes 128 rows a warpgroup × TOKENS. One thread keeps a ring of stages full; a cluster of CLUSTER_M ×
// CLUSTER_N CTAs shares what they have in common, each loading its part and multicasting it: L2 could not feed the
// tensor cores otherwise. A stage is filled again when every consumer of the cluster has released it.
//
// Macros: BF16, WARPGROUPS (1 or 2), CLUSTER_M, CLUSTER_N, STAGES, TOKENS (64, 96, 112, 128, 144, 160 or 176).
#include "common.cuh"

#define BLOCK 2304
#define BLOCKS (4 * WARPGROUPS)
#define X_BYTES (TOKENS * 128)
#define STAGE (X_BYTES + BLOCKS * BLOCK)
#define STAGE_STRIDE ((STAGE + 1023) / 1024 * 1024)
#define CLUSTER (CLUSTER_M * CLUSTER_N)

struct alignas(64) TensorMap {
  u64 opaque[16];
};

struct Arguments {
  const u8* weight;  // [row blocks][column blocks][BLOCK]
  u16* y;            // [tokens][y_stride], of which rows are written
  const u16* bias;   // [rows], or null
  int rows, row_blocks, column_blocks, tokens;
  int tiles_m, tiles_n;  // of CTAs, multiples of the cluster's
  int y_stride;
};

DEVICE u32 remote_address(u32 address, u32 rank) {
  u32 remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// Releases nothing but the stage, which was only read: a release to the whole cluster would wait for all memory.
DEVICE void arrive_remote(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

DEVICE void copy_x(u32 target, const TensorMap* map, int column, int token, u32 barrier, u16 ranks) {
  if (CLUSTER_M > 1)
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(target), "l"(map), "r"(column), "r"(token), "r"(barrier), "h"(ranks) : "memory");
  else
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];"
                 ::"r"(target), "l"(map), "r"(column), "r"(token), "r"(barrier) : "memory");
}

DEVICE void copy_block(u32 target, const u8* source, u32 barrier, u16 ranks) {
  if (CLUSTER_N > 1)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1], %2, [%3], %4;"
                 ::"r"(target), "l"(source), "r"(BLOCK), "r"(barrier), "h"(ranks) : "memory");
  else
    bulk_copy(target, source, BLOCK, barrier);
}

// Of tokens' 64 columns, K-major with the 128-byte swizzle: groups of eight are 1,024 bytes apart.
DEVICE u64 describe(u32 address) { return (u64)(address >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62; }

// A lane's sums of 64 rows × TOKENS: the asm's outputs, and the numbers of its inputs behind them.
#define SUMS (TOKENS / 2)
#define EIGHT(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define NAMES_32 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define OUTPUTS_32 EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)
#define NAMES_48 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define OUTPUTS_48 OUTPUTS_32, EIGHT(32), EIGHT(40)
#define NAMES_56 NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define OUTPUTS_56 OUTPUTS_48, EIGHT(48)
#define NAMES_64 NAMES_56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define OUTPUTS_64 OUTPUTS_56, EIGHT(56)
#define NAMES_72 NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define OUTPUTS_72 OUTPUTS_64, EIGHT(64)
#define NAMES_80 NAMES_72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define OUTPUTS_80 OUTPUTS_72, EIGHT(72)
#define NAMES_88 NAMES_80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define OUTPUTS_88 OUTPUTS_80, EIGHT(80)
#if TOKENS == 64
#define SHAPE "m64n64k32"
#define OUTPUTS OUTPUTS_32
#define OPERANDS "{" NAMES_32 "}, {%32,%33,%34,%35}, %36, %37, %38"
#elif TOKENS == 96
#define SHAPE "m64n96k32"
#define OUTPUTS OUTPUTS_48
#define OPERANDS "{" NAMES_48 "}, {%48,%49,%50,%51}, %52, %53, %54"
#elif TOKENS == 112
#define SHAPE "m64n112k32"
#define OUTPUTS OUTPUTS_56
#define OPERANDS "{" NAMES_56 "}, {%56,%57,%58,%59}, %60, %61, %62"
#elif TOKENS == 128
#define SHAPE "m64n128k32"
#define OUTPUTS OUTPUTS_64
#define OPERANDS "{" NAMES_64 "}, {%64,%65,%66,%67}, %68, %69, %70"
#elif TOKENS == 144
#define SHAPE "m64n144k32"
#define OUTPUTS OUTPUTS_72
#define OPERANDS "{" NAMES_72 "}, {%72,%73,%74,%75}, %76, %77, %78"
#elif TOKENS == 160
#define SHAPE "m64n160k32"
#define OUTPUTS OUTPUTS_80
#define OPERANDS "{" NAMES_80 "}, {%80,%81,%82,%83}, %84, %85, %86"
#else
#define SHAPE "m64n176k32"
#define OUTPUTS OUTPUTS_88
#define OPERANDS "{" NAMES_88 "}, {%88,%89,%90,%91}, %92, %93, %94"
#endif

// d += A B of 64 rows × TOKENS and 32 columns, A sparse from registers. SELECTOR: which pair of each four lanes gives the
// metadata.
template <int SELECTOR>
DEVICE void multiply_async(float (&d)[SUMS], const uint4& a, u64 b, u32 metadata) {
  asm volatile("wgmma.mma_async.sp.sync.aligned." SHAPE ".f32." MMA_TYPE "." MMA_TYPE " " OPERANDS ", 1, 1, 1, 0;"
               : OUTPUTS
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(metadata), "n"(SELECTOR));
}

// A lane's share of its warp's block.
struct Fragments {
  uint4 upper[2], lower[2];  // by step of 32 columns
  uint2 metadata;
};

DEVICE void load_fragments(Fragments& f, u32 block, int lane) {
#pragma unroll
  for (int step = 0; step < 2; step++) {
    f.upper[step] = load_shared_16(block + step * 1024 + lane * 16);
    f.lower[step] = load_shared_16(block + step * 1024 + 512 + lane * 16);
  }
  f.metadata = load_shared_8(block + 2048 + lane * 8);
}

DEVICE void multiply_stage(float (&upper)[SUMS], float (&lower)[SUMS], const Fragments& f, u64 x) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  multiply_async<0>(upper, f.upper[0], x, f.metadata.x);
  multiply_async<1>(lower, f.lower[0], x, f.metadata.x);
  multiply_async<0>(upper, f.upper[1], x + 4, f.metadata.y);  // 64 bytes on
  multiply_async<1>(lower, f.lower[1], x + 4, f.metadata.y);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING>
DEVICE void wait_products(float (&upper)[SUMS], float (&lower)[SUMS]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Dynamic shared memory, from the first multiple of 1,024: [stages][barriers]; the results lie over it in the end.
extern "C" __global__ void __launch_bounds__(128 * (WARPGROUPS + 1), 1)
    prefill24(const __grid_constant__ TensorMap x_map, const Arguments a) {
  extern __shared__ u8 dynamic[];
  const u32 base = (shared_address(dynamic) + 1023) / 1024 * 1024;
  const u32 full = base + STAGES * STAGE_STRIDE, empty = full + STAGES * 8;
  const int warp = warp_index(), lane = threadIdx.x % 32;
  const int rank = blockIdx.x % CLUSTER, rank_m = rank % CLUSTER_M, rank_n = rank / CLUSTER_M;
  // Clusters in groups of some rows of tiles: those that run together share rows of W and tokens in L2.
  const int wide = a.tiles_m / CLUSTER_M, high = a.tiles_n / CLUSTER_N, cluster = blockIdx.x / CLUSTER;
  const int GROUP = 8 / CLUSTER_M, group = cluster / (GROUP * high), group_m = min(wide - group * GROUP, GROUP);
  const int tile_m = (group * GROUP + cluster % (GROUP * high) % group_m) * CLUSTER_M + rank_m;
  const int tile_n = cluster % (GROUP * high) / group_m * CLUSTER_N + rank_n;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, 4 * WARPGROUPS * CLUSTER * SIGNALS);  // every warp of the cluster
    }
    barriers_ready();
  }
  __syncthreads();
  cluster_barrier();

  if (warp >= 4 * WARPGROUPS) {  // the producer
    if (WARPGROUPS == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(TOKENS > 160 ? 24 : 40));
    if (warp == 4 * WARPGROUPS && lane == 0) {
      u16 same_n = 0, same_m = 0;  // the CTAs that share x, and those that share W
      for (int m = 0; m < CLUSTER_M; m++) same_n |= 1 << (m + CLUSTER_M * rank_n);
      for (int n = 0; n < CLUSTER_N; n++) same_m |= 1 << (rank_m + CLUSTER_M * n);
      constexpr int X_PART = TOKENS / CLUSTER_M, BLOCK_PART = BLOCKS / CLUSTER_N;
      auto fetch_weight = [&](int k) {
        const u32 at = base + k % STAGES * STAGE_STRIDE, barrier = full + k % STAGES * 8;
        barrier_expect(barrier, STAGE);
#pragma unroll
        for (int i = 0; i < BLOCK_PART; i++) {
          const int block = rank_n * BLOCK_PART + i, row = min(tile_m * BLOCKS + block, a.row_blocks - 1);
          copy_block(at + X_BYTES + block * BLOCK, a.weight + ((size_t)row * a.column_blocks + k) * BLOCK, barrier,
                     same_m);
        }
      };
      auto fetch_x = [&](int k) {
        copy_x(base + k % STAGES * STAGE_STRIDE + rank_m * X_PART * 128, &x_map, k * 64, tile_n * TOKENS + rank_m * X_PART,
               full + k % STAGES * 8, same_n);
      };
      const int ready = min(STAGES, a.column_blocks);
      for (int k = 0; k < ready; k++) fetch_weight(k);
      wait_for_earlier();
      let_later_start();
      for (int k = 0; k < ready; k++) fetch_x(k);
      for (int k = ready; k < a.column_blocks; k++) {
        barrier_wait(empty + k % STAGES * 8, (k / STAGES - 1) & 1);
        fetch_weight(k);
        fetch_x(k);
      }
    }
    cluster_farewell();
    return;
  }

  if (WARPGROUPS == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(TOKENS > 160 ? 240 : 232));
  float upper[SUMS] = {}, lower[SUMS] = {};
  const u32 my_empty = lane < CLUSTER ? remote_address(empty, lane) : 0;
  auto release = [&](int k) {  // only if it is filled again, so that every signal has arrived before a CTA leaves
    if (k + STAGES >= a.column_blocks) return;
    __syncwarp();  // every lane has read the stage
#if SIGNALS == 1
    if (lane < CLUSTER) arrive_remote(my_empty + k % STAGES * 8);
#else
    for (int rank = 0; rank < CLUSTER; rank++) arrive_remote(remote_address(empty, rank) + k % STAGES * 8);
#endif
  };
  auto take = [&](Fragments& f, int k) {
    barrier_wait(full + k % STAGES * 8, k / STAGES & 1);
    load_fragments(f, base + k % STAGES * STAGE_STRIDE + X_BYTES + warp * BLOCK, lane);
  };
  auto x_of = [&](int k) { return describe(base + k % STAGES * STAGE_STRIDE); };
  // Two sets of fragments, as a product in flight still reads its own.
  Fragments even, odd;
  take(even, 0);
  for (int k = 0; k < a.column_blocks; k += 2) {
    multiply_stage(upper, lower, even, x_of(k));
    if (k > 0) {
      wait_products<1>(upper, lower);
      release(k - 1);
    }
    if (k + 1 == a.column_blocks) break;
    take(odd, k + 1);
    multiply_stage(upper, lower, odd, x_of(k + 1));
    wait_products<1>(upper, lower);
    release(k);
    if (k + 2 < a.column_blocks) take(even, k + 2);
  }
  wait_products<0>(upper, lower);

  // Results: each warp turns its 32 rows × TOKENS around in memory that the ring no longer needs.
  asm volatile("bar.sync 1, %0;" ::"n"(128 * WARPGROUPS) : "memory");
  constexpr u32 STRIDE = 80;  // bytes a token: 64 and 16 more, which keep banks apart
  const u32 mine = base + warp * TOKENS * STRIDE;
  const int row0 = (tile_m * BLOCKS + warp) * 32, group4 = lane / 4;
  float bias[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    bias[i] = a.bias && row0 + i * 8 + group4 < a.rows ? widen(a.bias[row0 + i * 8 + group4]) : 0.f;
#pragma unroll
  for (int t = 0; t < TOKENS / 8; t++) {
    const u32 r0 = round_pair(upper[t * 4] + bias[0], upper[t * 4 + 1] + bias[0]);
    const u32 r1 = round_pair(upper[t * 4 + 2] + bias[1], upper[t * 4 + 3] + bias[1]);
    const u32 r2 = round_pair(lower[t * 4] + bias[2], lower[t * 4 + 1] + bias[2]);
    const u32 r3 = round_pair(lower[t * 4 + 2] + bias[3], lower[t * 4 + 3] + bias[3]);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"
                 ::"r"(mine + (t * 8 + lane % 8) * STRIDE + lane / 8 * 16), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
  }
  __syncwarp();
  const int row = row0 + lane % 4 * 8;
#pragma unroll 4
  for (int t = lane / 4; t < TOKENS; t += 8) {
    const int token = tile_n * TOKENS + t;
    if (token >= a.tokens || row >= a.rows) continue;
    const u32 source = mine + t * STRIDE + lane % 4 * 16;
    u16* target = a.y + (size_t)token * a.y_stride + row;
    if (a.y_stride % 8 == 0 && a.rows % 8 == 0) *(uint4*)target = load_shared_16(source);
    else for (int i = 0; i < 8 && row + i < a.rows; i++) target[i] = load_shared_2(source + i * 2);
  }
  cluster_farewell();
}
