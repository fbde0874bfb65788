// Made by `python -m kernels.native.abi`; change that file, not this one.
//
// The C interface that kernels/native/library.py binds with ctypes: every operator once per instruction set, as
// s1_<level>_<operator>. Pointers are raw, sizes are in elements, `type` fields say what a pointer holds.
// Callers have checked shapes; nothing here allocates except scratch that grows to the largest call seen.
#pragma once

#include <cstdint>

// A hash of this file's other lines; kernels/native/library.py refuses a library that answers another one.
#define S1_INTERFACE 0x08b2b58c558a6431ull

enum S1Type : int32_t { S1_FLOAT32 = 0, S1_BFLOAT16 = 1, S1_INT8 = 2 };

// A weight [rows, cols] packed by s1_<level>_pack: panels of 32 rows, columns innermost but one, see linear.cpp.
struct S1Weight {
  void* data;          // panels, of `type`
  const float* bias;   // [panels * 32] or null
  const float* scale;  // [panels * 32], int8 only
  int64_t rows, cols;
  int32_t type;
};

// One layer of a decoder: packed products, norms [hidden], of query and key heads [2, head_dim] or null, and its pages
// [num_pages, num_kv, page_size, head_dim], with page_stride elements from one to the next. Activations, norms and
// pages hold the type of S1Decoder.
struct S1Layer {
  const void* input_norm;
  const S1Weight* qkv;
  const void* qk_norm;
  const S1Weight* output;
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

// The tokens of one step: `decodes` rows of one token each, then `chunks` rows of several; tables and lengths in that
// order.
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

// MachineTables of kernels/thinking_tables.py; strides are the tables' last dimensions. No marks: no text.
struct S1Machine {
  int32_t *state, *params, *strings, *trigger_last, *trigger_lead, *stop_ids, *history, *eos_ids;
  const uint8_t* traits;
  const int16_t* next;
  int32_t* marks;
  int64_t string_len, triggers, stops, history_len, eos, vocab;
};

// Columns and values of the tables; each namespace is the enumeration of that name in kernels/.
namespace State {
enum : int32_t {
  PHASE = 0, FINISH = 1, STOP_REASON = 2, LENGTH = 3, COMMITTED = 4, THINKING = 5, EXTENSIONS_LEFT = 6,
  EXTENSIONS_USED = 7, FORCED = 8, FORCED_POS = 9, MASK_NEXT = 10, NEWLINE = 11, MATCH_FROM = 12, CLOSED = 13,
  ANSWERED = 14, LOOP_RUN = 15, END_REQUESTED = 16, COUNT = 17
};
}
namespace Param {
enum : int32_t {
  BUDGET = 0, MIN_THINKING = 1, GRACE = 2, TRUNCATE = 3, EOS_STOPS = 4, IGNORE_EOS = 5, MAX_TOKENS = 6, MAX_CONTEXT =
  7, RESERVE = 8, LOOP_NGRAM = 9, LOOP_RUN = 10, EXTENSION_LEN = 11, END_LEN = 12, BUDGET_END_LEN = 13, BUDGET_END_AT
  = 14, OPENER_LEN = 15, NEWLINE_ID = 16, MIN_ANSWER = 17, MIN_TOKENS = 18, ANSWER_AT = 19, TEXT_ROW = 20, OPENER_ROW
  = 21, COUNT = 22
};
}
namespace Phase {
enum : int32_t {
  PLAIN = 0, THINK = 1, CLOSING = 2, ANSWER = 3, COUNT = 4
};
}
namespace Text {
enum : int32_t {
  EXTENSION = 0, END = 1, BUDGET_END = 2, OPENER = 3, COUNT = 4
};
}
namespace Finish {
enum : int32_t {
  RUNNING = 0, STOP = 1, LENGTH = 2, ERROR = 3, COUNT = 4
};
}
namespace Stop {
enum : int32_t {
  NONE = 0, NATURAL = 1, EOS = 2, BUDGET = 3, MAX_TOKENS = 4, CONTEXT = 5, TRUNCATED = 6, LOOP = 7, CLIENT = 8, COUNT
  = 9
};
}
namespace Record {
enum : int32_t {
  TOKEN = 0, KIND = 1, FORCED = 2, FINISH = 3, STOP_REASON = 4, THINKING = 5, EXTENSIONS_USED = 6, TAKEN = 7, HELD =
  8, COUNT = 9
};
}
namespace Kind {
enum : int32_t {
  PLAIN = 0, OPENER = 1, REASONING = 2, DELIMITER = 3, ANSWER = 4, COUNT = 5
};
}
namespace Trait {
enum : int32_t {
  ENDS_LINE = 1, BLANK = 2, COUNT = 2
};
}
namespace Real {
enum : int32_t {
  TEMPERATURE = 0, TOP_P = 1, MIN_P = 2, REPETITION = 3, PRESENCE = 4, FREQUENCY = 5, COUNT = 6
};
}
namespace Whole {
enum : int32_t {
  TOP_K = 0, SEED_LOW = 1, SEED_HIGH = 2, SAMPLE = 3, COUNT = 4
};
}

#define S1_CONCAT_(a, b, c) a##b##c
#define S1_CONCAT(a, b, c) S1_CONCAT_(a, b, c)
#define S1_EXPORT(name) extern "C" __attribute__((visibility("default"))) name
// s1_<level>_<operator>
#define S1_OP(op) S1_EXPORT(void S1_CONCAT(s1_, S1_LEVEL, _##op))

#ifdef S1_LEVEL
S1_OP(pack)(const S1Weight* w, const void* from, int32_t threads);
S1_OP(linear)(const S1Weight* w, const void* x, const void* residual, void* y, int64_t n, int32_t type, int32_t epilogue,
            int32_t threads);
S1_OP(rms_norm)(const void* x, const void* residual, const void* weight, void* y, void* sum, int64_t n, int64_t hidden,
              float eps, int32_t type, int32_t threads);
S1_OP(rope_append)(const void* qkv, const float* cos_sin, const int64_t* positions, const int64_t* slots, void* q,
                 void* k_cache, void* v_cache, int64_t n, int64_t num_q, int64_t num_kv, int64_t head_dim,
                 int64_t page_size, int64_t page_stride, const void* qk_norm, float eps, int32_t type,
                 int32_t threads);
S1_OP(attention)(const void* q, const void* k_cache, const void* v_cache, const int32_t* block_tables,
               const int32_t* context_lens, const int32_t* cu_q, void* out, int64_t rows, int64_t pages, int64_t num_q,
               int64_t num_kv, int64_t head_dim, int64_t page_size, int64_t page_stride, float scale, int32_t type,
               int32_t threads);
S1_OP(silu_mul)(const void* x, void* y, int64_t n, int64_t features, int32_t type, int32_t threads);
S1_OP(embedding)(const int64_t* ids, const void* weight, void* y, int64_t n, int64_t rows, int64_t width, int64_t start);
S1_OP(embedding_of_panels)(const int64_t* ids, const S1Weight* w, void* y, int64_t n, int64_t start);
S1_OP(decode_inputs)(const int64_t* inputs, int64_t stride, const int32_t* state, const int32_t* history,
                   int64_t history_len, int32_t* blocks, int64_t blocks_len, int64_t page_size, int64_t width,
                   int64_t* rows, int32_t* tables, int32_t* lens, int64_t n);
S1_OP(decoder)(const S1Decoder* model, const S1Tokens* in, int32_t threads);
S1_OP(sample)(const S1Machine* tables, float* logits, const int64_t* slots, const float* real, const int32_t* whole,
            int64_t* draw, int64_t* masked, uint8_t* bad, int64_t rows, int64_t columns, int64_t vocab,
            int32_t filters, int32_t wants_masked, int32_t threads);
S1_OP(thinking_step)(const S1Machine* tables, const int64_t* slots, const int64_t* draw, const int64_t* masked,
                   const uint8_t* bad, int32_t* records, int64_t rows);
S1_OP(read)(const void* p, int64_t bytes, float* total, int32_t threads);
#endif
