// W itself from its blocks (decode24.cu says how they and records lie), where there is no kernel for many tokens.
//
// Macros: RESIDUAL.
#include "common.cuh"

#define BLOCK 2304
#define BLOCKS_OF_RECORD 4

struct Arguments {
  const u8* weight;
  u16* dense;  // [rows][columns]
  int rows, columns, row_blocks, column_blocks;
  const u32* records;  // 32 words a row; or null
  const u32* offsets;
};

// One warp takes the blocks of a record. Of each step of 32 columns and tile of 16 rows, a lane has four pairs of values,
// each of four columns.
extern "C" __global__ void __launch_bounds__(256) unpack24(const Arguments a) {
  const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
  const int row_records = (a.column_blocks + BLOCKS_OF_RECORD - 1) / BLOCKS_OF_RECORD;
  const long long index = blockIdx.x * 8ll + threadIdx.x / 32;
  if (index >= (long long)a.row_blocks * row_records) return;
  const int row_block = index / row_records, first = index % row_records * BLOCKS_OF_RECORD;
#if RESIDUAL
  const u32* record = a.records + (size_t)a.offsets[index] * 32;
  const uint2 masks = *(const uint2*)(record + lane * 2);
  const u32* stream = record + 64 + lane;
#endif
  for (int column_block = first; column_block < min(first + BLOCKS_OF_RECORD, a.column_blocks); column_block++) {
    const u8* block = a.weight + ((size_t)row_block * a.column_blocks + column_block) * BLOCK;
#pragma unroll
    for (int step = 0; step < 2; step++) {
      const u32 word = *(const u32*)(block + 2048 + lane * 8 + step * 4);
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        const uint4 v = *(const uint4*)(block + (step * 2 + tile) * 512 + lane * 16);
        const u32 values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {  // a0…a3: i % 2 the half of the rows, i / 2 that of the columns
          u64 four = place_values(values[i], word, tile, i, lane);
#if RESIDUAL
          const u32 mask = column_block & 2 ? masks.y : masks.x;
          if (mask >> (column_block & 1) * 16 + step * 8 + tile * 4 + i & 1) four |= (u64)*stream << 32, stream += 32;
#endif
          const int row = row_block * 32 + tile * 16 + i % 2 * 8 + group;
          const int column = column_block * 64 + step * 32 + i / 2 * 16 + part * 4;
          if (row >= a.rows || column >= a.columns) continue;
          u16* target = a.dense + (size_t)row * a.columns + column;
          if (a.columns % 4 == 0) *(u64*)target = four;
          else for (int j = 0; j < 4 && column + j < a.columns; j++) target[j] = (u16)(four >> j * 16);
        }
      }
    }
  }
}
