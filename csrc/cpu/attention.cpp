// Attention over the paged KV cache, for one query per row and for chunks of queries. Twin of kernels/attention.py.
//
// A query row (one query, one head) takes its keys in parts of 256: scores of all, one softmax, then the weighted sum of
// the values; the parts are merged in order. Every score, sum and output is one chain in the order of the keys, so a row
// has the same bits in decode and prefill, in any batch, chunk or number of threads. Rows that share a KV head share what
// is read of it. The keys' products fetch the values of the same part, the values' those keys that come next.
#include "operators.h"
#include "paged.h"

namespace S1_LEVEL {

constexpr int PART = 256;
constexpr int CHUNK = 64;         // keys whose scores all rows take before the next
constexpr int PREFILL_ROWS = 64;  // query rows that share a part
constexpr int NV = 2;             // vectors of keys or of head_dim per row in a register tile
constexpr int TILE = REGISTERS == 32 ? 8 : 6;
constexpr float MINUS_INFINITY = -__builtin_inff();

S1_INLINE int64_t whole(int64_t count) { return (count + W - 1) / W * W; }

// Softmaxes over some keys: acc = sum over the keys of e^(score - top) times V, sum = the same without V.
struct State {
  float *top, *sum;  // [rows, up to a whole vector]
  float* acc;        // [rows, dim]

  static int64_t size(int64_t rows, int64_t dim) { return 2 * whole(rows) + whole(rows * dim); }
  static State at(float* p, int64_t rows) { return {p, p + whole(rows), p + 2 * whole(rows)}; }
};

// The buffers of one thread.
struct Work {
  float* q;       // [rows, dim]
  float* keys;    // [dim, CHUNK], or [PART, dim] of bf16
  float* values;  // [PART, dim] of bf16
  float* scores;  // [rows, PART]
  int64_t* seen;  // [rows], keys visible to a row
  State part, total;

  Work(int64_t rows, int64_t dim) {
    const int64_t wide = whole(dim), state = State::size(rows, dim);
    const int64_t counts[] = {rows * wide, PART / 2 * wide, PART / 2 * wide, rows * PART, 2 * whole(rows), state, state};
    int64_t all = 0;
    for (const int64_t count : counts) all += count;
    float* p = (float*)scratch(ATTENTION, sizeof(float) * all);
    float* at[7];
    for (int i = 0; i < 7; p += counts[i++]) at[i] = p;
    q = at[0], keys = at[1], values = at[2], scores = at[3], seen = (int64_t*)at[4];
    part = State::at(at[5], rows), total = State::at(at[6], rows);
  }
};

// The keys of one sequence and head.
struct Keys {
  const int32_t* table;
  int64_t head, count;
};

// Calls visit(i, elements into the cache) for every UNIT keys from `first` on, `count` in all; a page holds whole units.
template <int UNIT, class Visit>
S1_INLINE void walk(const Attention& op, const Keys& keys, int64_t first, int64_t count, const Visit& visit) {
  int64_t page = first / op.page_size, offset = first % op.page_size;
  for (int i = 0; i * UNIT < count; ++i) {
    visit(i, ((keys.table[page] * op.num_kv + keys.head) * op.page_size + offset) * op.head_dim);
    if ((offset += UNIT) == op.page_size) offset = 0, ++page;
  }
}

S1_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }  // into L2, which has more requests under way

template <int N>
struct Rows {
  static constexpr int COUNT = N;
};

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

// By fused multiply-adds of float32, on keys that are widened and turned around a chunk at a time.
template <class Element>
struct Widened {
  using T = Element;
  using Weight = float;

  // Where the rows of K and V of a part lie, and of the K that is read next.
  struct Places {
    const T *k[PART], *v[PART], *next[PART];

    Places(const Attention& op, const Work&, const Keys& keys, int64_t first, int64_t count, const Keys& then,
           int64_t then_first, bool) {
      walk<1>(op, keys, first, count, [&](int i, int64_t at) {
        k[i] = (const T*)op.k_cache + at;
        v[i] = (const T*)op.v_cache + at;
      });
      for (int64_t i = count; i < whole(count); ++i) k[i] = k[count - 1], v[i] = v[count - 1];
      const int64_t left = then.count - then_first < count ? then.count - then_first : count;
      walk<1>(op, then, then_first, left, [&](int i, int64_t at) { next[i] = (const T*)op.k_cache + at; });
      for (int64_t i = left; i < count; ++i) next[i] = k[i];
    }

    void fetch() const {}  // nothing during the softmax
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
  static void prepare(const Work& work, const Places& at, int first, int count, int64_t dim) {
    constexpr int BLOCK = W * 4 / int(sizeof(T));  // of head_dim, in one vector of bits
    for (int j = 0; j < whole(count); j += W) {
      const T* const* rows = at.k + first + j;
      float* keys = work.keys + j;
      int64_t d = 0;
      for (; d + BLOCK <= dim; d += BLOCK) {
        for (int i = 0; i < W; ++i) fetch(at.v[first + j + i] + d);
        turn_block(rows, d, keys);
      }
      for (; d < dim; ++d)
        for (int i = 0; i < W; ++i) keys[d * CHUNK + i] = widen(rows[i][d]);
    }
  }

  // Scores of ROWS query rows against the `count` keys that were prepared.
  template <int ROWS>
  static void score(const Attention& op, const Work& work, const Places&, int64_t row, int first, int count) {
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

  S1_INLINE_MEMBER static F keep(F weight, float* to) {
    store(to, weight);
    return weight;
  }

  // Of the keys that all rows see, those that are weighed together.
  static int common(int least, int) { return least; }

  template <int ROWS, int VECTORS>
  static void weigh_vectors(const float* weights, const T* const* values, const T* const* next, int begin, int end,
                            int64_t d, float* acc, int64_t dim) {
    F sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(acc + r * dim + d + v * W);
    for (int j = begin; j < end; ++j) {
      F x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) x[v] = load(values[j] + d + v * W);
      fetch(next[j] + d);
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
      for (int v = 0; v < VECTORS; ++v) store(acc + r * dim + d + v * W, sum[r][v]);
  }

  // acc [ROWS, dim] += the weights of keys begin .. end - 1 of the part times V.
  template <int ROWS>
  static void weigh(const Work& work, const Places& at, int64_t row, int begin, int end, float* acc, int64_t dim) {
    const float* weights = work.scores + row * PART;
    const T* const* next = row ? at.v : at.next;
    int64_t d = 0;
    for (; d + NV * W <= dim; d += NV * W)
      weigh_vectors<ROWS, NV>(weights, at.v, next, begin, end, d, acc, dim);
    for (; d + W <= dim; d += W) weigh_vectors<ROWS, 1>(weights, at.v, next, begin, end, d, acc, dim);
    for (; d < dim; ++d)
      for (int r = 0; r < ROWS; ++r)
        for (int j = begin; j < end; ++j)
          acc[r * dim + d] = fma1(weights[r * PART + j], widen(at.v[j][d]), acc[r * dim + d]);
  }
};

#if defined(S1_LEVEL_avx512_bf16)
// The same by vdpbf16ps, two products an instruction, on keys in blocks of 64 as paged.h lays them; pages of another size
// are brought into that form first. Queries go in as they are and the scores are scaled; weights are rounded to bfloat16,
// and their sum is that of the rounded ones. Takes head_dim in multiples of 32.
struct Paired {
  using T = bf16;
  using Weight = bf16;
  using Pair = int32_t;
  static constexpr int BLOCKS = PART / BLOCK_KEYS;  // of keys in a part
  static constexpr int AHEAD = 2;                   // blocks under way before they are read
  static_assert(BLOCK_KEYS == CHUNK, "a block is scored at a time");

  // What is read, in that order: blocks of K, [dim / 2, 64 keys], blocks of V, [32 pairs of keys, dim], and the first of
  // the next part. The blocks lie anywhere, so the hardware does not know which comes next: whoever reads a line of one
  // fetches a line of a later one. `next` moves forward alone.
  struct Places {
    const Pair *k[BLOCKS], *v[BLOCKS];
    mutable const char* order[2 * BLOCKS + AHEAD];
    mutable const char *next, *stop;
    mutable int at, all = 0;
    int64_t size;  // of a block

    Places(const Attention& op, const Work& work, const Keys& keys, int64_t first, int64_t count, const Keys& then,
           int64_t then_first, bool begun)
        : size(sizeof(bf16) * BLOCK_KEYS * op.head_dim) {
      const char *k_cache = (const char*)op.k_cache, *v_cache = (const char*)op.v_cache;
      const int blocks = int((count + BLOCK_KEYS - 1) / BLOCK_KEYS);
      const auto each = [&](const Keys& of, int64_t from, int64_t some, const char* cache, auto&& visit) {
        walk<BLOCK_KEYS>(op, of, from, some, [&](int i, int64_t place) { visit(i, cache + sizeof(bf16) * place); });
      };
      if (blocked(op.type, op.head_dim, op.page_size)) {
        each(keys, first, count, k_cache, [&](int i, const char* p) { k[i] = (const Pair*)p, order[i] = p; });
        each(keys, first, count, v_cache, [&](int i, const char* p) { v[i] = (const Pair*)p, order[blocks + i] = p; });
        all = 2 * blocks;
        const int64_t left = then.count - then_first;
        each(then, then_first, left < AHEAD * BLOCK_KEYS ? left : AHEAD * BLOCK_KEYS, k_cache,
             [&](int, const char* p) { order[all++] = p; });
        if (left <= BLOCK_KEYS) each(then, then_first, left, v_cache, [&](int, const char* p) { order[all++] = p; });
      } else {
        char *formed_k = (char*)work.keys, *formed_v = (char*)work.values;
        for (int i = 0; i < blocks; ++i) k[i] = (Pair*)(formed_k + i * size), v[i] = (Pair*)(formed_v + i * size);
        walk<1>(op, keys, first, count, [&](int i, int64_t place) {
          const int64_t b = i / BLOCK_KEYS * size;
          put_key((const bf16*)k_cache + place, (bf16*)(formed_k + b), i % BLOCK_KEYS, op.head_dim);
          put_value((const bf16*)v_cache + place, (bf16*)(formed_v + b), i % BLOCK_KEYS, op.head_dim);
        });
      }
      at = begun ? AHEAD : 0;
      next = stop = nullptr;
    }

    // 256 bytes.
    S1_INLINE_MEMBER void fetch() const {
      if (next == stop) {
        if (at >= all) return;
        next = order[at++];
        stop = next + size;
      }
      for (int line = 0; line < 256; line += 64) __builtin_prefetch(next + line, 0, 3);
      next += 256;
    }
  };

  static void query(const T* q, float, const Work& work, int64_t row, int64_t dim) {
    __builtin_memcpy((bf16*)work.q + row * dim, q, sizeof(bf16) * dim);
  }

  S1_INLINE_MEMBER static F dot(F acc, __m512i pairs, Pair pair) {
    return _mm512_dpbf16_ps(acc, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(pair));
  }

  static void prepare(const Work&, const Places&, int, int, int64_t) {}

  // Vectors of keys or of head_dim that ROWS rows take at a time: their sums, the vectors and a broadcast fill the
  // registers.
  static constexpr int most(int rows) { return rows <= 4 ? 4 : 2; }

  // Scores of ROWS query rows against one block of keys.
  template <int ROWS>
  static void score(const Attention& op, const Work& work, const Places& at, int64_t row, int first, int count) {
    constexpr int VECTORS = most(ROWS);
    const Pair* q = (const Pair*)((const bf16*)work.q + row * op.head_dim);
    float* scores = work.scores + row * PART + first;
    const int64_t pairs = op.head_dim / 2;
    for (int j = 0; j < count; j += VECTORS * W) {
      const Pair* k = at.k[first / BLOCK_KEYS] + j;
      const bool leads = row == 0 && j == 0;
      F acc[ROWS][VECTORS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) acc[r][v] = zero();
      for (int64_t d = 0; d < pairs; ++d) {
        if (leads) at.fetch();
        __m512i x[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) x[v] = _mm512_loadu_si512(k + d * BLOCK_KEYS + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
          for (int v = 0; v < VECTORS; ++v) acc[r][v] = dot(acc[r][v], x[v], q[r * pairs + d]);
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) store(scores + r * PART + j + v * W, mul(acc[r][v], set1(op.scale)));
    }
  }

  S1_INLINE_MEMBER static F keep(F weight, bf16* to) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(weight);
    _mm256_storeu_si256((__m256i*)to, rounded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }

  static int common(int least, int count) { return least == count ? count : least / 2 * 2; }

  // Keys begin .. end - 1 of one block, `begin` even, times vectors d .. of V. Where `end` is odd the key after it, which
  // may be NaN, is left out.
  template <int ROWS, int VECTORS>
  S1_INLINE_MEMBER static void weigh_block(const bf16* weights, const Pair* values, int begin, int end, int64_t d,
                                           float* acc, int64_t dim, const Places* ahead) {
    F sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = load(acc + r * dim + d + v * W);
    const auto step = [&](int j, __mmask32 both) {
      const Pair* pairs = values + j / 2 * dim + d;
      __m512i x[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) x[v] = _mm512_maskz_loadu_epi16(both, pairs + v * W);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        Pair pair;
        __builtin_memcpy(&pair, weights + r * 2 * PART + j, sizeof pair);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = dot(sum[r][v], x[v], pair);
      }
    };
    int j = begin;
    for (; j + 1 < end; j += 2) {
      if (ahead)
        for (int64_t bytes = 0; bytes < dim * 4; bytes += 256) ahead->fetch();
      step(j, 0xffffffff);
    }
    if (j < end) step(j, 0x55555555);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) store(acc + r * dim + d + v * W, sum[r][v]);
  }

  template <int ROWS>
  static void weigh(const Work& work, const Places& at, int64_t row, int begin, int end, float* acc, int64_t dim) {
    constexpr int MOST = most(ROWS);
    for (int first = begin / BLOCK_KEYS * BLOCK_KEYS; first < end; first += BLOCK_KEYS) {
      const bf16* weights = (const bf16*)(work.scores + row * PART) + first;
      const Pair* values = at.v[first / BLOCK_KEYS];
      const int from = begin > first ? begin - first : 0, to = end - first < BLOCK_KEYS ? end - first : BLOCK_KEYS;
      int64_t d = 0;
      for (; d + MOST * W <= dim; d += MOST * W)
        weigh_block<ROWS, MOST>(weights, values, from, to, d, acc, dim, row == 0 && d == 0 ? &at : nullptr);
      if (d < dim) weigh_block<ROWS, 2>(weights, values, from, to, d, acc, dim, row == 0 && d == 0 ? &at : nullptr);
    }
  }
};
#endif

// Scores of ROWS rows -> their weights in the same place, maxima and sums. Weights of the keys after the last that a row
// sees are zeros up to a whole vector.
template <int ROWS, class Kind>
static inline void soften(const Work& work, const typename Kind::Places& at, int64_t row, const int* visible) {
  for (int r = 0; r < ROWS; ++r) {
    float* scores = work.scores + (row + r) * PART;
    const int padded = int(whole(visible[r]));
    for (int j = visible[r]; j < padded; ++j) scores[j] = MINUS_INFINITY;
    F best[2] = {set1(MINUS_INFINITY), set1(MINUS_INFINITY)};
    for (int j = 0; j < padded; j += W) best[j / W % 2] = max(best[j / W % 2], load(scores + j));
    const float top = max_lane(max(best[0], best[1]));
    const F base = set1(top == MINUS_INFINITY ? 0 : top);  // only -inf: weights of 0, not NaN
    F total = zero();
    for (int j = 0; j < padded; j += W) {
      if (row == 0 && j % (2 * W) == 0) at.fetch();
      total = add(total, Kind::keep(exp(sub(load(scores + j), base)), (typename Kind::Weight*)scores + j));
    }
    work.part.top[row + r] = top;
    work.part.sum[row + r] = sum(total);
  }
}

// work.part = the softmax of `rows` query rows over keys begin .. end - 1, which are one part or its beginning. `then` is
// what this thread reads after the last of `keys`.
template <class Kind>
static void attend(const Attention& op, const Work& work, const Keys& keys, const Keys& then, int64_t rows,
                   int64_t begin, int64_t end, bool begun) {
  const int count = int(end - begin);
  const int64_t dim = op.head_dim;
  const bool more = end < keys.count;
  const typename Kind::Places at(op, work, keys, begin, count, more ? keys : then, more ? end : 0, begun);
  for (int first = 0; first < count; first += CHUNK) {
    const int some = count - first < CHUNK ? count - first : CHUNK;
    Kind::prepare(work, at, first, some, dim);
    tiles(rows, [&](auto n, int64_t row) { Kind::template score<n.COUNT>(op, work, at, row, first, some); });
  }
  __builtin_memset(work.part.acc, 0, sizeof(float) * rows * dim);
  tiles(rows, [&](auto n, int64_t row) {
    constexpr int ROWS = n.COUNT;
    int visible[ROWS], least = count;
    for (int r = 0; r < ROWS; ++r) {
      const int64_t left = work.seen[row + r] - begin;
      visible[r] = left < 0 ? 0 : left < count ? int(left) : count;
      least = visible[r] < least ? visible[r] : least;
    }
    soften<ROWS, Kind>(work, at, row, visible);
    // Keys that all rows see go together, the others row by row: a hidden V may be NaN, and 0 * NaN must not enter a sum.
    const int common = Kind::common(least, count);
    float* acc = work.part.acc + row * dim;
    if (common > 0) Kind::template weigh<ROWS>(work, at, row, 0, common, acc, dim);
    for (int r = 0; r < ROWS; ++r)
      if (common < visible[r])
        Kind::template weigh<1>(work, at, row + r, common, visible[r], acc + r * dim, dim);
  });
}

// into = the softmax over the keys of both, for `rows` rows.
static inline void merge(const State& into, const State& from, int64_t rows, int64_t dim) {
  for (int64_t first = 0; first < rows; first += W) {
    float a[W], b[W];
    const F mine = load(into.top + first), other = load(from.top + first), high = max(mine, other);
    const F base = select_below(set1(MINUS_INFINITY), high, high, zero());
    store(a, exp(sub(mine, base)));
    store(b, exp(sub(other, base)));
    store(into.top + first, high);
    store(into.sum + first, add(mul(load(into.sum + first), load(a)), mul(load(from.sum + first), load(b))));
    for (int64_t r = first; r < rows && r < first + W; ++r) {
      float* acc = into.acc + r * dim;
      const float* more = from.acc + r * dim;
      int64_t d = 0;
      for (; d + W <= dim; d += W)
        store(acc + d, add(mul(load(acc + d), set1(a[r - first])), mul(load(more + d), set1(b[r - first]))));
      for (; d < dim; ++d) acc[d] = acc[d] * a[r - first] + more[d] * b[r - first];
    }
  }
}

template <class T>
static void write(const float* acc, float sum, T* out, int64_t dim) {
  int64_t d = 0;
  for (; d + W <= dim; d += W) store(out + d, div(load(acc + d), set1(sum)));
  for (; d < dim; ++d) narrow(acc[d] / sum, out + d);
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
  return sizeof(float) * parts * op.num_kv * State::size(op.num_q / op.num_kv, op.head_dim);
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
  const int64_t dim = op.head_dim, group = op.num_q / op.num_kv, size = State::size(group, dim);
  const Work work(group, dim);
  int64_t total = 0;
  for (int64_t b = 0; b < op.rows; ++b) total += op.context_lens[b] * op.num_kv;
  Shares shares(total, id, threads);
  float* slot = shared;
  bool begun = false;
  for (int64_t b = 0; b < op.rows; ++b) {
    const int64_t keys = op.context_lens[b], parts = parts_of(keys);
    const int32_t* table = op.block_tables + b * op.pages;
    for (int64_t head = 0; head < op.num_kv; ++head) {
      const int64_t first = b * op.num_q + head * group;
      const Keys here{table, head, keys}, then = following(op, here, b);
      bool loaded = false;
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t begin = p * PART, end = begin + PART < keys ? begin + PART : keys;
        Work into = work;  // a part of several goes to its own place
        if (parts > 1) into.part = State::at(slot, group), slot += size;
        if (!shares.mine(end - begin)) continue;
        if (!loaded)
          for (int64_t g = 0; g < group; ++g) {
            Kind::query((const T*)op.q + (first + g) * dim, op.scale, work, g, dim);
            work.seen[g] = keys;
          }
        loaded = true;
        attend<Kind>(op, into, here, then, group, begin, end, begun);
        begun = true;
        if (parts == 1)
          for (int64_t g = 0; g < group; ++g)
            write(work.part.acc + g * dim, work.part.sum[g], (T*)op.out + (first + g) * dim, dim);
      }
    }
  }
  barrier();
  slot = shared;
  int64_t unit = 0;
  const Range mine = share(op.rows * op.num_kv, id, threads);
  for (int64_t b = 0; b < op.rows; ++b) {
    const int64_t parts = parts_of(op.context_lens[b]);
    for (int64_t head = 0; head < op.num_kv; ++head, ++unit) {
      float* from = slot;
      if (parts > 1) slot += parts * size;
      if (unit < mine.begin || unit >= mine.end || parts == 1) continue;
      T* out = (T*)op.out + (b * op.num_q + head * group) * dim;
      if (parts < 1) {
        __builtin_memset(out, 0, sizeof(T) * group * dim);
        continue;
      }
      const State all = State::at(from, group);
      for (int64_t p = 1; p < parts; ++p) merge(all, State::at(from + p * size, group), group, dim);
      for (int64_t g = 0; g < group; ++g) write(all.acc + g * dim, all.sum[g], out + g * dim, dim);
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
    }
    Work first = work;
    first.part = work.total;
    for (int64_t begin = 0; begin < keys; begin += PART) {
      attend<Kind>(op, begin ? work : first, here, here, rows, begin, begin + PART < keys ? begin + PART : keys,
                   begin > 0);
      if (begin) merge(work.total, work.part, rows, dim);
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
  if (op.head_dim % 32 == 0) return run(Paired{});
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
