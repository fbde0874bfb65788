// 2 MiB pages for what is read front to back, or all over, once a step: weights and the KV cache. A walk of the page table
// for every 4 KiB costs a third of the time of attention over scattered pages.
#include "abi.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

void s1_huge_pages(void* p, int64_t bytes) {
#if defined(__linux__)
  const uintptr_t huge = uintptr_t(1) << 21, start = ((uintptr_t)p + huge - 1) / huge * huge;
  const uintptr_t end = ((uintptr_t)p + bytes) / huge * huge;
  if (start < end) madvise((void*)start, end - start, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}
