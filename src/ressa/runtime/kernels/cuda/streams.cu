// y[n, rows] = x[n, columns] Wᵀ + bias for few tokens, W sparse in any pattern: as fast as what is kept of W arrives.
//
// W comes in records of 32 rows × 64 · UNIT columns (streams.py): masks, metadata, and for each lane a stream of words, each
// two values of a group of four columns. Of a group there are up to two operands of mma.sp.m16n8k32: the first two kept values,
// for which there is metadata, and those beyond, which lie in columns 2 and 3, so that one constant is their metadata.
// Word j of lane l lies at 128 j + 4 l, so that whatever the lanes' places in their streams, they read from 32 banks.
//
// Each warp has its own ring of records and its own barriers; nothing in the main loop waits for another warp. The
// warps of a CTA and the CTAs of a cluster split k. x comes in parts, as in decode24.cu.
//
// Macros: BF16, X_ROOM, TOKEN_TILES (of 8 tokens), ROW_BLOCKS (of 32 rows, a warp), WARPS_M, WARPS_K, RECORDS (of a ring), UNIT
// (blocks of a record), CTAS (an SM, asked of the compiler).
#include "common.cuh"

#define BARRIERS 1024  // bytes of shared memory before all else
#define MASKS (UNIT * 128)
#define HEAD (UNIT * 384)       // of a record: masks and metadata
#define LAST_TWO 0xeeeeeeee     // metadata: columns 2 and 3 of every group

struct Arguments {
  const u16* x;     // [tokens][columns], rows of x_stride values; 16-byte aligned
  u16* y;           // [tokens][rows]
  const u16* bias;  // [rows], or null
  int rows, columns, row_blocks, column_blocks, tokens, x_stride, splits;
  u32 x_bytes;          // of shared memory for one token: the columns there and 16 bytes more, which keep banks apart
  u32 x_part;           // bytes of a part of these, where there is not room for all
  u32 record_bytes;     // of shared memory for a record: those of the longest
  const u8* records;
  const u32* offsets;  // [row blocks · records of a row + 1]: where each record begins, in units of 128 bytes
};

// Four operands of a step and tile, those that `bits` says are there, from a lane's stream at `place` on; else zeros. Each
// load's address is a value of its own, so that none waits for another.
DEVICE void take(u32 (&values)[4], u32 bits, u32 place) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const u32 row = bits << 7 - i & 128;
    asm volatile("{\n.reg .pred there;\nsetp.ne.u32 there, %2, 0;\nmov.b32 %0, 0;\n@there ld.shared.u32 %0, [%1];\n}"
                 : "=r"(values[i]) : "r"(place), "r"(row));
    place += row;
  }
}

DEVICE u32 load_shared_4(u32 address) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}

// Dynamic shared memory: [barriers][a ring a warp][x, one row a token]; later the sums lie over all but the barriers.
extern "C" __global__ void __launch_bounds__(WARPS_M * WARPS_K * 32, CTAS) streams(const Arguments a) {
  constexpr int WARPS = WARPS_M * WARPS_K, X_PARTS = WARPS_K == 1 ? 4 : WARPS_K;
  extern __shared__ __align__(128) u8 memory[];
  const int warp = warp_index(), lane = threadIdx.x % 32, warp_m = warp % WARPS_M, warp_k = warp / WARPS_M;
  const u32 base = shared_address(memory), x_barriers = base, x_free = base + X_PARTS * 8;
  const u32 barriers = base + (X_PARTS + X_ROOM) * 8 + warp * RECORDS * 8;
  const u32 ring = base + BARRIERS + warp * RECORDS * ROW_BLOCKS * a.record_bytes;
  const u32 x_shared = base + BARRIERS + WARPS * RECORDS * ROW_BLOCKS * a.record_bytes;
  const int rank = blockIdx.x % a.splits, cta = blockIdx.x / a.splits;
  // Columns in records: the CTA's, of which part i belongs to warps with this place along k (or comes i-th).
  const int units = (a.column_blocks + UNIT - 1) / UNIT, first_unit = units * rank / a.splits;
  const int cta_units = units * (rank + 1) / a.splits - first_unit;
  auto part_begin = [&](int part) { return first_unit + cta_units * part / X_PARTS; };
  const int begin = WARPS_K == 1 ? part_begin(0) : part_begin(warp_k);
  const int end = WARPS_K == 1 ? part_begin(X_PARTS) : part_begin(warp_k + 1);
  const int first_block = (cta * WARPS_M + warp_m) * ROW_BLOCKS;
  const u64 policy = streaming_policy();

  // Where the records begin that are loaded next, and those after: read long before they are needed. A record past
  // the last row is read as the last one, and never stored.
  u32 next[ROW_BLOCKS], after[ROW_BLOCKS];
  auto offset_of = [&](int m, int unit) {
    const int row = min(first_block + m, a.row_blocks - 1);
    return __ldg(a.offsets + min(row * units + unit, a.row_blocks * units));
  };
  auto load = [&](int unit, int slot) {
    const u32 barrier = barriers + slot * 8;
    u32 from[ROW_BLOCKS], bytes[ROW_BLOCKS], all = 0;
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++) {
      from[m] = __shfl_sync(~0u, next[m], 0), bytes[m] = (__shfl_sync(~0u, after[m], 0) - from[m]) * 128;
      all += bytes[m], next[m] = after[m], after[m] = offset_of(m, unit + 2);
    }
    stage_begin(barrier, all, lane);
#pragma unroll
    for (int m = 0; m < ROW_BLOCKS; m++)
      stage_copy(ring + (slot * ROW_BLOCKS + m) * a.record_bytes, a.records + (size_t)from[m] * 128, bytes[m], barrier,
                 lane, policy);
    stage_end(barrier);
  };
#pragma unroll
  for (int m = 0; m < ROW_BLOCKS; m++) next[m] = offset_of(m, begin), after[m] = offset_of(m, begin + 1);
  if (lane == 0) {
    for (int s = 0; s < RECORDS; s++) barrier_init(barriers + s * 8, COPY_ARRIVALS);
    if (warp == 0) {
      for (int part = 0; part < X_PARTS; part++) barrier_init(x_barriers + part * 8, COPY_ARRIVALS);
      for (int room = 0; room < X_ROOM; room++) barrier_init(x_free + room * 8, WARPS);
    }
    barriers_ready();
  }
  __syncwarp();
  for (int s = 0; s < RECORDS && begin + s < end; s++) load(begin + s, s);

  auto x_place = [&](int part) {
    return x_shared + (WARPS_K == 1 ? part % X_ROOM * a.x_part : (part_begin(part) - first_unit) * (UNIT * 128));
  };
  auto load_x = [&](int part) {  // past the last column lie zeros, as what memory held there could be NaN
    const int from = part_begin(part) * UNIT * 64, to = min(part_begin(part + 1) * UNIT, a.column_blocks) * 64;
    const int width = max(min(to, a.columns) - from, 0), missing = max(to - from - width, 0) / 4;  // of 8 bytes
    for (int i = lane; i < a.tokens * missing; i += 32)
      *(u64*)(memory + (x_place(part) - base) + i / missing * a.x_bytes + width * 2 + i % missing * 8) = 0;
    __syncwarp();
    copy_rows(x_place(part), a.x_bytes, (const u8*)(a.x + from), a.x_stride * 2, a.tokens, width * 2,
              x_barriers + part * 8, lane);
  };
  __syncthreads();
  for (int part = warp; part < X_ROOM; part += WARPS) load_x(part);

  float acc[ROW_BLOCKS * 2][TOKEN_TILES][4] = {};
  u32 x_rows[TOKEN_TILES];  // lane's addresses for `load_matrices`; tokens that are not there repeat the last
#pragma unroll
  for (int t = 0; t < TOKEN_TILES; t++)
    x_rows[t] = x_shared + min(t * 8 + lane % 8, a.tokens - 1) * a.x_bytes + lane / 8 * 16;
  int slot = 0, unit = begin;
  u32 parity = 0;
  for (int part = WARPS_K == 1 ? 0 : warp_k; unit < end; part++) {
    barrier_wait(x_barriers + part * 8, 0);
    const u32 x_part = x_place(part) - x_shared;
    const int part_unit = WARPS_K == 1 ? part_begin(part) : begin;
    for (const int part_end = WARPS_K == 1 ? part_begin(part + 1) : end; unit < part_end; unit++) {
      barrier_wait(barriers + slot * 8, parity);
      const u32 record = ring + slot * ROW_BLOCKS * a.record_bytes, x_unit = x_part + (unit - part_unit) * (UNIT * 128);
      const int blocks = min(UNIT, a.column_blocks - unit * UNIT);
      u32 places[ROW_BLOCKS];
#pragma unroll
      for (int m = 0; m < ROW_BLOCKS; m++) places[m] = record + m * a.record_bytes + HEAD + lane * 4;
      for (int block = 0; block < blocks; block++) {
        u32 masks[ROW_BLOCKS];
        uint2 metadata[ROW_BLOCKS];
#pragma unroll
        for (int m = 0; m < ROW_BLOCKS; m++) {
          const u32 start = record + m * a.record_bytes;
          masks[m] = load_shared_4(start + block * 128 + lane * 4);
          metadata[m] = load_shared_8(start + MASKS + block * 256 + lane * 8);
        }
#pragma unroll
        for (int step = 0; step < 2; step++) {
          uint4 b[TOKEN_TILES];
#pragma unroll
          for (int t = 0; t < TOKEN_TILES; t++) b[t] = load_matrices(x_rows[t] + x_unit + block * 128 + step * 64);
#pragma unroll
          for (int m = 0; m < ROW_BLOCKS; m++) {
            const u32 word = step ? metadata[m].y : metadata[m].x;
            u32 values[2][2][4];  // of a tile: the first operand and the second
#pragma unroll
            for (int tile = 0; tile < 2; tile++)
#pragma unroll
              for (int which = 0; which < 2; which++) {
                const u32 bits = masks[m] >> which * 16 + step * 8 + tile * 4 & 15;
                take(values[tile][which], bits, places[m]);
                places[m] += __popc(bits) * 128;
              }
#pragma unroll
            for (int t = 0; t < TOKEN_TILES; t++) {
              multiply<0>(acc[m * 2][t], values[0][0], b[t], word);
              multiply<1>(acc[m * 2 + 1][t], values[1][0], b[t], word);
              multiply<0>(acc[m * 2][t], values[0][1], b[t], LAST_TWO);
              multiply<1>(acc[m * 2 + 1][t], values[1][1], b[t], LAST_TWO);
            }
          }
        }
      }
      __syncwarp();  // every lane has read the record
      if (unit + RECORDS < end) load(unit + RECORDS, slot);
      if (++slot == RECORDS) slot = 0, parity ^= 1;
    }
    if (WARPS_K == 1 && part + X_ROOM < X_PARTS) {  // the first warp loads the next part where all are done with this one
      if (lane == 0) barrier_arrive(x_free + part % X_ROOM * 8);
      if (warp == 0) {
        barrier_wait(x_free + part % X_ROOM * 8, part / X_ROOM & 1);
        load_x(part + X_ROOM);
      }
    }
  }
  reduce_and_store<ROW_BLOCKS * 2>(acc, memory + BARRIERS, a.splits, rank, a.y, a.bias, nullptr, a.tokens,
                                   cta * WARPS_M * ROW_BLOCKS * 32, a.rows);
}
