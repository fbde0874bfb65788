// Rows of this rank's part of the token embedding. Twin of kernels/embedding.py.
#include "panels.h"

// ids [n], weight [rows, width bytes] -> y [n, width bytes]; zeros for ids outside start .. start + rows - 1.
S1_OP(embedding)
(const int64_t* ids, const void* weight, void* y, int64_t n, int64_t rows, int64_t width, int64_t start) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = ids[i] - start;
    char* to = (char*)y + i * width;
    if (row >= 0 && row < rows)
      __builtin_memcpy(to, (const char*)weight + row * width, width);
    else
      __builtin_memset(to, 0, width);
  }
}

namespace S1_LEVEL {

template <class T, int STEP>
static void rows_of_panels(const int64_t* ids, const S1Weight* w, T* y, int64_t n, int64_t start) {
  const int64_t cols = w->cols, steps = (cols + STEP - 1) / STEP;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = ids[i] - start;
    const bool here = row >= 0 && row < w->rows;
    const T* from = (const T*)w->data + (here ? row / PANEL * steps * STEP * PANEL + row % PANEL * STEP : 0);
    for (int64_t col = 0; col < cols; ++col)
      y[i * cols + col] = here ? from[col / STEP * STEP * PANEL + col % STEP] : T{};
  }
}

}  // namespace S1_LEVEL

// The same of a packed weight of floats: a head that is also the embedding. y [n, cols] of w->type.
S1_OP(embedding_of_panels)(const int64_t* ids, const S1Weight* w, void* y, int64_t n, int64_t start) {
  using namespace S1_LEVEL;
  if (w->type == S1_FLOAT32)
    rows_of_panels<uint32_t, 1>(ids, w, (uint32_t*)y, n, start);
  else
    rows_of_panels<uint16_t, 2>(ids, w, (uint16_t*)y, n, start);
}
