// Attention over the paged KV cache, for one query per row and for chunks of queries. Twin of kernels/attention.py.
//
// A query row (one query, one head) takes its keys in parts of 256: scores of all, one softmax, then the weighted sum of
// the values; the parts are merged in order. Every score, sum and output is one chain in the order of the keys, so a row
// has the same bits in decode and prefill, in any batch, chunk or number of threads. Rows that share a KV head share what
// is read of it. Pages lie anywhere, so whoever reads a line of them fetches one that is read later: see Places.
#include "attention_paired.h"
#include "attention_widened.h"

namespace S1_LEVEL {

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
