// y[n, rows] = x[n, columns] Wᵀ + bias for few tokens, W sparse: as fast as W's bytes arrive.
//
// W, 2:4 sparse, is the sparse A operand of mma.sp.m16n8k32 (rows of A = out, columns of B = tokens). Its blocks of 32
// rows × 64 columns lie in fragment order (layout24.py): 2,048 bytes of values, 16 a lane and mma, and 256 of metadata,
// one word a lane and step of 32 columns, which serves two tiles of 16 rows through the selector. A row of blocks is
// contiguous, so that a warp which walks along k streams memory: 9 bytes where dense weights have 16.
//
// A weight of any pattern (RESIDUAL) is such a W of the first two kept values of each group of four columns, and the
// rest (split.py). That is a second sparse operand, which can only have values in the last two columns of a group, so
// that one constant is its metadata; most of its groups are empty. Records of four blocks say by a bit a group which are
// there, and hold these as a stream for each lane: word j of lane l lies at 128 j + 4 l. So whatever the lanes' places in
// their streams, they read from 32 different banks.
//
// Each warp has its own ring of stages and its own barriers; nothing in the main loop waits for another warp. The
// warps of a CTA and the CTAs of a cluster split k.
//
// x comes in parts, each with a barrier: one for each place along k. Warps that go through all of k take one part after
// the other, with all in memory, or only X_ROOM.
//
// Values may be e4m3 (FP8), 8 bytes a lane and mma, with a scale a row: they are widened on their way into registers.
//
// Macros: BF16, FP8, RESIDUAL, X_ROOM, TOKEN_TILES (of 8 tokens), ROW_BLOCKS (of 32 rows, a warp), WARPS_M, WARPS_K, STAGES, CTAS (an
// SM, asked of the compiler).
#include "common.cuh"

#ifndef FP8
#define FP8 0
#endif
#define VALUES (FP8 ? 1024 : 2048)  // bytes of a block
#define BLOCK (VALUES + 256)
#define BARRIERS 1024  // bytes of shared memory before all else
#define RECORD_MASKS 256
#define LAST_TWO 0xeeeeeeee  // metadata: columns 2 and 3 of every group
#if RESIDUAL
#define UNIT 4     // blocks that a warp takes together: those of a record
#define RECORDS 2  // that a warp has in memory
#else
#define UNIT 1
#define RECORDS 0
#endif

struct Arguments {
  const u8* weight;  // [row blocks][column blocks][BLOCK]
  const u16* x;      // [tokens][columns], rows of x_stride values; 16-byte aligned
  u16* y;            // [tokens][rows]
  const u16* bias;   // [rows], or null
  const float* scale;  // [rows], or null
  int rows, columns, row_blocks, column_blocks, tokens, x_stride, splits;
  u32 x_bytes;         // of shared memory for one token: the columns there and 16 bytes more, which keep banks apart
  u32 x_part;          // bytes of a part of these, where there is not room for all
  u32 record_bytes;    // of shared memory for a record: those of the longest
  const u8* records;   // or null
  const u32* offsets;  // [row blocks · records of a row + 1]: where each record begins, in units of 128 bytes
};

// A lane's share of A of one tile and step.
DEVICE void load_values(u32 (&a)[4], u32 address) {
#if FP8
  const uint2 eight = load_shared_8(address), low = widen_fp8(eight.x), high = widen_fp8(eight.y);
  a[0] = low.x, a[1] = low.y, a[2] = high.x, a[3] = high.y;
#else
  const uint4 eight = load_shared_16(address);
  a[0] = eight.x, a[1] = eight.y, a[2] = eight.z, a[3] = eight.w;
#endif
}

#if RESIDUAL
// Group `index` of eight in `mask`, or zeros if it is not there; `place`, a shared address, moves along the stream. Every
// place is a new value: were it changed where it is, the load would have to have read its address before the next step.
DEVICE u32 take(u32 mask, int index, u32& place) {
  const u32 row = mask << 7 - index & 128;
  u32 values;
  asm volatile("{\n.reg .pred there;\nsetp.ne.u32 there, %2, 0;\nmov.b32 %0, 0;\n@there ld.shared.u32 %0, [%1];\n}"
               : "=r"(values) : "r"(place), "r"(row));
  place += row;
  return values;
}
#endif

// Dynamic shared memory: [barriers][a ring a warp][records of a warp][x, one row a token]; later the sums lie over all
// but the barriers.
extern "C" __global__ void __launch_bounds__(WARPS_M * WARPS_K * 32, CTAS) decode24(const Arguments arguments) {
  constexpr int WARPS = WARPS_M * WARPS_K, STAGE = ROW_BLOCKS * BLOCK;
  constexpr int X_PARTS = WARPS_K == 1 ? 4 : WARPS_K;
  extern __shared__ __align__(128) u8 memory[];
  const Arguments& a = arguments;
  const int warp = warp_index(), lane = threadIdx.x % 32, warp_m = warp % WARPS_M, warp_k = warp / WARPS_M;
  const u32 base = shared_address(memory), x_barriers = base, x_free = base + X_PARTS * 8;
  const u32 barriers = base + (X_PARTS + X_ROOM) * 8 + warp * (STAGES + RECORDS) * 8;
  const u32 ring = base + BARRIERS + warp * STAGES * STAGE;
#if RESIDUAL
  const u32 records = base + BARRIERS + WARPS * STAGES * STAGE + warp * RECORDS * ROW_BLOCKS * a.record_bytes;
#endif
  const u32 x_shared = base + BARRIERS + WARPS * (STAGES * STAGE + RECORDS * ROW_BLOCKS * a.record_bytes);
  const int rank = blockIdx.x % a.splits, cta = blockIdx.x / a.splits;
  // Columns in blocks of 64: the CTA's, of which part i belongs to warps with this place along k (or comes i-th).
  const int units = (a.column_blocks + UNIT - 1) / UNIT, first_unit = units * rank / a.splits;
  const int cta_units = units * (rank + 1) / a.splits - first_unit, cta_begin = first_unit * UNIT;
  auto part_begin = [&](int part) { return min((first_unit + cta_units * part / X_PARTS) * UNIT, a.column_blocks); };
  const int begin = WARPS_K == 1 ? part_begin(0) : part_begin(warp_k);
  const int end = WARPS_K == 1 ? part_begin(X_PARTS) : part_begin(warp_k + 1);
  const int first_block = (cta * WARPS_M + warp_m) * ROW_BLOCKS;
  const u64 policy = streaming_policy();

  auto load = [&](int column, int stage) {
    const u32 barrier = barriers + stage * 8;
    stage_begin(barrier, STAGE, lane);
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++) {  // a block past the last row is read as the last one, and never stored
      const int row = min(first_block + m, a.row_blocks - 1);
      stage_copy(ring + stage * STAGE + m * BLOCK, a.weight + ((size_t)row * a.column_blocks + column) * BLOCK, BLOCK,
                 barrier, lane, policy);
    }
    stage_end(barrier);
  };
  if (lane == 0) {
    for (int s = 0; s < STAGES + RECORDS; s++) barrier_init(barriers + s * 8, COPY_ARRIVALS);
    if (warp == 0) {
      for (int part = 0; part < X_PARTS; part++) barrier_init(x_barriers + part * 8, COPY_ARRIVALS);
      for (int room = 0; room < X_ROOM; room++) barrier_init(x_free + room * 8, WARPS * SIGNALS);
    }
    barriers_ready();
  }
  __syncwarp();
  for (int s = 0; s < STAGES && begin + s < end; s++) load(begin + s, s);
#if RESIDUAL
  // Where the records begin that are loaded next, and those after: read long before they are needed.
  u32 next[ROW_BLOCKS], after[ROW_BLOCKS];
  auto offset_of = [&](int m, int record) {
    const int row = min(first_block + m, a.row_blocks - 1);
    return __ldg(a.offsets + min(row * units + record, a.row_blocks * units));
  };
  auto load_records = [&](int record, int slot) {
    const u32 barrier = barriers + (STAGES + slot) * 8;
    u32 from[ROW_BLOCKS], bytes[ROW_BLOCKS], all = 0;
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++) {
      from[m] = __shfl_sync(~0u, next[m], 0), bytes[m] = (__shfl_sync(~0u, after[m], 0) - from[m]) * 128;
      all += bytes[m], next[m] = after[m], after[m] = offset_of(m, record + 2);
    }
    stage_begin(barrier, all, lane);
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++)
      stage_copy(records + (slot * ROW_BLOCKS + m) * a.record_bytes, a.records + (size_t)from[m] * 128, bytes[m], barrier,
                 lane, policy);
    stage_end(barrier);
  };
#pragma unroll
  for (int m = 0; m < ROW_BLOCKS; m++) next[m] = offset_of(m, begin / UNIT), after[m] = offset_of(m, begin / UNIT + 1);
  for (int slot = 0; slot < RECORDS && begin + slot * UNIT < end; slot++) load_records(begin / UNIT + slot, slot);
  uint2 masks[ROW_BLOCKS] = {};
  u32 places[ROW_BLOCKS] = {};
#endif

  auto x_place = [&](int part) {
    return x_shared + (WARPS_K == 1 ? part % X_ROOM * a.x_part : (part_begin(part) - cta_begin) * 128);
  };
  auto load_x = [&](int part) {  // past the last column lie zeros, as what memory held there could be NaN
    const int from = part_begin(part) * 64, to = part_begin(part + 1) * 64, width = max(min(to, a.columns) - from, 0);
    const int missing = (to - from - width) / 4;  // in units of 8 bytes
    for (int i = lane; i < a.tokens * missing; i += 32)
      *(u64*)(memory + (x_place(part) - base) + i / missing * a.x_bytes + width * 2 + i % missing * 8) = 0;
    __syncwarp();
    copy_rows(x_place(part), a.x_bytes, (const u8*)(a.x + from), a.x_stride * 2, a.tokens, width * 2,
              x_barriers + part * 8, lane);
  };
  wait_for_earlier();
  let_later_start();
  __syncthreads();
  for (int part = warp; part < X_ROOM; part += WARPS) load_x(part);

  float acc[ROW_BLOCKS * 2][TOKEN_TILES][4] = {};
  u32 x_rows[TOKEN_TILES];  // lane's addresses for `load_matrices`; tokens that are not there repeat the last
#pragma unroll
  for (int t = 0; t < TOKEN_TILES; t++)
    x_rows[t] = x_shared + min(t * 8 + lane % 8, a.tokens - 1) * a.x_bytes + lane / 8 * 16;
  int stage = 0, column = begin;
  u32 parity = 0;
  for (int part = WARPS_K == 1 ? 0 : warp_k; column < end; part++) {
    barrier_wait(x_barriers + part * 8, 0);
    const u32 x_part = x_place(part) - x_shared;
    const int part_column = WARPS_K == 1 ? part_begin(part) : begin;
    for (const int part_end = WARPS_K == 1 ? part_begin(part + 1) : end; column < part_end; column++) {
#if RESIDUAL
      const int record = (column - begin) / UNIT, slot = record % RECORDS;
      if (column % UNIT == 0) {
        barrier_wait(barriers + (STAGES + slot) * 8, record / RECORDS & 1);
#pragma unroll
        for (int m = 0; m < ROW_BLOCKS; m++) {
          const u32 start = records + (slot * ROW_BLOCKS + m) * a.record_bytes;
          masks[m] = load_shared_8(start + lane * 8), places[m] = start + RECORD_MASKS + lane * 4;
        }
      }
#endif
      barrier_wait(barriers + stage * 8, parity);
      const u32 at = ring + stage * STAGE, x_column = x_part + (column - part_column) * 128;
      uint2 metadata[ROW_BLOCKS];
#pragma unroll
      for (int m = 0; m < ROW_BLOCKS; m++) metadata[m] = load_shared_8(at + m * BLOCK + VALUES + lane * 8);
#pragma unroll
      for (int step = 0; step < 2; step++) {
        uint4 b[TOKEN_TILES];
#pragma unroll
        for (int t = 0; t < TOKEN_TILES; t++) b[t] = load_matrices(x_rows[t] + x_column + step * 64);
#pragma unroll
        for (int m = 0; m < ROW_BLOCKS; m++) {
          const u32 word = step ? metadata[m].y : metadata[m].x;
          const u32 values = at + m * BLOCK + (step * VALUES + lane * (VALUES / 64)) / 2;
          u32 upper[4], lower[4];
          load_values(upper, values), load_values(lower, values + VALUES / 4);
#pragma unroll
          for (int t = 0; t < TOKEN_TILES; t++) {
            multiply<0>(acc[m * 2][t], upper, b[t], word);
            multiply<1>(acc[m * 2 + 1][t], lower, b[t], word);
          }
#if RESIDUAL
          const u32 mask = (column & 2 ? masks[m].y : masks[m].x) >> (column & 1) * 16 + step * 8;
          // The lower tile's groups begin behind the upper one's: two short chains of places instead of a long one.
          u32 more_upper[4], more_lower[4], place = places[m];
          places[m] += __popc(mask & 15) * 128;
#pragma unroll
          for (int i = 0; i < 4; i++) more_upper[i] = take(mask, i, place), more_lower[i] = take(mask, 4 + i, places[m]);
#pragma unroll
          for (int t = 0; t < TOKEN_TILES; t++) {
            multiply<0>(acc[m * 2][t], more_upper, b[t], LAST_TWO);
            multiply<1>(acc[m * 2 + 1][t], more_lower, b[t], LAST_TWO);
          }
#endif
        }
      }
      __syncwarp();  // every lane has read the stage
      if (column + STAGES < end) load(column + STAGES, stage);
#if RESIDUAL
      if (column % UNIT == UNIT - 1 && column + 1 + (RECORDS - 1) * UNIT < end)
        load_records(begin / UNIT + record + RECORDS, slot);
#endif
      if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    if (WARPS_K == 1 && part + X_ROOM < X_PARTS) {  // the first warp loads the next part where all are done with this one
      if (lane < SIGNALS) barrier_arrive(x_free + part % X_ROOM * 8);
      if (warp == 0) {
        barrier_wait(x_free + part % X_ROOM * 8, part / X_ROOM & 1);
        load_x(part + X_ROOM);
      }
    }
  }
  reduce_and_store<ROW_BLOCKS * 2>(acc, memory + BARRIERS, a.splits, rank, a.y, a.bias, a.scale, a.tokens,
                                   cta * WARPS_M * ROW_BLOCKS * 32, a.rows);
}
