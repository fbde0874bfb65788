// A decode step's rows from the tables of running sequences: a dozen indexing operators in one call. Twin of
// kernels/decode_inputs.py.
#include "abi.h"
#include "machine.h"

// inputs [3, n] with `stride` between its rows: slots, places in `blocks`, pages. state and history by slot; blocks
// [S, blocks_len]. -> ids, positions and where keys go, [3, n]; tables [n, width]; lens [n].
S1_OP(decode_inputs)
(const int64_t* inputs, int64_t stride, const int32_t* state, const int32_t* history, int64_t history_len,
 int32_t* blocks, int64_t blocks_len, int64_t page_size, int64_t width, int64_t* rows, int32_t* tables, int32_t* lens,
 int64_t n) {
  const int64_t *slots = inputs, *places = inputs + stride, *pages = inputs + 2 * stride;
  for (int64_t i = 0; i < n; ++i) blocks[places[i]] = int32_t(pages[i]);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t* own = blocks + slots[i] * blocks_len;
    const int64_t last = state[slots[i] * State::COUNT + State::LENGTH] - 1;
    rows[i] = history[slots[i] * history_len + last];
    rows[n + i] = last;
    rows[2 * n + i] = int64_t(own[last / page_size]) * page_size + last % page_size;
    __builtin_memcpy(tables + i * width, own, sizeof(int32_t) * width);
    lens[i] = int32_t(last + 1);
  }
}
