// Uploads, embeddings and the angles of rotary positions: what is read or written once, an entry at a time.

#include "layout.cuh"

constexpr int THREADS = 256;

// Packs rows of W, f32 [rows, inputs], as outputs `first` … of a matrix that was filled with zeros. One warp a row.
// int8: an entry is a whole number of scales, the largest 127 of them; `sums` are those of the bytes of a row.
SD_KERNEL(WARP, pack, void* matrix, float* scales, int* sums, const float* rows, int format, int first, int inputs) {
  const int output = first + blockIdx.x;
  const float* row = rows + (size_t)blockIdx.x * inputs;
  float scale = 1;
  if (format == AS_INT8) {
    float most = 0;
    for (int i = threadIdx.x; i < inputs; i += WARP) most = fmaxf(most, fabsf(row[i]));
    most = warp_fold(most, [](float a, float b) { return fmaxf(a, b); });
    if (most / 127 > 0) scale = most / 127;
  }
  int sum = 0;
  for (int i = threadIdx.x; i < inputs; i += WARP) {
    size_t at = matrix_index(format, output, i, inputs);
    if (format == AS_F32) ((float*)matrix)[at] = row[i];
    if (format == AS_F16) ((uint16_t*)matrix)[at] = to_f16(row[i]);
    if (format == AS_BF16) ((uint16_t*)matrix)[at] = to_bf16(row[i]);
    if (format == AS_INT8) {
      int8_t byte = (int8_t)rintf(row[i] / scale);
      ((int8_t*)matrix)[at] = byte;
      sum += byte;
    }
  }
  if (format != AS_INT8) return;
  sum = warp_fold(sum, [](int a, int b) { return a + b; });
  if (threadIdx.x == 0) {
    scales[output] = scale;
    sums[output] = sum;
  }
}

// The halves of a packed matrix [outputs, inputs] row by row, each padded with zeros. Grid: outputs.
SD_KERNEL(THREADS, unpack, uint16_t* rows, const uint16_t* matrix, int inputs) {
  const int output = blockIdx.x, k = padded(inputs);
  for (int i = threadIdx.x; i < k; i += THREADS) {
    rows[(size_t)output * k + i] = matrix[matrix_index(AS_F16, output, i, inputs)];
  }
}

// out[r] = table[tokens[r]] ⊙ x[r] + positions[length + r]; x and positions may be null, and the groups of out. A token
// that is no id makes no numbers of the row. Grid: rows.
SD_KERNEL(THREADS, embed, float* out, Group* groups, const float* x, const int* tokens, const void* table,
          const float* table_scales, int table_format, int vocab, const void* positions, const float* position_scales,
          int position_format, const int* length, int columns) {
  grid_dependency_wait();
  const int row = blockIdx.x, token = tokens[row];
  const bool known = token >= 0 && token < vocab;
  for (int base = 0; base < columns; base += THREADS) {
    int c = base + threadIdx.x;
    float y = 0;
    if (c < columns) {
      size_t at = (size_t)row * padded(columns) + c;
      y = known ? matrix_entry(table, table_scales, table_format, token, c, columns) : NAN;
      if (x) y *= x[at];
      if (positions) y += matrix_entry(positions, position_scales, position_format, *length + row, c, columns);
      out[at] = y;
    }
    if (!groups) continue;
    Group group = group_around(y, c, columns);
    if (c < columns && c % 16 == 0) groups[(size_t)row * groups_of(columns) + c / 16] = group;
  }
}

// [positions, 2, half]: cosines, then sines, of position · frequency. Grid: positions.
SD_KERNEL(WARP, rotation, float* out, const float* frequencies, int half) {
  for (int j = threadIdx.x; j < half; j += WARP) {
    double angle = (double)blockIdx.x * frequencies[j];
    out[(size_t)blockIdx.x * 2 * half + j] = (float)cos(angle);
    out[(size_t)blockIdx.x * 2 * half + half + j] = (float)sin(angle);
  }
}
