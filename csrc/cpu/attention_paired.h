// Attention arithmetic by vdpbf16ps, for pages of bfloat16 where the processor has it.
#pragma once

#include "attention.h"

#if defined(S1_LEVEL_avx512_bf16)
namespace S1_LEVEL {

// The same by vdpbf16ps, two products an instruction, on keys in blocks of 64 as paged.h lays them; pages of another size
// are brought into that form first, a head at a time. Queries go in as they are and the scores are scaled to powers of two;
// weights are rounded to bfloat16, and their sum is that of the rounded ones. Takes head_dim in multiples of 32.
struct Paired {
  using T = bf16;
  using Weight = bf16;
  using Pair = int32_t;
  static constexpr int TILE = 7;
  static constexpr int VECTORS = 4;                 // of keys or of head_dim: TILE times as many sums
  static constexpr int BLOCKS = PART / BLOCK_KEYS;  // of keys in a part
  static constexpr int AHEAD = 2;                   // blocks between the one that is read and the one that is fetched
  static_assert(BLOCK_KEYS == CHUNK && CHUNK == VECTORS * W, "a block is scored at a time");

  static bool together(const Attention& op) { return blocked(op.type, op.head_dim, op.page_size); }

  // The blocks of a part: K, [dim / 2, 64 keys], and V, [32 pairs of keys, dim]. They are read K first, all heads of a page
  // before the next page. Pages lie anywhere, so the hardware does not know which comes next: whoever reads a line fetches
  // the same of the block after the next, beyond the end of the part too.
  struct Places {
    const Pair *k[BLOCKS], *v[BLOCKS];  // of the first head
    const Pair* order[2 * BLOCKS * HEADS + AHEAD];
    int blocks, all = 0;

    Places(const Attention& op, const Work& work, const Keys& keys, int64_t first, int64_t count, const Keys& then,
           int64_t then_first) {
      const bf16 *k_cache = (const bf16*)op.k_cache, *v_cache = (const bf16*)op.v_cache;
      blocks = int((count + BLOCK_KEYS - 1) / BLOCK_KEYS);
      if (together(op)) {
        const int64_t plane = op.page_size * op.head_dim, rest = then.count - then_first;
        const int64_t left = rest < PART ? rest : PART;
        const auto list = [&](const bf16* cache, const Keys& of, int64_t from, int64_t some, int most,
                              const Pair** into) {
          walk<BLOCK_KEYS>(op, of, from, some, [&](int i, int64_t place) {
            if (into) into[i] = (const Pair*)(cache + place);
            for (int64_t h = 0; h < of.heads && all < most; ++h)
              order[all++] = (const Pair*)(cache + place + h * plane);
          });
        };
        const int own = int(2 * blocks * keys.heads), most = own + AHEAD;
        list(k_cache, keys, first, count, own, k);
        list(v_cache, keys, first, count, own, v);
        list(k_cache, then, then_first, left, most, nullptr);
        list(v_cache, then, then_first, left, most, nullptr);
      } else {
        const int64_t elements = BLOCK_KEYS * op.head_dim;
        bf16 *formed_k = (bf16*)work.keys, *formed_v = (bf16*)work.values;
        for (int b = 0; b < BLOCKS; ++b)
          k[b] = (const Pair*)(formed_k + b * elements), v[b] = (const Pair*)(formed_v + b * elements);
        walk<1>(op, keys, first, count, [&](int i, int64_t place) {
          put_key(k_cache + place, formed_k + i / BLOCK_KEYS * elements, i % BLOCK_KEYS, op.head_dim);
          put_value(v_cache + place, formed_v + i / BLOCK_KEYS * elements, i % BLOCK_KEYS, op.head_dim);
        });
      }
    }

    // What is fetched beside the i-th piece of work, which are blocks of K, the softmax of each head, and blocks of V: a
    // block, or nothing new.
    const Pair* later(int i, const Pair* own) const { return i + AHEAD < all ? order[i + AHEAD] : own; }

    // Lines first .. last - 1 of what is fetched beside the softmax of a head.
    void fetch_lines(const Head& head, int64_t first, int64_t last) const {
      const Pair* p = later(blocks * head.count + head.index, nullptr);
      for (int64_t line = first; line < last && p; ++line) fetch(p + line * W);
    }
  };

  static void query(const T* q, float, const Work& work, int64_t row, int64_t dim) {
    __builtin_memcpy((bf16*)work.q + row * dim, q, sizeof(bf16) * dim);
  }

  S1_INLINE_MEMBER static F dot(F acc, __m512i pairs, Pair pair) {
    return _mm512_dpbf16_ps(acc, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(pair));
  }

  static void prepare(const Work&, const Places&, const Head&, int, int, int64_t) {}

  // Scores of ROWS query rows against one block of keys.
  template <int ROWS, bool FETCH>
  S1_INLINE_MEMBER static void score_block(const Pair* q, int64_t pairs, float scale, const Pair* k, const Pair* later,
                                           float* scores) {
    F acc[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) acc[r][v] = zero();
    for (int64_t d = 0; d < pairs; ++d, k += BLOCK_KEYS, later += BLOCK_KEYS) {
      __m512i x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        if (FETCH) fetch(later + v * W);
        x[v] = _mm512_loadu_si512(k + v * W);
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) acc[r][v] = dot(acc[r][v], x[v], q[r * pairs + d]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) store(scores + r * PART + v * W, mul(acc[r][v], set1(scale)));
  }

  template <int ROWS>
  static void score(const Attention& op, const Work& work, const Places& at, const Head& head, int64_t row, int first,
                    int, bool fetching) {
    const Pair* q = (const Pair*)((const bf16*)work.q + row * op.head_dim);
    const int block = first / BLOCK_KEYS;
    const Pair *k = at.k[block] + head.skip / 2, *later = at.later(block * head.count + head.index, k);
    const int64_t pairs = op.head_dim / 2;
    const float scale = op.scale * 1.44269504f;
    float* scores = work.scores + row * PART + first;
    if (fetching)
      score_block<ROWS, true>(q, pairs, scale, k, later, scores);
    else
      score_block<ROWS, false>(q, pairs, scale, k, later, scores);
  }

  // 2^x for x <= 0, to 3 in a million: 1 for 0, 0 for -infinity, NaN for NaN.
  S1_INLINE_MEMBER static F power(F x) {
    x = max(set1(-160.0f), x);
    const F k = round(x), f = sub(x, k);
    F p = set1(9.585382416844368e-3f);
    p = fma(p, f, set1(5.590662732720375e-2f));
    p = fma(p, f, set1(2.4024038016796112e-1f));
    p = fma(p, f, set1(6.931241750717163e-1f));
    return scale2(fma(p, f, set1(1.0f)), k);
  }

  S1_INLINE_MEMBER static F keep(F weight, bf16* to) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(weight);
    _mm256_storeu_si256((__m256i*)to, rounded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }

  static int common(int least, int count) { return least == count ? count : least / 2 * 2; }

  // Keys begin .. end - 1 of one block, `begin` even, times NV vectors of V. Where `end` is odd the key after it, which may
  // be NaN, is left out.
  template <int ROWS, int NV, bool FETCH>
  S1_INLINE_MEMBER static void weigh_vectors(const bf16* weights, const Pair* values, const Pair* later, int begin,
                                             int end, float* acc, int64_t dim) {
    F sum[ROWS][NV];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[r][v] = load(acc + r * dim + v * W);
    const auto add = [&](int j, __mmask32 both) {
      __m512i x[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        if (FETCH) fetch(later + j / 2 * dim + v * W);
        x[v] = _mm512_maskz_loadu_epi16(both, values + j / 2 * dim + v * W);
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        Pair pair;
        __builtin_memcpy(&pair, weights + r * 2 * PART + j, sizeof pair);
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) sum[r][v] = dot(sum[r][v], x[v], pair);
      }
    };
    for (int j = begin; j + 1 < end; j += 2) add(j, 0xffffffff);
    if ((end - begin) % 2) add(end - 1, 0x55555555);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) store(acc + r * dim + v * W, sum[r][v]);
  }

  template <int ROWS, bool FETCH>
  static void weigh_block(const bf16* weights, const Pair* values, const Pair* later, int begin, int end, float* acc,
                          int64_t dim) {
    int64_t d = 0;
    for (; d + VECTORS * W <= dim; d += VECTORS * W)
      weigh_vectors<ROWS, VECTORS, FETCH>(weights, values + d, later + d, begin, end, acc + d, dim);
    if (d < dim) weigh_vectors<ROWS, 2, FETCH>(weights, values + d, later + d, begin, end, acc + d, dim);
  }

  template <int ROWS>
  static void weigh(const Work& work, const Places& at, const Head& head, int64_t row, int begin, int end, float* acc,
                    int64_t dim, bool fetching) {
    const int block = begin / BLOCK_KEYS, first = block * BLOCK_KEYS;
    const bf16* weights = (const bf16*)(work.scores + row * PART) + first;
    const Pair *v = at.v[block] + head.skip / 2, *later = at.later((at.blocks + 1 + block) * head.count + head.index, v);
    if (fetching)
      weigh_block<ROWS, true>(weights, v, later, begin - first, end - first, acc, dim);
    else
      weigh_block<ROWS, false>(weights, v, later, begin - first, end - first, acc, dim);
  }
};

}  // namespace S1_LEVEL
#endif
