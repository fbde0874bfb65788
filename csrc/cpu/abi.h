// The C interface that kernels/native/library.py binds with ctypes: every operator once per instruction set, as
// s1_<level>_<operator>. Pointers are raw, sizes are in elements, `type` fields say what a pointer holds.
// Callers have checked shapes; nothing here allocates except scratch that grows to the largest call seen.
#pragma once

#include <cstdint>

// Bumped with every change of this file; kernels/native/library.py refuses a library that answers another number.
#define S1_ABI 7

enum S1Type : int32_t { S1_FLOAT32 = 0, S1_BFLOAT16 = 1, S1_INT8 = 2 };

// A weight [rows, cols] packed by s1_<level>_pack: panels of 32 rows, columns innermost but one, see linear.cpp.
struct S1Weight {
  void* data;          // panels, of `type`
  const float* bias;   // [panels * 32] or null
  const float* scale;  // [panels * 32], int8 only
  int64_t rows, cols;
  int32_t type;
};

// One layer of a Qwen2 decoder: packed products, norms [hidden], and its pages [num_pages, num_kv, page_size, head_dim],
// with page_stride elements from one to the next.
// Activations, norms and pages hold the type of S1Decoder.
struct S1Layer {
  const void* input_norm;
  const S1Weight *qkv, *output;
  const void* mlp_norm;
  const S1Weight *gate_up, *down;
  void *k_cache, *v_cache;
};

struct S1Decoder {
  const S1Layer* layers;
  const float* cos_sin;  // [max_pos, head_dim], cos | sin
  const void* norm;      // [hidden]
  int64_t num_layers, hidden, features, num_q, num_kv, head_dim, page_size, page_stride;
  float eps, scale;
  int32_t type;
};

// The parts of a layer in the order in which they run; the last norm of a model counts as NORM too.
enum S1Part : int32_t { S1_NORM, S1_QKV, S1_APPEND, S1_ATTENTION, S1_OUTPUT, S1_GATE_UP, S1_DOWN, S1_PARTS };

// The tokens of one step: `decodes` rows of one token each, then `chunks` rows of several; tables and lengths in that order.
struct S1Tokens {
  void* x;                      // [n, hidden]: embeddings in, the sum of all layers out
  void* y;                      // [n, hidden]: x after the last norm
  const int64_t* positions;     // [n]
  const int64_t* slots;         // [n]: page * page_size + offset, negative: write nothing
  const int32_t* block_tables;  // [decodes + chunks, pages]
  const int32_t* context_lens;  // [decodes + chunks]
  const int32_t* cu_q;          // [chunks + 1], from 0
  double* seconds;              // [S1_PARTS], to which what each part takes is added, or null
  int64_t n, decodes, chunks, pages;
};

#define S1_CONCAT_(a, b, c) a##b##c
#define S1_CONCAT(a, b, c) S1_CONCAT_(a, b, c)
#define S1_EXPORT(name) extern "C" __attribute__((visibility("default"))) name
// s1_<level>_<operator>
#define S1_OP(op) S1_EXPORT(void S1_CONCAT(s1_, S1_LEVEL, _##op))
