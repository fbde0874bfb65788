// Work shared among threads: OpenMP's pool, which is torch's own, or one thread where OpenMP is missing.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "simd.h"

namespace S1_LEVEL {

struct Range {
  int64_t begin, end;
};

// Thread `id`'s share of `count` items: contiguous, sizes differ by at most one.
S1_INLINE Range share(int64_t count, int id, int threads) {
  return {count * id / threads, count * (id + 1) / threads};
}

// Calls work(id, threads) on each thread. What is computed must not depend on the number of threads.
template <class Work>
static inline void parallel(int threads, const Work& work) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#else
  (void)threads;
#endif
  work(0, 1);
}

static inline void barrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

}  // namespace S1_LEVEL
