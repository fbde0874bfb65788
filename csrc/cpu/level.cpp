// What this processor runs: the instruction sets the library was compiled for, best last.
#include "abi.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

S1_EXPORT(uint64_t s1_interface)() { return S1_INTERFACE; }

// 0 portable, 1 avx2, 2 avx512, 3 avx512_bf16: the best level whose instructions processor and system both have.
S1_EXPORT(int32_t s1_level)() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return 1;
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;
  return bf16 && __builtin_cpu_supports("avx512vbmi") ? 3 : 2;
#else
  return 0;
#endif
}
