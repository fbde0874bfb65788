// Reads memory and does next to nothing with it: the bandwidth that the other operators are measured against.
#include "operators.h"

// p [bytes], a multiple of 4 -> *total, a sum that keeps the reads from being optimised away.
S1_OP(read)(const void* p, int64_t bytes, float* total, int32_t threads) {
  using namespace S1_LEVEL;
  const float* data = (const float*)p;
  const int64_t count = bytes / 4;
  constexpr int64_t BLOCK = 8 * W, AHEAD = 512;
  float* sums = (float*)scratch(SHARED, sizeof(float) * 64 * threads);
  for (int i = 0; i < threads; ++i) sums[64 * i] = 0;
  parallel(threads, [&](int id, int team) {
    const Range part = share(count / BLOCK, id, team);
    F acc[8] = {zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()};
    for (int64_t i = part.begin; i < part.end; ++i) {
      const float* block = data + i * BLOCK;
#pragma GCC unroll 8
      for (int line = 0; line < BLOCK; line += 16) __builtin_prefetch(block + AHEAD + line);
#pragma GCC unroll 8
      for (int v = 0; v < 8; ++v) acc[v] = add(acc[v], load(block + v * W));
    }
    F all = acc[0];
    for (int v = 1; v < 8; ++v) all = add(all, acc[v]);
    sums[64 * id] = sum(all);
  });
  *total = 0;
  for (int i = 0; i < threads; ++i) *total += sums[64 * i];
}
