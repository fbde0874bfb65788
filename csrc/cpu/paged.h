// How keys and values lie inside a page: a matter of the operators of one instruction set, which nobody else reads.
//
// Where bfloat16 products come in pairs (vdpbf16ps), pages hold them as the instruction takes them, so that attention
// computes straight from the cache: of every 64 keys, K as [head_dim / 2, 64 keys, 2] and V as [32, head_dim, 2 keys], both
// read front to back. 64 tokens take the same bytes either way. Otherwise a page is [page_size, head_dim], as kernels/ defines it.
// tests/csrc/pages.py has the same in a line each.
#pragma once

#include "abi.h"
#include "simd.h"

namespace S1_LEVEL {

constexpr int BLOCK_KEYS = 64;

S1_INLINE bool blocked(int32_t type, int64_t head_dim, int64_t page_size) {
#if defined(S1_LEVEL_avx512_bf16)
  return type == S1_BFLOAT16 && head_dim % 32 == 0 && page_size % BLOCK_KEYS == 0;
#else
  (void)type, (void)head_dim, (void)page_size;
  return false;
#endif
}

// K and V of the token at `offset` into its blocked page. Element by element: tokens that share a line belong to other
// threads.
S1_INLINE void put_key(const bf16* k, bf16* page, int64_t offset, int64_t dim) {
  bf16* to = page + offset / BLOCK_KEYS * BLOCK_KEYS * dim + offset % BLOCK_KEYS * 2;
  for (int64_t d = 0; d < dim; d += 2, to += 2 * BLOCK_KEYS) to[0] = k[d], to[1] = k[d + 1];
}
S1_INLINE void put_value(const bf16* v, bf16* page, int64_t offset, int64_t dim) {
  bf16* to = page + offset / 2 * 2 * dim + offset % 2;
  for (int64_t d = 0; d < dim; ++d) to[2 * d] = v[d];
}

}  // namespace S1_LEVEL
