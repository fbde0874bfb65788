// Rotary embedding of Q and K, normed before where the model says so, and K and V into their pages. Twin of kernels/rope_append.py.
#include "operators.h"
#include "paged.h"

namespace S1_LEVEL {

// out = (x1 cos - x2 sin | x2 cos + x1 sin), with x = (x1 | x2).
template <class T>
static inline void rotate(const T* x, const float* cos, const float* sin, T* out, int half) {
  int i = 0;
  for (; i + W <= half; i += W) {
    const F a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(out + i, sub(mul(a, c), mul(b, s)));
    store(out + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = widen(x[i]), b = widen(x[half + i]);
    narrow(a * cos[i] - b * sin[i], out + i);
    narrow(b * cos[i] + a * sin[i], out + half + i);
  }
}

template <class T>
static void tokens(const RopeAppend& op, Range part) {
  const int64_t dim = op.head_dim, heads = op.num_q + 2 * op.num_kv, plane = op.page_size * dim;
  const bool blocks = blocked(op.type, dim, op.page_size);
  const int half = int(dim / 2);
  T* key = (T*)scratch(WIDE, 2 * sizeof(T) * dim);
  T* normed = key + dim;
  const T *q_gain = (const T*)op.qk_norm, *k_gain = q_gain ? q_gain + dim : nullptr;
  const auto head = [&](const T* x, const T* gain, const float* cos, const float* sin, T* out) {
    if (gain) {
      norm_row<T>(x, nullptr, gain, normed, nullptr, dim, op.eps);
      x = normed;
    }
    rotate(x, cos, sin, out, half);
  };
  for (int64_t i = part.begin; i < part.end; ++i) {
    const T* row = (const T*)op.qkv + i * heads * dim;
    const float *cos = op.cos_sin + op.positions[i] * dim, *sin = cos + half;
    T* q = (T*)op.q + i * op.num_q * dim;
    for (int64_t h = 0; h < op.num_q; ++h) head(row + h * dim, q_gain, cos, sin, q + h * dim);
    const int64_t slot = op.slots[i];
    if (slot < 0) continue;
    const int64_t page = slot / op.page_size * op.page_stride, offset = slot % op.page_size;
    for (int64_t h = 0; h < op.num_kv; ++h) {
      T *keys = (T*)op.k_cache + page + h * plane, *values = (T*)op.v_cache + page + h * plane;
      const T *k = row + (op.num_q + h) * dim, *v = k + op.num_kv * dim;
      if (blocks) {
        head(k, k_gain, cos, sin, key);
        put_key((const bf16*)key, (bf16*)keys, offset, dim);
        put_value((const bf16*)v, (bf16*)values, offset, dim);
      } else {
        head(k, k_gain, cos, sin, keys + offset * dim);
        __builtin_memcpy(values + offset * dim, v, sizeof(T) * dim);
      }
    }
  }
}

void rope_append_part(const RopeAppend& op, int id, int threads) {
  const Range part = share(op.n, id, threads);
  if (op.type == S1_BFLOAT16)
    tokens<bf16>(op, part);
  else
    tokens<float>(op, part);
}

}  // namespace S1_LEVEL

// See operators.h: RopeAppend.
S1_OP(rope_append)
(const void* qkv, const float* cos_sin, const int64_t* positions, const int64_t* slots, void* q, void* k_cache,
 void* v_cache, int64_t n, int64_t num_q, int64_t num_kv, int64_t head_dim, int64_t page_size, int64_t page_stride,
 const void* qk_norm, float eps, int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  const RopeAppend op{qkv,    cos_sin,  positions, slots,       q,       k_cache, v_cache, n,
                      num_q, num_kv, head_dim, page_size, page_stride, qk_norm, eps,     type};
  parallel(n * (num_q + 2 * num_kv) * head_dim < 32768 ? 1 : threads,
           [&](int id, int count) { rope_append_part(op, id, count); });
}
