// W itself from its records (streams.cu says how they lie), for products with many tokens.
//
// Macros: UNIT.
#include "common.cuh"

struct Arguments {
  u16* dense;  // [rows][columns]
  int rows, columns, row_blocks, column_blocks;
  const u32* records;  // 32 words a row
  const u32* offsets;
};

// One warp takes a record. Of each step of 32 columns and tile of 16 rows, a lane has four groups of four columns.
extern "C" __global__ void __launch_bounds__(256) unpack_streams(const Arguments a) {
  const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
  const int row_records = (a.column_blocks + UNIT - 1) / UNIT;
  const long long index = blockIdx.x * 8ll + threadIdx.x / 32;
  if (index >= (long long)a.row_blocks * row_records) return;
  const int row_block = index / row_records, first = index % row_records * UNIT;
  const u32* record = a.records + (size_t)a.offsets[index] * 32;
  const u32* stream = record + UNIT * 96 + lane;
  for (int block = 0; block < min(UNIT, a.column_blocks - first); block++) {
    const u32 mask = record[block * 32 + lane];
#pragma unroll
    for (int step = 0; step < 2; step++) {
      const u32 word = record[UNIT * 32 + block * 64 + lane * 2 + step];
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        const u32 bits = mask >> step * 8 + tile * 4;
        u32 held[2][4];
#pragma unroll
        for (int which = 0; which < 2; which++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            held[which][i] = 0;
            if (bits >> which * 16 + i & 1) held[which][i] = *stream, stream += 32;
          }
#pragma unroll
        for (int i = 0; i < 4; i++) {  // i % 2 the half of the rows, i / 2 that of the columns
          const u64 four = place_values(held[0][i], word, tile, i, lane) | (u64)held[1][i] << 32;
          const int row = row_block * 32 + tile * 16 + i % 2 * 8 + group;
          const int column = (first + block) * 64 + step * 32 + i / 2 * 16 + part * 4;
          if (row >= a.rows || column >= a.columns) continue;
          u16* target = a.dense + (size_t)row * a.columns + column;
          if (a.columns % 4 == 0) *(u64*)target = four;
          else for (int j = 0; j < 4 && column + j < a.columns; j++) target[j] = (u16)(four >> j * 16);
        }
      }
    }
  }
}
