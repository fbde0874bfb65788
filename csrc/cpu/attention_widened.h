// Attention arithmetic in float32, for pages of float32 and bfloat16 on every processor.
#pragma once

#include "attention.h"

namespace S1_LEVEL {

// By fused multiply-adds of float32, on keys that are widened and turned around a chunk at a time.
template <class Element>
struct Widened {
  using T = Element;
  using Weight = float;
  static constexpr int TILE = REGISTERS == 32 ? 8 : 6;

  static bool together(const Attention&) { return true; }

  // Where the rows of K and V of a part lie, and of the K that is read next, for the first head.
  struct Places {
    const T *k[PART], *v[PART], *next[PART];

    Places(const Attention& op, const Work&, const Keys& keys, int64_t first, int64_t count, const Keys& then,
           int64_t then_first) {
      walk<1>(op, keys, first, count, [&](int i, int64_t at) {
        k[i] = (const T*)op.k_cache + at;
        v[i] = (const T*)op.v_cache + at;
      });
      for (int64_t i = count; i < whole(count); ++i) k[i] = k[count - 1], v[i] = v[count - 1];
      const int64_t left = then.count - then_first < count ? then.count - then_first : count;
      walk<1>(op, then, then_first, left, [&](int i, int64_t at) { next[i] = (const T*)op.k_cache + at; });
      for (int64_t i = left; i < count; ++i) next[i] = k[i];
    }

    void fetch_lines(const Head&, int64_t, int64_t) const {}
  };

  static void query(const T* q, float scale, const Work& work, int64_t row, int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) work.q[row * dim + d] = widen(q[d]) * scale;
  }

  // W keys, as many values of head_dim as fill a vector of bits.
  S1_INLINE_MEMBER static void turn_block(const float* const* rows, int64_t d, float* keys) {
    F r[W];
    for (int i = 0; i < W; ++i) r[i] = load(rows[i] + d);
    transpose(r);
    for (int i = 0; i < W; ++i) store(keys + (d + i) * CHUNK, r[i]);
  }
  S1_INLINE_MEMBER static void turn_block(const bf16* const* rows, int64_t d, float* keys) {
    F r[W];
    for (int i = 0; i < W; ++i) r[i] = load((const float*)(rows[i] + d));
    transpose(r);
    for (int i = 0; i < W; ++i) {
      F even, odd;
      split_pairs(r[i], &even, &odd);
      store(keys + (d + 2 * i) * CHUNK, even);
      store(keys + (d + 2 * i + 1) * CHUNK, odd);
    }
  }

  // K of keys first .. first + count - 1 of the part, rounded up to vectors, as [dim, CHUNK] floats.
  static void prepare(const Work& work, const Places& at, const Head& head, int first, int count, int64_t dim) {
    constexpr int BLOCK = W * 4 / int(sizeof(T));  // of head_dim, in one vector of bits
    const int64_t skip = head.skip;
    for (int j = 0; j < whole(count); j += W) {
      const T* rows[W];
      for (int i = 0; i < W; ++i) rows[i] = at.k[first + j + i] + skip;
      float* keys = work.keys + j;
      int64_t d = 0;
      for (; d + BLOCK <= dim; d += BLOCK) {
        for (int i = 0; i < W; ++i) fetch(at.v[first + j + i] + skip + d);
        turn_block(rows, d, keys);
      }
      for (; d < dim; ++d)
        for (int i = 0; i < W; ++i) keys[d * CHUNK + i] = widen(rows[i][d]);
    }
  }

  // Scores of ROWS query rows against the `count` keys that were prepared.
  template <int ROWS>
  static void score(const Attention& op, const Work& work, const Places&, const Head&, int64_t row, int first,
                    int count, bool) {
    const int64_t dim = op.head_dim;
    const float* q = work.q + row * dim;
    for (int j = 0; j < count; j += NV * W) {
      F acc[ROWS][NV];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) acc[r][v] = zero();
      for (int64_t d = 0; d < dim; ++d) {
        F k[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) k[v] = load(work.keys + d * CHUNK + j + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const F x = set1(q[r * dim + d]);
#pragma GCC unroll 8
          for (int v = 0; v < NV; ++v) acc[r][v] = fma(x, k[v], acc[r][v]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) store(work.scores + (row + r) * PART + first + j + v * W, acc[r][v]);
    }
  }

  S1_INLINE_MEMBER static F power(F x) { return exp(x); }

  S1_INLINE_MEMBER static F keep(F weight, float* to) {
    store(to, weight);
    return weight;
  }

  // Of the keys that all rows see, those that are weighed together.
  static int common(int least, int) { return least; }

  template <int ROWS, int VECTORS>
  static void weigh_vectors(const float* weights, const T* const* values, const T* const* next, int64_t skip, int begin,
                            int end, float* acc, int64_t dim) {
    F sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(acc + r * dim + v * W);
    for (int j = begin; j < end; ++j) {
      F x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) x[v] = load(values[j] + skip + v * W);
      fetch(next[j] + skip);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const F p = set1(weights[r * PART + j]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = fma(p, x[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) store(acc + r * dim + v * W, sum[r][v]);
  }

  // acc [ROWS, dim] += the weights of keys begin .. end - 1 of the part times V.
  template <int ROWS>
  static void weigh(const Work& work, const Places& at, const Head& head, int64_t row, int begin, int end, float* acc,
                    int64_t dim, bool fetching) {
    const float* weights = work.scores + row * PART;
    const int64_t skip = head.skip;
    const T* const* next = fetching ? at.next : at.v;
    int64_t d = 0;
    for (; d + NV * W <= dim; d += NV * W)
      weigh_vectors<ROWS, NV>(weights, at.v, next, skip + d, begin, end, acc + d, dim);
    for (; d + W <= dim; d += W) weigh_vectors<ROWS, 1>(weights, at.v, next, skip + d, begin, end, acc + d, dim);
    for (; d < dim; ++d)
      for (int r = 0; r < ROWS; ++r)
        for (int j = begin; j < end; ++j)
          acc[r * dim + d] = fma1(weights[r * PART + j], widen(at.v[j][skip + d]), acc[r * dim + d]);
  }
};

}  // namespace S1_LEVEL
