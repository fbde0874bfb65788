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

void silu_mul_part(const SiluMul& op, int id, int threads) {
  const Range part = share(op.n, id, threads);
  if (op.type == S1_BFLOAT16)
    rows((const bf16*)op.x, (bf16*)op.y, op.features, part);
  else
    rows((const float*)op.x, (float*)op.y, op.features, part);
}

}  // namespace S1_LEVEL

// x [n, 2 * features] (gate | up) -> y [n, features].
S1_OP(silu_mul)(const void* x, void* y, int64_t n, int64_t features, int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  const SiluMul op{x, y, n, features, type};
  parallel(n * features < 16384 ? 1 : threads, [&](int id, int count) { silu_mul_part(op, id, count); });
}
