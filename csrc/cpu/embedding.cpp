// Rows of this rank's part of the token embedding. Twin of kernels/embedding.py.
#include "operators.h"

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
