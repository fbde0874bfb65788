// RMSNorm with the residual add in front of it. Twin of kernels/rms_norm.py.
#include "operators.h"

namespace S1_LEVEL {

// Lane j sums the squares of h[j], h[j + W], ...
template <class T>
void norm_row(const T* x, const T* residual, const T* weight, T* y, T* h, int64_t hidden, float eps) {
  const int64_t whole = hidden / W * W;
  const int tail = int(hidden - whole);
  F squares = zero();
  if (residual) {
    for (int64_t i = 0; i < whole; i += W) {
      const F s = rounded(add(load(x + i), load(residual + i)), h);
      store(h + i, s);
      squares = fma(s, s, squares);
    }
    if (tail) {
      const F s = rounded(add(load_first(x + whole, tail), load_first(residual + whole, tail)), h);
      store_first(h + whole, s, tail);
      squares = fma(s, s, squares);
    }
    x = h;
  } else {
    for (int64_t i = 0; i < whole; i += W) {
      const F s = load(x + i);
      squares = fma(s, s, squares);
    }
    if (tail) {
      const F s = load_first(x + whole, tail);
      squares = fma(s, s, squares);
    }
  }
  const F scale = set1(1.0f / __builtin_sqrtf(sum(squares) / float(hidden) + eps));
  for (int64_t i = 0; i < whole; i += W) store(y + i, mul(mul(load(x + i), scale), load(weight + i)));
  if (tail) {
    const F s = mul(mul(load_first(x + whole, tail), scale), load_first(weight + whole, tail));
    store_first(y + whole, s, tail);
  }
}

template void norm_row(const float*, const float*, const float*, float*, float*, int64_t, float);
template void norm_row(const bf16*, const bf16*, const bf16*, bf16*, bf16*, int64_t, float);

template <class T>
static void rows(const RmsNorm& op, Range part) {
  const T *x = (const T*)op.x, *residual = (const T*)op.residual, *weight = (const T*)op.weight;
  T *y = (T*)op.y, *h = (T*)op.sum;
  for (int64_t i = part.begin; i < part.end; ++i) {
    const int64_t at = i * op.hidden;
    norm_row(x + at, residual ? residual + at : nullptr, weight, y + at, residual ? h + at : nullptr, op.hidden, op.eps);
  }
}

void rms_norm_part(const RmsNorm& op, int id, int threads) {
  const Range part = share(op.n, id, threads);
  if (op.type == S1_BFLOAT16)
    rows<bf16>(op, part);
  else
    rows<float>(op, part);
}

}  // namespace S1_LEVEL

// x, residual (or null), y, sum [n, hidden] and weight [hidden] of `type`. sum = x + residual is written only where there
// is a residual.
S1_OP(rms_norm)
(const void* x, const void* residual, const void* weight, void* y, void* sum, int64_t n, int64_t hidden, float eps,
 int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  const RmsNorm op{x, residual, weight, y, sum, n, hidden, eps, type};
  parallel(n * hidden < 32768 ? 1 : threads, [&](int id, int count) { rms_norm_part(op, id, count); });
}
