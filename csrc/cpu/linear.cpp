// y = x W^T for few rows of x: weights are read once, at the speed of the memory. Twin of kernels/linear.py.
//
// Packed layout: panels of 32 weight rows (outputs). Inside a panel the columns follow each other, so that a panel is one
// forward stream of memory:
//   float32   for each column:          32 floats
//   bfloat16  for each pair of columns: 32 pairs (the operand of vdpbf16ps; a shift or a mask makes floats of it)
//   int8      for each column:          32 bytes, with a float32 scale per output; where there is vdpbf16ps, for each
//             pair of columns 64 bytes in the order of `Codes`
// Outputs past the end and the odd last column are zeros.
//
// Order of summation: each output is one chain of fused multiply-adds over the columns in order, whatever the number of
// rows, panels or threads. So a row of y has the same bits in every batch.
#include "operators.h"

namespace S1_LEVEL {

constexpr int PANEL = 32;
constexpr int VP = PANEL / W;  // vectors across a panel
constexpr int GROUP = 4;       // panels that a thread takes at a time
constexpr int AHEAD = 6144;    // bytes of a panel that are fetched, into L2, before they are used
constexpr int MAX_ROWS = REGISTERS == 32 ? 8 : 6;

// Vectors of outputs that are computed side by side. Accumulators are rows * vectors; the rest of the registers holds
// weights and one broadcast. With few rows more vectors hide the latency of their sums.
constexpr int side_by_side(int rows) {
  if (REGISTERS == 32) return rows <= 2 ? 8 : rows <= 6 ? 4 : 2;
  return rows == 1 ? 8 : rows <= 3 ? 4 : 2;
}

// What a step of a panel holds: STEP columns of x, taken in HALVES, for 32 outputs in STRIDE bytes. `weights` are those of
// outputs W v .. W v + W - 1.
struct Float32 {
  using X = float;
  using V = F;
  static constexpr int STEP = 1, HALVES = 1, STRIDE = PANEL * 4;
  static constexpr int vectors(int rows) { return side_by_side(rows); }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int) { return load((const float*)p + v * W); }
  S1_INLINE_MEMBER static F times(const float* x, V w, F acc) { return fma(set1(*x), w, acc); }
};

struct Bfloat16 {
  using X = float;
  using V = F;
  static constexpr int STEP = 2, HALVES = 2, STRIDE = PANEL * 4;
  static constexpr int vectors(int rows) { return side_by_side(rows); }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int half) {
    F even, odd;
    split_pairs(load((const float*)p + v * W), &even, &odd);
    return half ? odd : even;
  }
  S1_INLINE_MEMBER static F times(const float* x, V w, F acc) { return fma(set1(*x), w, acc); }
};

#if defined(S1_LEVEL_avx512_bf16)
struct Bfloat16Dot {
  using X = bf16;
  using V = __m512bh;
  static constexpr int STEP = 2, HALVES = 1, STRIDE = PANEL * 4;
  // One panel: two sums keep up with twice the memory of a core (6 cycles for 128 bytes, 64 of int8), and one stream of it
  // is faster than four.
  static constexpr int vectors(int) { return VP; }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int) { return (V)_mm512_loadu_si512((const float*)p + v * W); }
  S1_INLINE_MEMBER static F times(const bf16* x, V w, F acc) {
    int32_t pair;
    __builtin_memcpy(&pair, x, 4);
    return _mm512_dpbf16_ps(acc, w, (V)_mm512_set1_epi32(pair));
  }
};
#endif

#if defined(S1_LEVEL_avx512_bf16)
// The two bytes of the bfloat16 numbers 0 .. 127. Constant: what runs when the library is loaded runs on every processor.
struct Magnitudes {
  alignas(64) uint8_t low[128] = {}, high[128] = {};
  constexpr Magnitudes() {
    for (int i = 1; i < 128; ++i) {
      int exponent = 0;
      while (i >> (exponent + 1)) ++exponent;
      const int bits = (127 + exponent) << 7 | (i << (7 - exponent) & 0x7f);
      low[i] = uint8_t(bits), high[i] = uint8_t(bits >> 8);
    }
  }
};

// Codes as sign and magnitude, two columns of a panel in the 64 bytes of a vector. A magnitude picks the two bytes of the
// bfloat16 number that it is from tables: half the instructions of the way through int32 and float32.
struct Codes {
  // Where column j of a step lies for output i: unpacking takes 8 bytes of each 16 for outputs 0 .. 15, then 8 for the rest.
  static constexpr int place(int i, int j) { return i % 16 / 4 * 16 + i / 16 * 8 + i % 4 * 2 + j; }

  S1_INLINE_MEMBER static uint8_t code(int8_t value) { return uint8_t(value < 0 ? 0x80 | -value : value); }

  static constexpr Magnitudes tables{};

  // Pairs of outputs 16 v .. 16 v + 15.
  S1_INLINE_MEMBER static __m512i pairs(const char* p, int v) {
    const __m512i x = _mm512_loadu_si512(p);
    const auto pick = [&](const uint8_t* table) {
      return _mm512_permutex2var_epi8(_mm512_load_si512(table), x, _mm512_load_si512(table + 64));
    };
    const __m512i low = pick(tables.low);
    const __m512i high = _mm512_ternarylogic_epi32(pick(tables.high), x, _mm512_set1_epi8(char(0x80)), 0xf8);
    return v ? _mm512_unpackhi_epi8(low, high) : _mm512_unpacklo_epi8(low, high);
  }
};

struct Int8 {
  using X = float;
  using V = F;
  static constexpr int STEP = 2, HALVES = 2, STRIDE = 2 * PANEL;
  static constexpr int vectors(int rows) { return side_by_side(rows); }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int half) {
    F even, odd;
    split_pairs(_mm512_castsi512_ps(Codes::pairs(p, v)), &even, &odd);
    return half ? odd : even;
  }
  S1_INLINE_MEMBER static F times(const float* x, V w, F acc) { return fma(set1(*x), w, acc); }
};

struct Int8Dot {
  using X = bf16;
  using V = __m512bh;
  static constexpr int STEP = 2, HALVES = 1, STRIDE = 2 * PANEL;
  static constexpr int vectors(int) { return VP; }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int) { return (V)Codes::pairs(p, v); }
  S1_INLINE_MEMBER static F times(const bf16* x, V w, F acc) { return Bfloat16Dot::times(x, w, acc); }
};
#else
struct Int8 {
  using X = float;
  using V = F;
  static constexpr int STEP = 1, HALVES = 1, STRIDE = PANEL;
  static constexpr int vectors(int rows) { return side_by_side(rows); }
  S1_INLINE_MEMBER static V weights(const char* p, int v, int) { return load((const int8_t*)p + v * W); }
  S1_INLINE_MEMBER static F times(const float* x, V w, F acc) { return fma(set1(*x), w, acc); }
};
#endif

// Panels as they are taken: `now` and, for what is fetched ahead, those that come after the last of them.
struct Panels {
  const char* at[2 * GROUP];
  int now, all;
  int64_t bytes;  // of a panel
};

// ROWS rows of x against NV vectors of outputs, from vector `skip` of panel `first` on -> out [ROWS, GROUP * PANEL].
template <class Kind, int ROWS, int NV>
static inline void tile(const Panels& panels, int first, int skip, const typename Kind::X* x, int64_t ldx, int64_t cols,
                        float* out) {
  constexpr int NP = NV < VP ? 1 : NV / VP;
  F acc[ROWS][NV];
  const char *p[NP], *ahead[NP];
#pragma GCC unroll 8
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[m][v] = zero();
  // The hardware stops at page boundaries and starts late on short streams. Into L2, not L1: a core has 48 requests to
  // memory under way from there and 12 to 16 from L1, too few for its share of the bandwidth at 100 ns and more. The end
  // of a panel fetches the beginning of the one that is read next in its place: what lies behind it is a neighbour's.
  const int64_t fetched = AHEAD < panels.bytes ? AHEAD : panels.bytes;
  const int64_t turn = (panels.bytes - fetched) / Kind::STRIDE * Kind::STEP;
#pragma GCC unroll 8
  for (int i = 0; i < NP; ++i) p[i] = panels.at[first + i], ahead[i] = p[i] + fetched;
  for (int64_t k = 0; k < cols;) {
    if (k == turn)
      for (int i = 0; i < NP; ++i)
        if (first + NP + i < panels.all) ahead[i] = panels.at[first + NP + i];
    for (const int64_t end = k < turn ? turn : cols; k < end; k += Kind::STEP) {
#pragma GCC unroll 8
      for (int i = 0; i < NP; ++i)
#pragma GCC unroll 2
        for (int line = 0; line < Kind::STRIDE; line += 64) __builtin_prefetch(ahead[i] + line, 0, 2);
#pragma GCC unroll 2
      for (int half = 0; half < Kind::HALVES; ++half) {
        typename Kind::V w[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) w[v] = Kind::weights(p[v / VP], skip + v % VP, half);
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
          for (int v = 0; v < NV; ++v) acc[m][v] = Kind::times(x + m * ldx + k + half, w[v], acc[m][v]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < NP; ++i) p[i] += Kind::STRIDE, ahead[i] += Kind::STRIDE;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(out + m * GROUP * PANEL + v * W, acc[m][v]);
}

template <class Kind, int ROWS>
static void product(const Panels& panels, const typename Kind::X* x, int64_t ldx, int64_t cols, float* out) {
  constexpr int NV = Kind::vectors(ROWS);
  if constexpr (NV >= VP) {
    constexpr int NP = NV / VP;
    int p = 0;
    for (; p + NP <= panels.now; p += NP) tile<Kind, ROWS, NV>(panels, p, 0, x, ldx, cols, out + p * PANEL);
    for (; p < panels.now; ++p) tile<Kind, ROWS, VP>(panels, p, 0, x, ldx, cols, out + p * PANEL);
  } else {
    for (int p = 0; p < panels.now; ++p)
      for (int v = 0; v < VP; v += NV) tile<Kind, ROWS, NV>(panels, p, v, x, ldx, cols, out + p * PANEL + v * W);
  }
}

template <class Kind>
static void product_of(int rows, const Panels& panels, const typename Kind::X* x, int64_t ldx, int64_t cols,
                       float* out) {
  switch (rows) {
    case 1: return product<Kind, 1>(panels, x, ldx, cols, out);
    case 2: return product<Kind, 2>(panels, x, ldx, cols, out);
    case 3: return product<Kind, 3>(panels, x, ldx, cols, out);
    case 4: return product<Kind, 4>(panels, x, ldx, cols, out);
    case 5: return product<Kind, 5>(panels, x, ldx, cols, out);
    case 6: return product<Kind, 6>(panels, x, ldx, cols, out);
    case 7: return product<Kind, MAX_ROWS < 7 ? 6 : 7>(panels, x, ldx, cols, out);
    default: return product<Kind, MAX_ROWS>(panels, x, ldx, cols, out);
  }
}

// The value of one vector of outputs before rounding: product (* scale) (+ bias).
S1_INLINE F finish(const S1Weight& w, const float* acc, int64_t output) {
  F y = load(acc);
  if (w.scale) y = mul(y, load(w.scale + output));
  return w.bias ? add(y, load(w.bias + output)) : y;
}

template <class T>
S1_INLINE void put(T* y, F value, int64_t left) {
  if (left >= W)
    store(y, value);
  else if (left > 0)
    store_first(y, value, int(left));
}

template <class T>
S1_INLINE F get(const T* x, int64_t left) {
  return left >= W ? load(x) : load_first(x, left > 0 ? int(left) : 0);
}

// Outputs first .. first + count * PANEL - 1 of one row, PLAIN.
template <class T>
static inline void plain(const Linear& op, const float* acc, int64_t row, int64_t first, int count) {
  const int64_t rows = op.w->rows;
  T* y = (T*)op.y + row * rows;
  const T* residual = op.residual ? (const T*)op.residual + row * rows : nullptr;
  for (int64_t j = first; j < first + count * PANEL; j += W, acc += W) {
    F value = finish(*op.w, acc, j);
    if (residual) value = add(rounded(value, y), get(residual + j, rows - j));
    put(y + j, value, rows - j);
  }
}

static inline void head(const Linear& op, const float* acc, int64_t row, int64_t first, int count) {
  const int64_t rows = op.w->rows;
  float* y = (float*)op.y + row * rows;
  for (int64_t j = first; j < first + count * PANEL; j += W, acc += W)
    put(y + j, finish(*op.w, acc, j), rows - j);
}

// acc holds `count` panels of gates, then the same of ups.
template <class T>
static inline void silu_mul(const Linear& op, const float* acc, int64_t row, int64_t first, int count) {
  const int64_t features = op.w->rows / 2;
  T* y = (T*)op.y + row * features;
  for (int64_t j = first; j < first + count * PANEL; j += W, acc += W) {
    const F gate = rounded(finish(*op.w, acc, j), y);
    const F up = rounded(finish(*op.w, acc + count * PANEL, j + features), y);
    store(y + j, mul(silu(gate), up));
  }
}

template <class T>
static inline void epilogue(const Linear& op, const float* acc, int64_t row, int64_t first, int count) {
  if (op.epilogue == SILU_MUL)
    silu_mul<T>(op, acc, row, first, count);
  else if (op.epilogue == HEAD)
    head(op, acc, row, first, count);
  else
    plain<T>(op, acc, row, first, count);
}

template <class Kind>
static void outputs(const Linear& op, const typename Kind::X* x, int64_t ldx, int id, int threads) {
  const S1Weight& w = *op.w;
  const int64_t bytes = (w.cols + Kind::STEP - 1) / Kind::STEP * Kind::STRIDE;
  const bool pair = op.epilogue == SILU_MUL;
  const int64_t features = pair ? w.rows / 2 : w.rows;
  const int group = pair ? GROUP / 2 : GROUP;
  const Range part = share((features + PANEL - 1) / PANEL, id, threads);
  const int64_t tiles = (op.n + MAX_ROWS - 1) / MAX_ROWS;
  alignas(64) float acc[MAX_ROWS * GROUP * PANEL];
  Panels panels;
  panels.bytes = bytes;
  const auto add = [&](int64_t first, int count) {
    for (int i = 0; i < count; ++i) panels.at[panels.all++] = (const char*)w.data + (first + i) * bytes;
    for (int i = 0; pair && i < count; ++i)
      panels.at[panels.all++] = (const char*)w.data + (features / PANEL + first + i) * bytes;
  };
  for (int64_t first = part.begin; first < part.end; first += group) {
    const int64_t left = part.end - first;
    const int count = int(left < group ? left : group);
    panels.all = 0;
    add(first, count);
    panels.now = panels.all;
    add(first + count, int(left - count < group ? left - count : group));
    for (int64_t t = 0; t < tiles; ++t) {
      const Range rows = share(op.n, int(t), int(tiles));
      product_of<Kind>(int(rows.end - rows.begin), panels, x + rows.begin * ldx, ldx, w.cols, acc);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const float* values = acc + (row - rows.begin) * GROUP * PANEL;
        if (op.type == S1_BFLOAT16)
          epilogue<bf16>(op, values, row, first * PANEL, count);
        else
          epilogue<float>(op, values, row, first * PANEL, count);
      }
    }
  }
}

// Rows `part` of x as T with an even number of columns.
template <class From, class To>
static void widen_rows(const From* x, int64_t cols, To* y, int64_t ldy, Range part) {
  for (int64_t i = part.begin; i < part.end; ++i) {
    const From* from = x + i * cols;
    To* to = y + i * ldy;
    int64_t j = 0;
    for (; j + W <= cols; j += W) store(to + j, load(from + j));
    for (; j < cols; ++j) narrow(widen(from[j]), to + j);
    for (; j < ldy; ++j) narrow(0, to + j);
  }
}

constexpr int64_t PRIVATE = 16384;  // elements of x that each thread rather converts for itself than wait for others

template <class Kind>
static void run(const Linear& op, int id, int threads, void* shared) {
  using X = typename Kind::X;
  const bool same = sizeof(X) == (op.type == S1_BFLOAT16 ? 2 : 4);
  const int64_t cols = op.w->cols, ldx = (cols + Kind::STEP - 1) / Kind::STEP * Kind::STEP;
  if (same && ldx == cols) return outputs<Kind>(op, (const X*)op.x, cols, id, threads);
  const bool alone = op.n * ldx <= PRIVATE;
  X* x = (X*)(alone ? scratch(WIDE, op.n * ldx * sizeof(X)) : shared);
  const Range part = alone ? Range{0, op.n} : share(op.n, id, threads);
  if (op.type == S1_BFLOAT16)
    widen_rows((const bf16*)op.x, cols, x, ldx, part);
  else
    widen_rows((const float*)op.x, cols, x, ldx, part);
  if (!alone) barrier();
  outputs<Kind>(op, x, ldx, id, threads);
}

size_t linear_shared_bytes(const Linear& op) { return op.n * (op.w->cols + 1) * sizeof(float); }

void linear_part(const Linear& op, int id, int threads, void* shared) {
  const bool codes = op.w->type == S1_INT8;
  if (op.w->type == S1_FLOAT32) return run<Float32>(op, id, threads, shared);
#if defined(S1_LEVEL_avx512_bf16)
  if (op.type == S1_BFLOAT16 && codes) return run<Int8Dot>(op, id, threads, shared);
  if (op.type == S1_BFLOAT16) return run<Bfloat16Dot>(op, id, threads, shared);
#endif
  if (codes) return run<Int8>(op, id, threads, shared);
  return run<Bfloat16>(op, id, threads, shared);
}

template <class T, int STEP>
static void pack_panels(const T* from, int64_t rows, int64_t cols, T* to, Range panels) {
  const int64_t steps = (cols + STEP - 1) / STEP;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    T* panel = to + p * steps * STEP * PANEL;
    for (int64_t s = 0; s < steps; ++s)
      for (int i = 0; i < PANEL; ++i)
        for (int j = 0; j < STEP; ++j) {
          const int64_t row = p * PANEL + i, col = s * STEP + j;
          panel[(s * PANEL + i) * STEP + j] = row < rows && col < cols ? from[row * cols + col] : T{};
        }
  }
}

// Codes of panels of Int8.
static void pack_int8(const int8_t* from, int64_t rows, int64_t cols, int8_t* to, Range panels) {
#if defined(S1_LEVEL_avx512_bf16)
  const int64_t steps = (cols + 1) / 2;
  for (int64_t p = panels.begin; p < panels.end; ++p)
    for (int64_t s = 0; s < steps; ++s) {
      uint8_t* step = (uint8_t*)to + (p * steps + s) * Int8::STRIDE;
      for (int i = 0; i < PANEL; ++i)
        for (int j = 0; j < 2; ++j) {
          const int64_t row = p * PANEL + i, col = 2 * s + j;
          step[Codes::place(i, j)] = Codes::code(row < rows && col < cols ? from[row * cols + col] : int8_t(0));
        }
    }
#else
  pack_panels<int8_t, 1>(from, rows, cols, to, panels);
#endif
}

}  // namespace S1_LEVEL

// from [rows, cols] of w->type -> w->data, all of which is written.
S1_OP(pack)(const S1Weight* w, const void* from, int32_t threads) {
  using namespace S1_LEVEL;
  const int64_t panels = (w->rows + PANEL - 1) / PANEL;
  parallel(threads, [&](int id, int count) {
    const Range part = share(panels, id, count);
    if (w->type == S1_FLOAT32)
      pack_panels<uint32_t, 1>((const uint32_t*)from, w->rows, w->cols, (uint32_t*)w->data, part);
    else if (w->type == S1_BFLOAT16)
      pack_panels<uint16_t, 2>((const uint16_t*)from, w->rows, w->cols, (uint16_t*)w->data, part);
    else
      pack_int8((const int8_t*)from, w->rows, w->cols, (int8_t*)w->data, part);
  });
}

// See operators.h: Linear. SILU_MUL takes rows that are a multiple of 64.
S1_OP(linear)
(const S1Weight* w, const void* x, const void* residual, void* y, int64_t n, int32_t type, int32_t epilogue,
 int32_t threads) {
  using namespace S1_LEVEL;
  const Linear op{w, x, residual, y, n, type, epilogue};
  void* shared = n * (w->cols + 1) > PRIVATE ? scratch(SHARED, linear_shared_bytes(op)) : nullptr;
  // Below this many products waking a second thread takes longer than the work.
  parallel(n * w->rows * w->cols < 131072 ? 1 : threads,
           [&](int id, int count) { linear_part(op, id, count, shared); });
}
