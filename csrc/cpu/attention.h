// What the kinds of attention arithmetic share: softmaxes over parts of the keys, one thread's buffers, tiles of rows.
#pragma once

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

}  // namespace S1_LEVEL
