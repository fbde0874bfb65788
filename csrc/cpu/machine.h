// The thinking machine's tables, as kernels/thinking_tables.py lays them out: read by the sampler, moved by the machine.
#pragma once

#include <cstdint>

#include "simd.h"

namespace S1_LEVEL {

// Columns of the tables' state and parameters, and what a phase may be.
namespace machine {

enum State { PHASE, FINISH, STOP_REASON, LENGTH, COMMITTED, THINKING, EXTENSIONS_LEFT, EXTENSIONS_USED, FORCED,
             FORCED_POS, MASK_NEXT, NEWLINE, MATCH_FROM, CLOSED, ANSWERED, LOOP_RUN, END_REQUESTED, STATE };
enum Param { BUDGET, MIN_THINKING, GRACE, TRUNCATE, EOS_STOPS, IGNORE_EOS, MAX_TOKENS, MAX_CONTEXT, RESERVE, LOOP_NGRAM,
             LOOP_LIMIT, EXTENSION_LEN, END_LEN, BUDGET_END_LEN, BUDGET_END_AT, OPENER_LEN, NEWLINE_ID, MIN_ANSWER,
             MIN_TOKENS, PARAMS };
enum Phase { PLAIN, THINK, CLOSING, ANSWER };

}  // namespace machine

// MachineTables; the strides are the tables' second dimensions.
struct Machine {
  int32_t *state, *params, *strings, *trigger_last, *trigger_lead, *stop_ids, *history, *eos_ids;
  const uint8_t* ends_line;
  int64_t string_len, triggers, stops, history_len, eos;
};

inline bool contains(const int32_t* ids, int64_t count, int32_t id) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] == id) return true;
  return false;
}

}  // namespace S1_LEVEL
