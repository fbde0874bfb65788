// What one thread of a team does for each operator, so that a fused call can chain them without leaving the team.
// Every `*_part` is called by all `threads` threads; it ends without a barrier unless it says so.
#pragma once

#include "abi.h"
#include "simd.h"
#include "threads.h"

namespace S1_LEVEL {

struct RmsNorm {
  const void *x, *residual, *weight;  // residual may be null
  void *y, *sum;                      // sum is written only where there is a residual; it may be residual itself
  int64_t n, hidden;
  float eps;
  int32_t type;
};
void rms_norm_part(const RmsNorm& op, int id, int threads);

enum Epilogue : int32_t {
  PLAIN = 0,     // y = x W^T + bias, rounded; + residual, rounded
  SILU_MUL = 1,  // rows are gate | up: y = silu(gate) * up
  HEAD = 2,      // y is float32
};

struct Linear {
  const S1Weight* w;
  const void* x;         // [n, cols] of `type`
  const void* residual;  // [n, rows] of `type`, PLAIN only, or null; may be y
  void* y;               // [n, rows], [n, rows / 2] for SILU_MUL
  int64_t n;
  int32_t type;  // of x, residual and y
  int32_t epilogue;
};
// x must be complete. `shared` holds linear_shared_bytes(op), the same on every thread; a barrier may be passed inside.
void linear_part(const Linear& op, int id, int threads, void* shared);
size_t linear_shared_bytes(const Linear& op);

// One row: h = x + residual, rounded to T; y = h / sqrt(mean(h^2) + eps) * weight. y may be x.
template <class T>
void norm_row(const T* x, const T* residual, const T* weight, T* y, T* h, int64_t hidden, float eps);

struct RopeAppend {
  const void* qkv;           // [n, (num_q + 2 num_kv) * head_dim] of `type`
  const float* cos_sin;      // [max_pos, head_dim], cos | sin
  const int64_t* positions;  // [n]
  const int64_t* slots;      // [n], page * page_size + offset, negative: write nothing
  void* q;                   // [n, num_q, head_dim] of `type`
  void *k_cache, *v_cache;   // [num_pages, num_kv, page_size, head_dim] of `type`, page_stride elements apart
  int64_t n, num_q, num_kv, head_dim, page_size, page_stride;
  const void* qk_norm;  // [2, head_dim] of `type`: what query and key heads are normed with before; or null
  float eps;
  int32_t type;
};
void rope_append_part(const RopeAppend& op, int id, int threads);

struct Attention {
  const void* q;                  // [queries, num_q, head_dim] of `type`
  const void *k_cache, *v_cache;  // [num_pages, num_kv, page_size, head_dim] of `type`, page_stride elements apart
  const int32_t* block_tables;    // [rows, pages]
  const int32_t* context_lens;    // [rows]
  const int32_t* cu_q;            // [rows + 1]; null: one query per row
  void* out;                      // as q
  int64_t rows, pages, num_q, num_kv, head_dim, page_size, page_stride;
  float scale;
  int32_t type;
};
// q and the pages must be complete. `shared` holds decode_shared_bytes(op); a barrier may be passed inside.
void decode_attention_part(const Attention& op, int id, int threads, void* shared);
size_t decode_shared_bytes(const Attention& op);
void prefill_attention_part(const Attention& op, int id, int threads);

struct SiluMul {
  const void* x;  // [n, 2 * features], gate | up, of `type`
  void* y;        // [n, features]
  int64_t n, features;
  int32_t type;
};
void silu_mul_part(const SiluMul& op, int id, int threads);

// Scratch of the calling thread, 64-byte aligned, at least `bytes`; grows, never shrinks, lost at the next call for the
// same slot.
enum Slot { WIDE, SHARED, ATTENTION, STEP, SLOTS };
void* scratch(Slot slot, size_t bytes);

}  // namespace S1_LEVEL
