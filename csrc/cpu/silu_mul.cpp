// silu(gate) * up for a product that was not fused with it. Twin of kernels/silu_mul.py.
#include "operators.h"

namespace S1_LEVEL {

template <class T>
static void rows(const T* x, T* y, int64_t features, Range part) {
  for (int64_t i = part.begin; i < part.end; ++i) {
    const T *gate = x + i * 2 * features, *up = gate + features;
    T* out = y + i * features;
    int64_t j = 0;
    for (; j + W <= features; j += W) store(out + j, mul(silu(load(gate + j)), load(up + j)));
    const int tail = int(features - j);
    if (tail) store_first(out + j, mul(silu(load_first(gate + j, tail)), load_first(up + j, tail)), tail);
  }
}

}  // namespace S1_LEVEL

// x [n, 2 * features] (gate | up) -> y [n, features].
S1_OP(silu_mul)(const void* x, void* y, int64_t n, int64_t features, int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  parallel(n * features < 16384 ? 1 : threads, [&](int id, int count) {
    const Range part = share(n, id, count);
    if (type == S1_BFLOAT16)
      rows((const bf16*)x, (bf16*)y, features, part);
    else
      rows((const float*)x, (float*)y, features, part);
  });
}
