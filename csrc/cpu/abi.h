// The C interface that kernels/native.py binds with ctypes: every operator once per instruction set, as
// s1_<level>_<operator>. Pointers are raw, sizes are in elements, `type` fields say what a pointer holds.
// Callers have checked shapes; nothing here allocates except scratch that grows to the largest call seen.
#pragma once

#include <cstdint>

// Bumped with every change of this file; kernels/native.py refuses a library that answers another number.
#define S1_ABI 2

enum S1Type : int32_t { S1_FLOAT32 = 0, S1_BFLOAT16 = 1, S1_INT8 = 2 };

// A weight [rows, cols] packed by s1_<level>_pack: panels of 32 rows, columns innermost but one, see linear.cpp.
struct S1Weight {
  void* data;          // panels, of `type`
  const float* bias;   // [panels * 32] or null
  const float* scale;  // [panels * 32], int8 only
  int64_t rows, cols;
  int32_t type;
};

#define S1_CONCAT_(a, b, c) a##b##c
#define S1_CONCAT(a, b, c) S1_CONCAT_(a, b, c)
#define S1_EXPORT(name) extern "C" __attribute__((visibility("default"))) name
// s1_<level>_<operator>
#define S1_OP(op) S1_EXPORT(void S1_CONCAT(s1_, S1_LEVEL, _##op))
