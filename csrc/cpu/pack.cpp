// A weight as it was loaded -> the panels that linear.cpp reads: panels.h. A panel takes the bytes of its rows, so that
// a weight whose rows and columns fill the panels can be packed where it is.
#include "panels.h"

namespace S1_LEVEL {

// The rows of a panel, which is about to be written over where `to` is `from`: then a copy of them.
template <class T>
static const T* rows_of(const T* from, int64_t cols, const T* to, int64_t panel) {
  const T* first = from + panel * PANEL * cols;
  if (from != to) return first;
  const size_t bytes = PANEL * cols * sizeof(T);
  return (const T*)__builtin_memcpy(scratch(WIDE, bytes), first, bytes);
}

template <class T, int STEP>
static void pack_panels(const T* from, int64_t rows, int64_t cols, T* to, Range panels) {
  const int64_t steps = (cols + STEP - 1) / STEP;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    T* panel = to + p * steps * STEP * PANEL;
    const T* whole = rows_of(from, cols, to, p);
    for (int64_t s = 0; s < steps; ++s)
      for (int i = 0; i < PANEL; ++i)
        for (int j = 0; j < STEP; ++j) {
          const int64_t row = p * PANEL + i, col = s * STEP + j;
          panel[(s * PANEL + i) * STEP + j] = row < rows && col < cols ? whole[i * cols + col] : T{};
        }
  }
}

// Codes of panels of Int8.
static void pack_int8(const int8_t* from, int64_t rows, int64_t cols, int8_t* to, Range panels) {
#if defined(S1_LEVEL_avx512_bf16)
  const int64_t steps = (cols + 1) / 2;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const int8_t* whole = rows_of(from, cols, to, p);
    for (int64_t s = 0; s < steps; ++s) {
      uint8_t* step = (uint8_t*)to + (p * steps + s) * Int8::STRIDE;
      for (int i = 0; i < PANEL; ++i)
        for (int j = 0; j < 2; ++j) {
          const int64_t row = p * PANEL + i, col = 2 * s + j;
          step[Codes::place(i, j)] = Codes::code(row < rows && col < cols ? whole[i * cols + col] : int8_t(0));
        }
    }
  }
#else
  pack_panels<int8_t, 1>(from, rows, cols, to, panels);
#endif
}

}  // namespace S1_LEVEL

// from [rows, cols] of w->type -> w->data, all of which is written; they may be the same where no panel has room left.
S1_OP(pack)(const S1Weight* w, const void* from, int32_t threads) {
  using namespace S1_LEVEL;
  const int64_t panels = (w->rows + PANEL - 1) / PANEL;
  parallel(threads, [&](int id, int count) {
    const Range part = share(panels, id, count);
    if (w->type == S1_FLOAT32)
      pack_panels<uint32_t, 1>((const uint32_t*)from, w->rows, w->cols, (uint32_t*)w->data, part);
    else if (w->type == S1_BFLOAT16)
      pack_panels<uint16_t, 2>((const uint16_t*)from, w->rows, w->cols, (uint16_t*)w->data, part);
    else
      pack_int8((const int8_t*)from, w->rows, w->cols, (int8_t*)w->data, part);
  });
}
