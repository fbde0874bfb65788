// A packed weight, and how each type of it is read into registers.
//
// Packed layout: panels of 32 weight rows (outputs). Inside a panel the columns follow each other, so that a panel is one
// forward stream of memory:
//   float32   for each column:          32 floats
//   bfloat16  for each pair of columns: 32 pairs (the operand of vdpbf16ps; a shift or a mask makes floats of it)
//   int8      for each column:          32 bytes, with a float32 scale per output; where there is vdpbf16ps, for each
//             pair of columns 64 bytes in the order of `Codes`
// Outputs past the end and the odd last column are zeros.
#pragma once

#include "operators.h"

namespace S1_LEVEL {

constexpr int PANEL = 32;
constexpr int VP = PANEL / W;  // vectors across a panel

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

}  // namespace S1_LEVEL
