// Attention over the paged KV cache, for one query per row and for chunks of queries. Twin of kernels/attention.py.
//
// A query row (one query, one head) takes its keys in parts of 256: scores of all, one softmax, then the weighted sum of
// the values; the parts are merged in order. Every score, sum and output is one chain in the order of the keys, so a row
// has the same bits in decode and prefill, in any batch, chunk or number of threads. Rows that share a KV head share what
// is read of it. Pages lie anywhere, so whoever reads a line of them fetches one that is read later: see Places.
#include "operators.h"
#include "paged.h"

namespace S1_LEVEL {

constexpr int PART = 256;
constexpr int CHUNK = 64;         // keys whose scores all rows take before the next
constexpr int PREFILL_ROWS = 64;  // query rows that share a part
constexpr int HEADS = 8;          // KV heads at most that decode takes together: they lie side by side in a page
constexpr int NV = 2;             // vectors of keys or of head_dim per row in a register tile
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

// The keys of one sequence and `heads` KV heads from `head` on.
struct Keys {
  const int32_t* table;
  int64_t head, heads, count;
};

// One of those heads: which, of how many, and where it begins after the first in a page.
struct Head {
  int index, count;
  int64_t skip;
};

// Calls visit(i, elements into the cache) for every UNIT keys of the first head from `first` on, `count` in all; a page
// holds whole units.
template <int UNIT, class Visit>
S1_INLINE void walk(const Attention& op, const Keys& keys, int64_t first, int64_t count, const Visit& visit) {
  int64_t page = first / op.page_size, offset = first % op.page_size;
  for (int i = 0; i * UNIT < count; ++i) {
    visit(i, keys.table[page] * op.page_stride + (keys.head * op.page_size + offset) * op.head_dim);
    if ((offset += UNIT) == op.page_size) offset = 0, ++page;
  }
}

S1_INLINE void fetch(const void* p) { __builtin_prefetch(p); }

template <int N>
struct Rows {
  static constexpr int COUNT = N;
};

// Calls work(rows, first row) for tiles of at most MOST rows of nearly the same size; `rows` is a constant.
template <int MOST, class Tile>
S1_INLINE void tiles(int64_t rows, const Tile& work) {
  const int64_t parts = (rows + MOST - 1) / MOST;
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
      case 7: work(Rows<MOST < 7 ? MOST : 7>{}, row); break;
      default: work(Rows<MOST>{}, row); break;
    }
  }
}

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

#if defined(S1_LEVEL_avx512_bf16)
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
#endif

// The largest score of a row against the keys it sees. The scores after them are -infinity up to a whole vector.
S1_INLINE float highest(float* scores, int visible) {
  const int padded = int(whole(visible));
  for (int j = visible; j < padded; ++j) scores[j] = MINUS_INFINITY;
  F best = set1(MINUS_INFINITY);
  for (int j = 0; j < padded; j += W) best = max(best, load(scores + j));
  return max_lane(best);
}

// Scores -> weights in the same place, relative to the highest; their sum.
template <class Kind>
S1_INLINE float weights(float* scores, int visible, float top) {
  const F base = set1(top == MINUS_INFINITY ? 0 : top);  // only -inf: weights of 0, not NaN
  F total = zero();
  for (int j = 0; j < whole(visible); j += W)
    total = add(total, Kind::keep(Kind::power(sub(load(scores + j), base)), (typename Kind::Weight*)scores + j));
  return sum(total);
}

// work.part = the softmax of `rows` query rows of each head over keys begin .. end - 1, which are one part or its
// beginning. `then` is what this thread reads after the last of `keys`.
template <class Kind>
static void attend(const Attention& op, const Work& work, const Keys& keys, const Keys& then, int64_t rows,
                   int64_t begin, int64_t end) {
  const int count = int(end - begin);
  const int64_t dim = op.head_dim, plane = op.page_size * dim;
  const bool more = end < keys.count;
  const typename Kind::Places at(op, work, keys, begin, count, more ? keys : then, more ? end : 0);
  const auto seen = [&](int64_t row) {
    const int64_t left = work.seen[row] - begin;
    return left < 0 ? 0 : left < count ? int(left) : count;
  };
  for (int first = 0; first < count; first += CHUNK) {
    const int some = count - first < CHUNK ? count - first : CHUNK;
    for (int h = 0; h < keys.heads; ++h) {
      const Head head{h, int(keys.heads), h * plane};
      Kind::prepare(work, at, head, first, some, dim);
      tiles<Kind::TILE>(rows, [&](auto n, int64_t row) {
        Kind::template score<n.COUNT>(op, work, at, head, h * rows + row, first, some, row == 0);
      });
    }
  }
  const int64_t all = keys.heads * rows;
  for (int64_t r = 0; r < all; ++r) work.part.top[r] = highest(work.scores + r * PART, seen(r));
  for (int h = 0; h < keys.heads; ++h)
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t r = h * rows + i;
      at.fetch_lines({h, int(keys.heads), h * plane}, 2 * dim * i / rows, 2 * dim * (i + 1) / rows);  // of 2 * dim lines
      work.part.sum[r] = weights<Kind>(work.scores + r * PART, seen(r), work.part.top[r]);
    }
  __builtin_memset(work.part.acc, 0, sizeof(float) * keys.heads * rows * dim);
  for (int first = 0; first < count; first += CHUNK) {
    const int last = first + CHUNK;
    for (int h = 0; h < keys.heads; ++h)
      tiles<Kind::TILE>(rows, [&](auto n, int64_t tile) {
        const Head head{h, int(keys.heads), h * plane};
        constexpr int ROWS = n.COUNT;
        const int64_t row = h * rows + tile;
        float* acc = work.part.acc + row * dim;
        int visible[ROWS], least = count;
        for (int r = 0; r < ROWS; ++r) visible[r] = seen(row + r), least = visible[r] < least ? visible[r] : least;
        // Keys that all rows see go together, the others row by row: a hidden V may be NaN, and 0 * NaN must not enter a
        // sum.
        const int common = Kind::common(least, count), until = common < last ? common : last;
        if (first < until)
          Kind::template weigh<ROWS>(work, at, head, row, first, until, acc, dim, tile == 0);
        for (int r = 0; r < ROWS; ++r) {
          const int from = common > first ? common : first, to = visible[r] < last ? visible[r] : last;
          if (from < to) Kind::template weigh<1>(work, at, head, row + r, from, to, acc + r * dim, dim, false);
        }
      });
  }
}

// into = the softmax over the keys of both, for `rows` rows.
template <class Kind>
static inline void merge(const State& into, const State& from, int64_t rows, int64_t dim) {
  for (int64_t first = 0; first < rows; first += W) {
    float a[W], b[W];
    const F mine = load(into.top + first), other = load(from.top + first), high = max(mine, other);
    const F base = select_below(set1(MINUS_INFINITY), high, high, zero());
    store(a, Kind::power(sub(mine, base)));
    store(b, Kind::power(sub(other, base)));
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
  int64_t total;
  int threads;
  int owner(int64_t at) const { return int(((at + 1) * threads - 1) / total); }
};

static inline int64_t parts_of(int64_t keys) { return (keys + PART - 1) / PART; }

size_t decode_shared_bytes(const Attention& op) {
  int64_t parts = 0;
  for (int64_t b = 0; b < op.rows; ++b)
    if (op.context_lens[b] > PART) parts += parts_of(op.context_lens[b]);
  return sizeof(float) * parts * op.num_kv * State::size(op.num_q / op.num_kv, op.head_dim);
}

// KV heads that decode takes together. With few parts to share among the threads each goes alone.
template <class Kind>
static inline int64_t heads_together(const Attention& op, int threads) {
  int64_t parts = 0;
  for (int64_t b = 0; b < op.rows; ++b) parts += parts_of(op.context_lens[b]);
  if (parts < 4 * threads || !Kind::together(op)) return 1;
  return op.num_kv < HEADS ? op.num_kv : HEADS;
}

// What comes after `keys` of row b.
static inline Keys following(const Attention& op, const Keys& keys, int64_t b) {
  const int64_t next = keys.head + keys.heads, left = op.num_kv - next;
  if (left > 0) return {keys.table, next, left < keys.heads ? left : keys.heads, keys.count};
  if (b + 1 < op.rows && op.context_lens[b + 1] > 0) return {keys.table + op.pages, 0, keys.heads, op.context_lens[b + 1]};
  return keys;
}

template <class Kind>
static void decode(const Attention& op, int id, int threads, float* shared) {
  using T = typename Kind::T;
  const int64_t dim = op.head_dim, group = op.num_q / op.num_kv, together = heads_together<Kind>(op, threads);
  const Work work(together * group, dim);
  // The keys of each row and heads, the cost before them, and where their parts go if threads share them.
  const auto each = [&](auto&& visit) {
    float* slot = shared;
    int64_t at = 0;
    for (int64_t b = 0; b < op.rows; ++b)
      for (int64_t head = 0; head < op.num_kv; head += together) {
        const int64_t left = op.num_kv - head, count = op.context_lens[b], parts = parts_of(count);
        const Keys keys{op.block_tables + b * op.pages, head, left < together ? left : together, count};
        visit(b, keys, at, parts, slot);
        at += count * keys.heads;
        if (parts > 1) slot += parts * State::size(keys.heads * group, dim);
      }
  };
  int64_t total = 0;
  for (int64_t b = 0; b < op.rows; ++b) total += op.context_lens[b] * op.num_kv;
  const Shares shares{total, threads};
  const auto write_rows = [&](const State& all, int64_t b, const Keys& keys) {
    T* out = (T*)op.out + (b * op.num_q + keys.head * group) * dim;
    for (int64_t r = 0; r < keys.heads * group; ++r) write(all.acc + r * dim, all.sum[r], out + r * dim, dim);
  };
  // Whether several threads have the parts of the keys: they go to `slot` then, and one of them merges them at the end.
  const auto shared_out = [&](int64_t at, const Keys& keys, int64_t parts) {
    return parts > 1 && shares.owner(at) != shares.owner(at + (parts - 1) * PART * keys.heads);
  };
  bool any = false;
  each([&](int64_t b, const Keys& keys, int64_t at, int64_t parts, float* slot) {
    const int64_t rows = keys.heads * group, first = b * op.num_q + keys.head * group;
    const bool several = shared_out(at, keys, parts);
    any |= several;
    bool loaded = false;
    for (int64_t p = 0; p < parts; ++p) {
      if (shares.owner(at + p * PART * keys.heads) != id) continue;
      for (int64_t r = 0; r < rows && !loaded; ++r) {
        Kind::query((const T*)op.q + (first + r) * dim, op.scale, work, r, dim);
        work.seen[r] = keys.count;
      }
      loaded = true;
      const int64_t begin = p * PART, end = begin + PART < keys.count ? begin + PART : keys.count;
      Work into = work;
      if (several)
        into.part = State::at(slot + p * State::size(rows, dim), rows);
      else if (p == 0)
        into.part = work.total;
      attend<Kind>(op, into, keys, following(op, keys, b), group, begin, end);
      if (!several && p > 0) merge<Kind>(work.total, work.part, rows, dim);
    }
    if (loaded && !several) write_rows(work.total, b, keys);
    if (parts == 0 && id == 0) __builtin_memset((T*)op.out + first * dim, 0, sizeof(T) * rows * dim);
  });
  if (!any) return;
  barrier();
  each([&](int64_t b, const Keys& keys, int64_t at, int64_t parts, float* slot) {
    const int64_t rows = keys.heads * group;
    if (!shared_out(at, keys, parts) || shares.owner(at) != id) return;
    const State all = State::at(slot, rows);
    for (int64_t p = 1; p < parts; ++p) merge<Kind>(all, State::at(slot + p * State::size(rows, dim), rows), rows, dim);
    write_rows(all, b, keys);
  });
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
  const auto cost = [](int64_t keys) { return keys > 0 ? keys + 1 : 1; };
  int64_t total = 0, at = 0;
  each([&](int64_t, int64_t, int64_t q, int64_t stop, int64_t before) { total += cost(before + stop - q); });
  const Shares shares{total, threads};
  each([&](int64_t row, int64_t head, int64_t q, int64_t stop, int64_t before) {
    const int64_t keys = before + stop - q, rows = (stop - q) * group, place = at;
    at += cost(keys);
    if (shares.owner(place) != id) return;
    const Keys here{op.block_tables + row * op.pages, head, 1, keys};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (q + r / group) * op.num_q + head * group + r % group;
      Kind::query((const T*)op.q + at * dim, op.scale, work, r, dim);
      work.seen[r] = before + r / group + 1;
    }
    Work first = work;
    first.part = work.total;
    for (int64_t begin = 0; begin < keys; begin += PART) {
      attend<Kind>(op, begin ? work : first, here, here, rows, begin, begin + PART < keys ? begin + PART : keys);
      if (begin) merge<Kind>(work.total, work.part, rows, dim);
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
 int64_t page_size, int64_t page_stride, float scale, int32_t type, int32_t threads) {
  using namespace S1_LEVEL;
  const Attention op{q,    k_cache, v_cache, block_tables, context_lens, cu_q,  out,  rows,
                     pages, num_q,   num_kv,  head_dim,     page_size,    page_stride, scale, type};
  int64_t keys = 0;
  for (int64_t i = 0; i < rows; ++i) keys += context_lens[i];
  const int64_t queries = cu_q ? cu_q[rows] : 1;
  const int team = keys * queries * num_q * head_dim < 65536 ? 1 : threads;
  if (cu_q) return parallel(team, [&](int id, int count) { prefill_attention_part(op, id, count); });
  void* shared = scratch(SHARED, decode_shared_bytes(op));
  parallel(team, [&](int id, int count) { decode_attention_part(op, id, count, shared); });
}
