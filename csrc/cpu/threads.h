// Work shared among threads: OpenMP's pool, which is torch's own, or one thread where OpenMP is missing.
#pragma once

#include <atomic>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#endif

#include "simd.h"

namespace S1_LEVEL {

struct Range {
  int64_t begin, end;
};

constexpr int SPINS = 2000;  // some tens of microseconds

S1_INLINE void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Thread `id`'s share of `count` items: contiguous, sizes differ by at most one.
S1_INLINE Range share(int64_t count, int id, int threads) {
  return {count * id / threads, count * (id + 1) / threads};
}

// The threads of one call and where they wait for each other. OpenMP's own barrier puts threads to sleep as soon as the
// process has more of them than the machine has cores, which every caller with a thread of its own does; at nine barriers
// a layer, waking took longer than the work (7 ms of a 9 ms step on two cores). This one spins, and yields when it lasts.
struct Team {
  alignas(64) std::atomic<int> waiting{0};
  alignas(64) std::atomic<int> round{0};
};

inline thread_local Team* team = nullptr;  // null: a thread on its own
inline thread_local int members = 1;

// Calls work(id, threads) on each thread. What is computed must not depend on the number of threads.
template <class Work>
static inline void parallel(int threads, const Work& work) {
#ifdef _OPENMP
  if (threads > 1) {
    Team shared;
#pragma omp parallel num_threads(threads)
    {
      team = &shared;
      members = omp_get_num_threads();
      work(omp_get_thread_num(), members);
      team = nullptr;
    }
    return;
  }
#else
  (void)threads;
#endif
  work(0, 1);
}

// Every thread of the call has come here, and sees what the others wrote before.
static inline void barrier() {
#ifdef _OPENMP
  Team* const all = team;
  if (!all || members == 1) return;
  const int round = all->round.load(std::memory_order_relaxed);
  if (all->waiting.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
    all->waiting.store(0, std::memory_order_relaxed);
    all->round.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; all->round.load(std::memory_order_acquire) == round; ++spins) {
    if (spins < SPINS)
      pause();
    else
      sched_yield();
  }
#endif
}

}  // namespace S1_LEVEL
