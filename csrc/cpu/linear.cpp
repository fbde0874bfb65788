// y = x W^T for few rows of x: weights are read once, at the speed of the memory. Twin of kernels/linear.py.
//
// Order of summation: each output is one chain of fused multiply-adds over the columns in order, whatever the number of
// rows, panels or threads. So a row of y has the same bits in every batch.
#include "panels.h"

namespace S1_LEVEL {

constexpr int GROUP = 4;       // panels that a thread takes at a time
constexpr int AHEAD = 6144;    // bytes of a panel that are fetched, into L2, before they are used
constexpr int MAX_ROWS = REGISTERS == 32 ? 8 : 6;

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

}  // namespace S1_LEVEL

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
