// Vectors of W floats at the instruction set of this translation unit: S1_LEVEL is portable, avx2, avx512 or
// avx512_bf16. Everything lives in a namespace of the level's name, so that the linker never folds functions compiled
// for different instruction sets into one; for the same reason nothing here or in the operators calls std:: templates.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(S1_LEVEL_avx2) || defined(S1_LEVEL_avx512) || defined(S1_LEVEL_avx512_bf16)
#include <immintrin.h>
#endif

#define S1_INLINE static inline __attribute__((always_inline))
#define S1_INLINE_MEMBER inline __attribute__((always_inline))

namespace S1_LEVEL {

// Each level defines, for vectors F of W floats: arithmetic; load and store of float, bf16 and int8 at any alignment;
// round; scale2; sum and max_lane over the lanes, always as the same tree; select_below; transpose; split_pairs.

struct bf16 {
  uint16_t bits;
};

S1_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

S1_INLINE float float_of(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

S1_INLINE float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
S1_INLINE float widen(float x) { return x; }

// Round to nearest, ties to even; NaN stays NaN.
S1_INLINE void narrow(float x, bf16* y) {
  const uint32_t u = bits_of(x);
  y->bits = x != x ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
S1_INLINE void narrow(float x, float* y) { *y = x; }

#if defined(S1_LEVEL_avx512) || defined(S1_LEVEL_avx512_bf16)

constexpr int W = 16;
constexpr int REGISTERS = 32;
using F = __m512;

S1_INLINE F zero() { return _mm512_setzero_ps(); }
S1_INLINE F set1(float x) { return _mm512_set1_ps(x); }
S1_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
S1_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
S1_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
S1_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
S1_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
S1_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where either is NaN
S1_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }

S1_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
S1_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
S1_INLINE F load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
S1_INLINE void store(bf16* p, F x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i y = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(y, 16)));
}
S1_INLINE F load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
// x * 2^k for whole k in [-126, 128]
S1_INLINE F scale2(F x, F k) { return _mm512_scalef_ps(x, k); }
S1_INLINE float sum(F x) { return _mm512_reduce_add_ps(x); }
S1_INLINE float max_lane(F x) { return _mm512_reduce_max_ps(x); }
S1_INLINE F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a < b ? yes : no
S1_INLINE F select_below(F a, F b, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// Bit patterns pass through unchanged.
S1_INLINE void transpose(F (&r)[W]) {
  F t[W], u[W];
#pragma GCC unroll 8
  for (int i = 0; i < W; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < W; i += 4)  // 128-bit lane l of u[i + j]: column 4 l + j of rows i .. i + 3
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const F a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), b = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    const F c = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88), d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}
// Lanes that hold a pair of bf16 -> the first of each pair, the second of each pair.
S1_INLINE void split_pairs(F x, F* even, F* odd) {
  const __m512i u = _mm512_castps_si512(x);
  *even = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
  *odd = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32(int(0xffff0000u))));
}

#elif defined(S1_LEVEL_avx2)

constexpr int W = 8;
constexpr int REGISTERS = 16;
using F = __m256;

S1_INLINE F zero() { return _mm256_setzero_ps(); }
S1_INLINE F set1(float x) { return _mm256_set1_ps(x); }
S1_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
S1_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
S1_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
S1_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
S1_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
S1_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
S1_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }

S1_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
S1_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
S1_INLINE F load(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
S1_INLINE void store(bf16* p, F x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i y = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(y, y), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
S1_INLINE F load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
S1_INLINE F pow2(F k) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23));
}
S1_INLINE F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^k for whole k in [-126, 128]: in two steps, 2^128 is no float.
S1_INLINE F scale2(F x, F k) {
  const F half = round(mul(k, set1(0.5f)));
  return mul(mul(x, pow2(half)), pow2(sub(k, half)));
}
S1_INLINE float sum(F x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
S1_INLINE float max_lane(F x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
S1_INLINE F select_below(F a, F b, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
S1_INLINE void transpose(F (&r)[W]) {
  F t[W], u[W];
#pragma GCC unroll 4
  for (int i = 0; i < W; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < W; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256d a = _mm256_castps_pd(t[i + j]), b = _mm256_castps_pd(t[i + j + 2]);
      u[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      u[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}
S1_INLINE void split_pairs(F x, F* even, F* odd) {
  const __m256i u = _mm256_castps_si256(x);
  *even = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
  *odd = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32(int(0xffff0000u))));
}

#else

constexpr int W = 4;
constexpr int REGISTERS = 16;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));

S1_INLINE F zero() { return F{0, 0, 0, 0}; }
S1_INLINE F set1(float x) { return F{x, x, x, x}; }
S1_INLINE F add(F a, F b) { return a + b; }
S1_INLINE F sub(F a, F b) { return a - b; }
S1_INLINE F mul(F a, F b) { return a * b; }
S1_INLINE F div(F a, F b) { return a / b; }
S1_INLINE F fma(F a, F b, F c) { return a * b + c; }  // two roundings
S1_INLINE F max(F a, F b) { return a > b ? a : b; }
S1_INLINE F min(F a, F b) { return a < b ? a : b; }

S1_INLINE F load(const float* p) {
  F x;
  __builtin_memcpy(&x, p, 16);
  return x;
}
S1_INLINE void store(float* p, F x) { __builtin_memcpy(p, &x, 16); }
S1_INLINE F load(const bf16* p) { return F{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}; }
S1_INLINE void store(bf16* p, F x) {
  for (int i = 0; i < W; ++i) narrow(x[i], p + i);
}
S1_INLINE F load(const int8_t* p) { return F{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
S1_INLINE F pow2(F k) { return (F)((__builtin_convertvector(k, I) + 127) << 23); }
S1_INLINE F round(F x) {  // whole numbers of magnitude below 2^22
  const F magic = set1(12582912.0f);
  return x + magic - magic;
}
// x * 2^k for whole k in [-126, 128]: in two steps, 2^128 is no float.
S1_INLINE F scale2(F x, F k) {
  const F half = round(mul(k, set1(0.5f)));
  return mul(mul(x, pow2(half)), pow2(sub(k, half)));
}
S1_INLINE float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
S1_INLINE float max_lane(F x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
S1_INLINE F select_below(F a, F b, F yes, F no) { return a < b ? yes : no; }
S1_INLINE void transpose(F (&r)[W]) {
  F t[W];
  for (int i = 0; i < W; ++i) t[i] = F{r[0][i], r[1][i], r[2][i], r[3][i]};
  for (int i = 0; i < W; ++i) r[i] = t[i];
}
S1_INLINE void split_pairs(F x, F* even, F* odd) {
  const U u = (U)x;
  *even = (F)(u << 16);
  *odd = (F)(u & 0xffff0000u);
}

#endif

// The first n < W elements; the rest of the vector is `rest`.
template <class T>
S1_INLINE F load_first(const T* p, int n, float rest = 0) {
  float lanes[W];
  for (int i = 0; i < W; ++i) lanes[i] = i < n ? widen(p[i]) : rest;
  return load(lanes);
}

template <class T>
S1_INLINE void store_first(T* p, F x, int n) {
  float lanes[W];
  store(lanes, x);
  for (int i = 0; i < n; ++i) narrow(lanes[i], p + i);
}

// x as it reads back from memory of type T.
S1_INLINE F rounded(F x, const float*) { return x; }
S1_INLINE F rounded(F x, const bf16*) {
  bf16 lanes[W];
  store(lanes, x);
  return load(lanes);
}

// e^x to 2 units in the last place (Cephes' expf): 0 below -87.3, infinity above 88.7, NaN for NaN.
S1_INLINE F exp(F x) {
  const F low = set1(-87.33654f);
  const F bounded = min(set1(89.0f), max(low, x));  // the second operand survives NaN
  const F k = round(mul(bounded, set1(1.44269504f)));
  F r = fma(k, set1(-0.693359375f), bounded);
  r = fma(k, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  return select_below(x, low, zero(), scale2(p, k));
}

S1_INLINE float exp1(float x) {
  float lanes[W];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// The same roundings as one lane of fma.
S1_INLINE float fma1(float a, float b, float c) {
  float lanes[W];
  store(lanes, fma(set1(a), set1(b), set1(c)));
  return lanes[0];
}

S1_INLINE F silu(F x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

}  // namespace S1_LEVEL
