// Attention over the paged KV cache, for one query per row and for chunks of queries. Twin of kernels/attention.py.
//
// A query row (one query, one head) walks its keys in chunks of 64 with a running maximum, and starts afresh at every
// multiple of 256 keys; the parts are merged in order. Both sizes are constants and every score, sum and output is one
// chain in the order of the keys, so a row has the same bits in decode and prefill, in any batch, chunk or number of
// threads. Rows that share a KV head share the work of turning a chunk of K around and widening it.
#include "operators.h"
#include "paged.h"

namespace S1_LEVEL {

constexpr int CHUNK = 64;
constexpr int PART = 256;
constexpr int PREFILL_ROWS = 64;  // query rows that share a chunk of keys
constexpr int NV = 2;             // vectors of keys or of head_dim per row in a register tile
constexpr int TILE = REGISTERS == 32 ? 8 : 6;
constexpr float MINUS_INFINITY = -__builtin_inff();

// One softmax in progress: sum = sum over keys of e^(score - top), acc = the same weights times V.
struct State {
  float *top, *sum;  // [rows]
  float* acc;        // [rows, dim]
};

// The buffers of one thread.
struct Work {
  float* q;       // [rows, dim], scaled
  float* keys;    // [dim, CHUNK]
  float* values;  // [CHUNK, dim]
  float* scores;  // [rows, CHUNK]
  int64_t* seen;  // [rows], keys visible to a row
  State part, total;

  Work(int64_t rows, int64_t dim) {
    const int64_t padded = (dim + W - 1) / W * W;
    float* p = (float*)scratch(ATTENTION, sizeof(float) * (rows * (3 * padded + CHUNK + 6) + 2 * CHUNK * padded + 64));
    auto take = [&](int64_t count) {
      float* taken = p;
      p += count;
      return taken;
    };
    keys = take(CHUNK * padded);
    values = take(CHUNK * padded);
    scores = take(rows * CHUNK);
    seen = (int64_t*)take(rows * 2);
    q = take(rows * padded);
    part.acc = take(rows * padded);
    total.acc = take(rows * padded);
    part.top = take(rows);
    part.sum = take(rows);
    total.top = take(rows);
    total.sum = take(rows);
  }
};

// The keys of one sequence and head.
struct Keys {
  const int32_t* table;
  int64_t head, count;
};

// Where the rows of a chunk's keys and values lie in the pages; past the end the last is repeated.
template <class T>
struct Located {
  const T *k[CHUNK], *v[CHUNK];
};

// The CHUNK keys from `first` on.
template <class T>
static inline void locate(const Attention& op, const Keys& keys, int64_t first, Located<T>& at) {
  const T **k = at.k, **v = at.v;
  const int count = int(keys.count - first < CHUNK ? keys.count - first : CHUNK);
  int64_t page = first / op.page_size, offset = first % op.page_size;
  int j = 0;
  for (; j < count; offset = 0, ++page) {
    int64_t row = ((keys.table[page] * op.num_kv + keys.head) * op.page_size + offset) * op.head_dim;
    for (; j < count && offset < op.page_size; ++j, ++offset, row += op.head_dim) {
      k[j] = (const T*)op.k_cache + row;
      v[j] = (const T*)op.v_cache + row;
    }
  }
  for (; j < CHUNK; ++j) {
    k[j] = k[count - 1];
    v[j] = v[count - 1];
  }
}

// The rows of K and V that the next chunk reads, fetched one by one while this one is computed: a core has room for few
// lines in flight, so they are spread over all the work.
struct Ahead {
  const void* rows[2 * CHUNK];
  int next = 0, end = 2 * CHUNK;
  int64_t bytes;  // of a row

  template <class T>
  Ahead(const Located<T>& at, int64_t dim) : bytes(int64_t(sizeof(T)) * dim) {
    for (int j = 0; j < CHUNK; ++j) rows[j] = at.k[j], rows[CHUNK + j] = at.v[j];
  }
};

S1_INLINE void fetch(Ahead& ahead) {
  if (ahead.next == ahead.end) return;
  const char* row = (const char*)ahead.rows[ahead.next++];
  for (int64_t i = 0; i < ahead.bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

// W keys, as many values of head_dim as fill a vector of bits.
S1_INLINE void turn_block(const float* const* rows, int64_t d, float* keys) {
  F r[W];
  for (int i = 0; i < W; ++i) r[i] = load(rows[i] + d);
  transpose(r);
  for (int i = 0; i < W; ++i) store(keys + (d + i) * CHUNK, r[i]);
}
S1_INLINE void turn_block(const bf16* const* rows, int64_t d, float* keys) {
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

// K of `count` keys, rounded up to vectors, as [dim, CHUNK] floats.
template <class T>
static inline void turn(const T* const* rows, int count, int64_t dim, float* keys, Ahead& ahead) {
  constexpr int BLOCK = W * 4 / int(sizeof(T));  // of head_dim, in one vector of bits
  const int padded = (count + W - 1) / W * W;
  for (int j = 0; j < padded; j += W) {
    int64_t d = 0;
    for (; d + BLOCK <= dim; d += BLOCK) {
      for (int i = 0; i < 5; ++i) fetch(ahead);
      turn_block(rows + j, d, keys + j);
    }
    for (; d < dim; ++d)
      for (int i = 0; i < W; ++i) keys[d * CHUNK + j + i] = widen(rows[j + i][d]);
  }
}

template <int N>
struct Rows {
  static constexpr int COUNT = N;
};

// Scores of ROWS query rows against NV vectors of keys.
template <int ROWS>
static inline void score(const float* q, int64_t dim, const float* keys, float* scores, Ahead& ahead) {
  F acc[ROWS][NV];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[r][v] = zero();
  for (int64_t d = 0; d < dim; ++d) {
    if (d % 4 == 0) fetch(ahead);
    F k[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) k[v] = load(keys + d * CHUNK + v * W);
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
    for (int v = 0; v < NV; ++v) store(scores + r * CHUNK + v * W, acc[r][v]);
}

// acc [ROWS, dim] += weights [ROWS, CHUNK] of keys begin .. end - 1 times V, vectors d .. of head_dim.
template <int ROWS, int VECTORS, class T>
static inline void weigh(const float* weights, const T* const* values, int begin, int end, int64_t d, float* acc,
                         int64_t dim, Ahead& ahead) {
  F sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(acc + r * dim + d + v * W);
  for (int j = begin; j < end; ++j) {
    if (j % 2) fetch(ahead);
    F x[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) x[v] = load(values[j] + d + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F p = set1(weights[r * CHUNK + j]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = fma(p, x[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(acc + r * dim + d + v * W, sum[r][v]);
}

template <int ROWS, class T>
static inline void weigh_all(const float* weights, const T* const* values, int begin, int end, float* acc, int64_t dim,
                             Ahead& ahead) {
  if (begin >= end) return;
  int64_t d = 0;
  for (; d + NV * W <= dim; d += NV * W) weigh<ROWS, NV>(weights, values, begin, end, d, acc, dim, ahead);
  for (; d + W <= dim; d += W) weigh<ROWS, 1>(weights, values, begin, end, d, acc, dim, ahead);
  for (; d < dim; ++d)
    for (int r = 0; r < ROWS; ++r)
      for (int j = begin; j < end; ++j)
        acc[r * dim + d] = fma1(weights[r * CHUNK + j], widen(values[j][d]), acc[r * dim + d]);
}

// Weights as they are kept: float32 in the place of the scores.
struct Floats {
  using Weight = float;
  S1_INLINE_MEMBER static F keep(F weight, float* to) {
    store(to, weight);
    return weight;
  }
};

// Scores of ROWS query rows -> weights [ROWS, CHUNK], which may lie in the scores' place; maxima and sums move on and acc
// is scaled to the new maxima. A row that sees none of the keys stays as it is; weights of the keys after the last that a
// row sees are zeros up to a whole vector.
template <int ROWS, class Kept>
static inline void soften(float* scores, typename Kept::Weight* weights, const int* visible, float* top, float* sums,
                          float* acc, int64_t dim) {
  constexpr int LANES = (ROWS + W - 1) / W * W;
  float high[LANES], old[LANES];
  for (int r = 0; r < LANES; ++r) high[r] = old[r] = 0;
  for (int r = 0; r < ROWS; ++r) {
    float* row = scores + r * CHUNK;
    const int padded = (visible[r] + W - 1) / W * W;
    for (int j = visible[r]; j < padded; ++j) row[j] = MINUS_INFINITY;
    F best = set1(top[r]);
    for (int j = 0; j < padded; j += W) best = max(best, load(row + j));
    high[r] = max_lane(best);
    old[r] = top[r] - (high[r] == MINUS_INFINITY ? 0 : high[r]);  // only -inf so far: weights of 0, not NaN
  }
  for (int r = 0; r < LANES; r += W) store(old + r, exp(load(old + r)));
  for (int r = 0; r < ROWS; ++r) {
    if (visible[r] == 0) continue;
    const float* row = scores + r * CHUNK;
    const F base = set1(high[r] == MINUS_INFINITY ? 0 : high[r]);
    F total = zero();
    for (int j = 0; j < visible[r]; j += W)
      total = add(total, Kept::keep(exp(sub(load(row + j), base)), weights + r * CHUNK + j));
    sums[r] = sums[r] * old[r] + sum(total);
    if (top[r] != high[r] && top[r] != MINUS_INFINITY)
      for (int64_t d = 0; d < dim; ++d) acc[r * dim + d] *= old[r];
    top[r] = high[r];
  }
}

// How many of the `count` keys from `first` on each of ROWS rows sees; returns the least.
template <int ROWS>
S1_INLINE int look(const int64_t* seen, int64_t first, int count, int* visible) {
  int least = count;
  for (int r = 0; r < ROWS; ++r) {
    const int64_t left = seen[r] - first;
    visible[r] = left < 0 ? 0 : left < count ? int(left) : count;
    least = visible[r] < least ? visible[r] : least;
  }
  return least;
}

template <int ROWS, class T>
static void tile(const Work& work, int64_t dim, int64_t row, int64_t first, int count, const T* const* values,
                 Ahead& ahead) {
  float* scores = work.scores + row * CHUNK;
  for (int j = 0; j < count; j += NV * W)
    score<ROWS>(work.q + row * dim, dim, work.keys + j, scores + j, ahead);
  int visible[ROWS];
  const int least = look<ROWS>(work.seen + row, first, count, visible);
  float* acc = work.part.acc + row * dim;
  soften<ROWS, Floats>(scores, scores, visible, work.part.top + row, work.part.sum + row, acc, dim);
  // Keys that all rows see go together, the others row by row: a hidden V may be NaN, and 0 * NaN must not enter a sum.
  weigh_all<ROWS>(scores, values, 0, least, acc, dim, ahead);
  if constexpr (ROWS > 1)
    for (int r = 0; r < ROWS; ++r)
      weigh_all<1>(scores + r * CHUNK, values, least, visible[r], acc + r * dim, dim, ahead);
}

// Calls work(rows, first row) for tiles of at most TILE rows of nearly the same size; `rows` is a constant.
template <class Tile>
S1_INLINE void tiles(int64_t rows, const Tile& work) {
  const int64_t parts = (rows + TILE - 1) / TILE;
  for (int64_t t = 0; t < parts; ++t) {
    const Range part = share(rows, int(t), int(parts));
    const int64_t row = part.begin;
    switch (part.end - row) {
      case 1: work(Rows<1>{}, row); break;
      case 2: work(Rows<2>{}, row); break;
      case 3: work(Rows<3>{}, row); break;
      case 4: work(Rows<4>{}, row); break;
      case 5: work(Rows<5>{}, row); break;
      case 6: work(Rows<6>{}, row); break;
      case 7: work(Rows<TILE < 7 ? 6 : 7>{}, row); break;
      default: work(Rows<TILE>{}, row); break;
    }
  }
}

// The work on one chunk of keys by fused multiply-adds of float32.
template <class Element>
struct Widened {
  using T = Element;

  static void query(const T* q, float scale, const Work& work, int64_t row, int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) work.q[row * dim + d] = widen(q[d]) * scale;
  }

  static void chunk(const Attention& op, const Work& work, int64_t rows, int64_t first, int count,
                    const Located<T>& now, const Located<T>& next) {
    const int64_t dim = op.head_dim;
    const T* const* v = now.v;
    Ahead ahead(next, dim);
    turn(now.k, count, dim, work.keys, ahead);
    if (rows <= TILE)
      return tiles(rows, [&](auto n, int64_t row) { tile<n.COUNT>(work, dim, row, first, count, v, ahead); });
    const float* wide[CHUNK];
    for (int j = 0; j < count; ++j) {
      float* to = work.values + j * dim;
      int64_t d = 0;
      for (; d + W <= dim; d += W) store(to + d, load(v[j] + d));
      for (; d < dim; ++d) to[d] = widen(v[j][d]);
      wide[j] = to;
    }
    tiles(rows, [&](auto n, int64_t row) { tile<n.COUNT>(work, dim, row, first, count, wide, ahead); });
  }
};

#if defined(S1_LEVEL_avx512_bf16)
// The same by vdpbf16ps, two products an instruction, on keys in blocks of 16 as paged.h lays them; pages of another size
// are brought into that form first. Queries go in as they are and the scores are scaled; weights are rounded to bfloat16,
// and their sum is that of the rounded ones. Takes head_dim in multiples of 32.
struct Paired {
  using T = bf16;
  using Weight = bf16;
  using Pair = int32_t;
  static constexpr int BLOCK = 2 * W;               // bf16 in a vector
  static constexpr int BLOCKS = CHUNK / BLOCK_KEYS;  // of keys in a chunk
  static_assert(W == BLOCK_KEYS, "a vector holds one pair of each key of a block");

  // The blocks of one chunk.
  struct Blocks {
    const Pair *k[BLOCKS], *v[BLOCKS];  // [dim / 2, 16 keys], [8 pairs of keys, dim]

    // Those of pages that are kept in blocks.
    void point(const Located<T>& at) {
      for (int b = 0; b < BLOCKS; ++b)
        k[b] = (const Pair*)at.k[b * BLOCK_KEYS], v[b] = (const Pair*)at.v[b * BLOCK_KEYS];
    }
  };

  S1_INLINE_MEMBER static F keep(F weight, bf16* to) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(weight);
    _mm256_storeu_si256((__m256i*)to, rounded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }

  static void query(const T* q, float, const Work& work, int64_t row, int64_t dim) {
    __builtin_memcpy((bf16*)work.q + row * dim, q, sizeof(bf16) * dim);
  }

  S1_INLINE_MEMBER static F dot(F acc, __m512i pairs, Pair pair) {
    return _mm512_dpbf16_ps(acc, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(pair));
  }

  // Rows of K and V, [count, dim], as blocks in `work`. What lies past `count` in the last block is anything.
  static void form(const Work& work, const Located<T>& at, int count, int64_t dim, Blocks& blocks) {
    const int64_t size = BLOCK_KEYS * dim;
    for (int b = 0; b * BLOCK_KEYS < count; ++b) {
      bf16 *keys = (bf16*)work.keys + b * size, *values = (bf16*)work.values + b * size;
      blocks.k[b] = (const Pair*)keys, blocks.v[b] = (const Pair*)values;
      for (int j = 0; j < BLOCK_KEYS && b * BLOCK_KEYS + j < count; ++j) {
        put_key(at.k[b * BLOCK_KEYS + j], keys, j, dim);
        put_value(at.v[b * BLOCK_KEYS + j], values, j, dim);
      }
    }
  }

  // Scores of ROWS query rows against VECTORS blocks of keys. Each line of `ahead` is fetched when its like is read.
  template <int ROWS, int VECTORS>
  S1_INLINE_MEMBER static void score_blocks(const Pair* q, int64_t pairs, float scale, const Pair* const* k,
                                            const Pair* const* ahead, float* scores) {
    F acc[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) acc[r][v] = zero();
    for (int64_t d = 0; d < pairs; ++d) {
      __m512i x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        __builtin_prefetch(ahead[v] + d * BLOCK_KEYS, 0, 3);
        x[v] = _mm512_loadu_si512(k[v] + d * BLOCK_KEYS);
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) acc[r][v] = dot(acc[r][v], x[v], q[r * pairs + d]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) store(scores + r * CHUNK + v * BLOCK_KEYS, mul(acc[r][v], set1(scale)));
  }

  // acc [ROWS, dim] += weights [ROWS, CHUNK] of keys begin .. end - 1, `begin` even, times V, vectors d .. of head_dim.
  // Where `end` is odd the key after it, which may be NaN, is left out.
  template <int ROWS, int VECTORS>
  S1_INLINE_MEMBER static void weigh_blocks(const bf16* weights, const Pair* const* values, const Pair* const* ahead,
                                            int begin, int end, int64_t d, float* acc, int64_t dim) {
    F sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(acc + r * dim + d + v * W);
    for (int j = begin; j < end; j += 2) {
      const int64_t at = j % BLOCK_KEYS / 2 * dim + d;
      __m512i x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        __builtin_prefetch(ahead[j / BLOCK_KEYS] + at + v * W, 0, 3);
        x[v] = _mm512_loadu_si512(values[j / BLOCK_KEYS] + at + v * W);
      }
      if (j + 1 == end)
        for (int v = 0; v < VECTORS; ++v) x[v] = _mm512_and_si512(x[v], _mm512_set1_epi32(0xffff));
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        Pair pair;
        __builtin_memcpy(&pair, weights + r * CHUNK + j, sizeof pair);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = dot(sum[r][v], x[v], pair);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) store(acc + r * dim + d + v * W, sum[r][v]);
  }

  template <int ROWS>
  static void weigh_rows(const bf16* weights, const Blocks& blocks, const Blocks& ahead, int begin, int end, float* acc,
                         int64_t dim) {
    if (begin >= end) return;
    constexpr int MOST = ROWS <= 4 ? 4 : 2;
    int64_t d = 0;
    for (; d + MOST * W <= dim; d += MOST * W)
      weigh_blocks<ROWS, MOST>(weights, blocks.v, ahead.v, begin, end, d, acc, dim);
    if (d < dim) weigh_blocks<ROWS, 2>(weights, blocks.v, ahead.v, begin, end, d, acc, dim);
  }

  template <int ROWS>
  static void tile_blocks(const Attention& op, const Work& work, const Blocks& blocks, const Blocks& ahead, int64_t row,
                          int64_t first, int count) {
    constexpr int MOST = ROWS <= 4 ? 4 : 2;
    const int64_t dim = op.head_dim;
    float* scores = work.scores + row * CHUNK;
    bf16* weights = (bf16*)scores;  // those of row r end where its scores, and all that are still to be read, begin
    const Pair* q = (const Pair*)((const bf16*)work.q + row * dim);
    const int full = (count + BLOCK_KEYS - 1) / BLOCK_KEYS;
    int b = 0;
    for (; b + MOST <= full; b += MOST)
      score_blocks<ROWS, MOST>(q, dim / 2, op.scale, blocks.k + b, ahead.k + b, scores + b * BLOCK_KEYS);
    for (; b < full; ++b)
      score_blocks<ROWS, 1>(q, dim / 2, op.scale, blocks.k + b, ahead.k + b, scores + b * BLOCK_KEYS);
    int visible[ROWS];
    const int least = look<ROWS>(work.seen + row, first, count, visible);
    float* acc = work.part.acc + row * dim;
    soften<ROWS, Paired>(scores, weights, visible, work.part.top + row, work.part.sum + row, acc, dim);
    // As in `tile`, in whole pairs.
    const int common = least == count ? count : least / 2 * 2;
    weigh_rows<ROWS>(weights, blocks, ahead, 0, common, acc, dim);
    if (common < count)
      for (int r = 0; r < ROWS; ++r)
        weigh_rows<1>(weights + r * CHUNK, blocks, blocks, common, visible[r], acc + r * dim, dim);
  }

  static void chunk(const Attention& op, const Work& work, int64_t rows, int64_t first, int count,
                    const Located<T>& now, const Located<T>& next) {
    Blocks blocks, ahead;
    if (blocked(op.type, op.head_dim, op.page_size)) {
      blocks.point(now);
      ahead.point(next);
    } else {
      form(work, now, count, op.head_dim, blocks);
      ahead = blocks;
    }
    tiles(rows, [&](auto n, int64_t row) {
      tile_blocks<n.COUNT>(op, work, blocks, row ? blocks : ahead, row, first, count);
    });
  }
};
#endif

// work.part = the softmax of `rows` query rows over keys begin .. end - 1, which lie inside one part. `then` is what this
// thread reads after the last of `keys`.
template <class Kind>
static void attend(const Attention& op, const Work& work, const Keys& keys, const Keys& then, int64_t rows,
                   int64_t begin, int64_t end) {
  using T = typename Kind::T;
  Located<T> chunks[2];  // this and the next
  locate(op, keys, begin, chunks[0]);
  for (int64_t r = 0; r < rows; ++r) work.part.top[r] = MINUS_INFINITY, work.part.sum[r] = 0;
  __builtin_memset(work.part.acc, 0, sizeof(float) * rows * op.head_dim);
  for (int64_t first = begin; first < end; first += CHUNK) {
    const int count = int(end - first < CHUNK ? end - first : CHUNK), now = int((first - begin) / CHUNK % 2);
    const bool more = first + CHUNK < keys.count;
    locate(op, more ? keys : then, more ? first + CHUNK : 0, chunks[1 - now]);
    Kind::chunk(op, work, rows, first, count, chunks[now], chunks[1 - now]);
  }
}

// into = the softmax over the keys of both.
static inline void merge(float* top, float* sum, float* acc, float top2, float sum2, const float* acc2, int64_t dim) {
  const float high = *top < top2 ? top2 : *top;
  const float base = high == MINUS_INFINITY ? 0 : high;
  const float a = exp1(*top - base), b = exp1(top2 - base);
  for (int64_t d = 0; d < dim; ++d) acc[d] = acc[d] * a + acc2[d] * b;
  *sum = *sum * a + sum2 * b;
  *top = high;
}

template <class T>
static void write(const float* acc, float sum, T* out, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) narrow(acc[d] / sum, out + d);
}

// Units of work in a fixed order; a thread takes those that begin inside its share of the total cost.
struct Shares {
  int64_t at = 0, begin, end;
  Shares(int64_t total, int id, int threads) : begin(total * id / threads), end(total * (id + 1) / threads) {}
  bool mine(int64_t cost) {
    const bool inside = begin <= at && at < end;
    at += cost;
    return inside;
  }
};

static inline int64_t parts_of(int64_t keys) { return (keys + PART - 1) / PART; }

size_t decode_shared_bytes(const Attention& op) {
  int64_t parts = 0;
  for (int64_t b = 0; b < op.rows; ++b)
    if (op.context_lens[b] > PART) parts += parts_of(op.context_lens[b]);
  return sizeof(float) * parts * op.num_q * (op.head_dim + 2);
}

// What comes after the keys of row b and one head.
static inline Keys following(const Attention& op, const Keys& keys, int64_t b) {
  if (keys.head + 1 < op.num_kv) return {keys.table, keys.head + 1, keys.count};
  if (b + 1 < op.rows && op.context_lens[b + 1] > 0) return {keys.table + op.pages, 0, op.context_lens[b + 1]};
  return keys;
}

template <class Kind>
static void decode(const Attention& op, int id, int threads, float* shared) {
  using T = typename Kind::T;
  const int64_t dim = op.head_dim, group = op.num_q / op.num_kv, stride = dim + 2;
  const Work work(group, dim);
  int64_t total = 0;
  for (int64_t b = 0; b < op.rows; ++b) total += op.context_lens[b] * op.num_kv;
  Shares shares(total, id, threads);
  float* slot = shared;
  for (int64_t b = 0; b < op.rows; ++b) {
    const int64_t keys = op.context_lens[b], parts = parts_of(keys);
    const int32_t* table = op.block_tables + b * op.pages;
    for (int64_t head = 0; head < op.num_kv; ++head) {
      const int64_t first = b * op.num_q + head * group;
      const Keys here{table, head, keys}, then = following(op, here, b);
      T* out = (T*)op.out + first * dim;
      bool loaded = false;
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t begin = p * PART, end = begin + PART < keys ? begin + PART : keys;
        float* to = slot;
        if (parts > 1) slot += group * stride;
        if (!shares.mine(end - begin)) continue;
        if (!loaded)
          for (int64_t g = 0; g < group; ++g) {
            Kind::query((const T*)op.q + (first + g) * dim, op.scale, work, g, dim);
            work.seen[g] = keys;
          }
        loaded = true;
        attend<Kind>(op, work, here, then, group, begin, end);
        for (int64_t g = 0; g < group; ++g) {
          const float* acc = work.part.acc + g * dim;
          if (parts == 1) {
            write(acc, work.part.sum[g], out + g * dim, dim);
          } else {
            to[g * stride] = work.part.top[g];
            to[g * stride + 1] = work.part.sum[g];
            __builtin_memcpy(to + g * stride + 2, acc, sizeof(float) * dim);
          }
        }
      }
    }
  }
  barrier();
  slot = shared;
  int64_t unit = 0;
  const Range mine = share(op.rows * op.num_kv, id, threads);
  for (int64_t b = 0; b < op.rows; ++b) {
    const int64_t keys = op.context_lens[b], parts = parts_of(keys);
    for (int64_t head = 0; head < op.num_kv; ++head, ++unit) {
      float* from = slot;
      if (parts > 1) slot += parts * group * stride;
      if (unit < mine.begin || unit >= mine.end || parts == 1) continue;
      T* out = (T*)op.out + (b * op.num_q + head * group) * dim;
      if (parts < 1) {
        __builtin_memset(out, 0, sizeof(T) * group * dim);
        continue;
      }
      for (int64_t g = 0; g < group; ++g) {
        float* into = from + g * stride;
        for (int64_t p = 1; p < parts; ++p) {
          const float* next = into + p * group * stride;
          merge(into, into + 1, into + 2, next[0], next[1], next + 2, dim);
        }
        write(into + 2, into[1], out + g * dim, dim);
      }
    }
  }
}

template <class Kind>
static void prefill(const Attention& op, int id, int threads) {
  using T = typename Kind::T;
  const int64_t dim = op.head_dim, group = op.num_q / op.num_kv;
  const int64_t queries = group < PREFILL_ROWS ? PREFILL_ROWS / group : 1;  // per tile
  const Work work(queries * group, dim);
  const auto each = [&](auto&& visit) {
    for (int64_t row = 0; row < op.rows; ++row) {
      const int64_t first = op.cu_q[row], last = op.cu_q[row + 1], hidden = op.context_lens[row] - (last - first);
      for (int64_t head = 0; head < op.num_kv; ++head)
        for (int64_t q = first; q < last; q += queries) {
          const int64_t stop = q + queries < last ? q + queries : last;
          visit(row, head, q, stop, hidden + q - first);  // query i of the tile sees 1 + i more keys than the last
        }
    }
  };
  int64_t total = 0;
  each([&](int64_t, int64_t, int64_t q, int64_t stop, int64_t before) { total += before + stop - q + 1; });
  Shares shares(total, id, threads);
  each([&](int64_t row, int64_t head, int64_t q, int64_t stop, int64_t before) {
    const int64_t keys = before + stop - q, rows = (stop - q) * group;
    if (!shares.mine(keys + 1)) return;
    const Keys here{op.block_tables + row * op.pages, head, keys};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (q + r / group) * op.num_q + head * group + r % group;
      Kind::query((const T*)op.q + at * dim, op.scale, work, r, dim);
      work.seen[r] = before + r / group + 1;
      work.total.sum[r] = 0;
    }
    for (int64_t begin = 0; begin < keys; begin += PART) {
      attend<Kind>(op, work, here, here, rows, begin, begin + PART < keys ? begin + PART : keys);
      for (int64_t r = 0; r < rows; ++r) {
        if (work.seen[r] <= begin) continue;
        float *into = work.total.acc + r * dim, *from = work.part.acc + r * dim;
        if (begin == 0) {
          work.total.top[r] = work.part.top[r];
          work.total.sum[r] = work.part.sum[r];
          __builtin_memcpy(into, from, sizeof(float) * dim);
        } else {
          merge(work.total.top + r, work.total.sum + r, into, work.part.top[r], work.part.sum[r], from, dim);
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* out = (T*)op.out + ((q + r / group) * op.num_q + head * group + r % group) * dim;
      if (work.seen[r] > 0)
        write(work.total.acc + r * dim, work.total.sum[r], out, dim);
      else
        __builtin_memset(out, 0, sizeof(T) * dim);
    }
  });
}

// Calls run(kind) with the kind of arithmetic for op's type; it depends on nothing else but head_dim.
template <class Run>
static void with_kind(const Attention& op, const Run& run) {
  if (op.type == S1_FLOAT32) return run(Widened<float>{});
#if defined(S1_LEVEL_avx512_bf16)
  if (op.head_dim % Paired::BLOCK == 0) return run(Paired{});
#endif
  return run(Widened<bf16>{});
}

void decode_attention_part(const Attention& op, int id, int threads, void* shared) {
  with_kind(op, [&](auto kind) { decode<decltype(kind)>(op, id, threads, (float*)shared); });
}

void prefill_attention_part(const Attention& op, int id, int threads) {
  with_kind(op, [&](auto kind) { prefill<decltype(kind)>(op, id, threads); });
}

}  // namespace S1_LEVEL

// See operators.h: Attention. cu_q null: decode.
S1_OP(attention)
(const void* q, const void* k_cache, const void* v_cache, const int32_t* block_tables, const int32_t* context_lens,
 const int32_t* cu_q, void* out, int64_t rows, int64_t pages, int64_t num_q, int64_t num_kv, int64_t head_dim,
 int64_t page_size, float scale, int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  const Attention op{q,    k_cache, v_cache, block_tables, context_lens, cu_q,  out,  rows,
                     pages, num_q,   num_kv,  head_dim,     page_size,    scale, type};
  int64_t keys = 0;
  for (int64_t i = 0; i < rows; ++i) keys += context_lens[i];
  const int64_t queries = cu_q ? cu_q[rows] : 1;
  const int team = keys * queries * num_q * head_dim < 65536 ? 1 : threads;
  if (cu_q) return parallel(team, [&](int id, int count) { prefill_attention_part(op, id, count); });
  void* shared = scratch(SHARED, decode_shared_bytes(op));
  parallel(team, [&](int id, int count) { decode_attention_part(op, id, count, shared); });
}
