// What the sampler and the thinking machine share. Their tables and columns: abi.h.
#pragma once

#include <cstdint>

#include "abi.h"
#include "simd.h"

namespace S1_LEVEL {

inline bool contains(const int32_t* ids, int64_t count, int32_t id) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] == id) return true;
  return false;
}

}  // namespace S1_LEVEL
