// Per-thread scratch that outlives a call, so that no call allocates once the largest has been seen.
#include <stdlib.h>

#include "operators.h"

namespace S1_LEVEL {

struct Buffers {
  void* data[SLOTS] = {};
  size_t bytes[SLOTS] = {};
  ~Buffers() {
    for (void* p : data) free(p);
  }
};

static thread_local Buffers buffers;

void* scratch(Slot slot, size_t bytes) {
  if (buffers.bytes[slot] < bytes) {
    free(buffers.data[slot]);
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    buffers.data[slot] = aligned_alloc(64, rounded);
    if (!buffers.data[slot]) abort();  // a C interface under a running step has no way to go on without memory
    buffers.bytes[slot] = rounded;
  }
  return buffers.data[slot];
}

}  // namespace S1_LEVEL
