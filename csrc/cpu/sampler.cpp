// Draws from rows of logits. Twin of kernels/sampler.py: the same filters as thresholds, the same noise from the same hash.
#include <cstring>

#include "machine.h"
#include "operators.h"

namespace S1_LEVEL {
namespace {

constexpr float NEVER = -__builtin_inff();

// First index of the largest value of x[0..n); `bad` where a value is NaN or none is above -inf.
int64_t argmax(const float* x, int64_t n, bool* bad) {
  constexpr int LANES = 32;
  float best[LANES];
  uint32_t nan[LANES];
  for (int j = 0; j < LANES; ++j) best[j] = NEVER, nan[j] = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) {
      const float v = x[i + j];
      best[j] = v > best[j] ? v : best[j];
      nan[j] |= v != v;
    }
  float top = NEVER;
  uint32_t any = 0;
  for (; i < n; ++i) {
    top = x[i] > top ? x[i] : top;
    any |= x[i] != x[i];
  }
  for (int j = 0; j < LANES; ++j) {
    top = best[j] > top ? best[j] : top;
    any |= nan[j];
  }
  *bad = any || top == NEVER;
  if (*bad) return 0;
  int64_t at = 0;
  while (x[at] != top) ++at;
  return at;
}

constexpr int BLOCK = 64;            // tokens whose noise is made together
constexpr float MOST_NOISE = 16.7f;  // above -log(-log(1 - 2^-24)), the largest there is
constexpr uint32_t GOLDEN = 0x9E3779B9u;

inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x21F0AAADu;
  x = (x ^ x >> 15) * 0x735A2D97u;
  return x ^ x >> 15;
}

// log of positive, normal floats, one after the other (Cephes' logf): about one unit in the last place, near 1 too.
inline void log_block(float* x) {
  for (int i = 0; i < BLOCK; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const uint32_t above = bits - 0x3f3504f3u;  // sqrt(1/2): mantissas are taken from there to sqrt(2)
    const float e = float(int32_t(above) >> 23);
    bits = (above & 0x007fffffu) + 0x3f3504f3u;
    float m;
    std::memcpy(&m, &bits, 4);
    m -= 1.0f;
    const float square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    x[i] = (m + (p * m * square - 2.12194440e-4f * e - 0.5f * square)) + 0.693359375f * e;
  }
}

struct Noise {
  uint32_t first, second;

  Noise(const int32_t* whole, int32_t position) {
    first = mix(uint32_t(whole[Whole::SEED_LOW]) ^ mix(uint32_t(position) * GOLDEN + uint32_t(whole[Whole::SAMPLE])));
    second = mix(uint32_t(whole[Whole::SEED_HIGH]) ^ mix(first + uint32_t(position)));
  }

  // Gumbel noise of tokens id .. id + BLOCK - 1.
  void block(uint32_t id, float* g) const {
    for (int i = 0; i < BLOCK; ++i) {
      const uint32_t bits = mix(mix((id + i) * GOLDEN + first) ^ second) >> 9;
      g[i] = (float(int32_t(bits)) + 0.5f) * 0x1p-23f;
    }
    log_block(g);
    for (int i = 0; i < BLOCK; ++i) g[i] = -g[i];
    log_block(g);
    for (int i = 0; i < BLOCK; ++i) g[i] = -g[i];
  }
};

// First index of the largest z + noise. A block that could not reach the best so far even with the most noise is left out.
int64_t noisy_argmax(const float* z, int64_t n, const Noise& noise) {
  float best = NEVER;
  int64_t at = 0;
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int count = int(n - first < BLOCK ? n - first : BLOCK);
    float values[BLOCK], g[BLOCK], top = NEVER;
    for (int i = 0; i < BLOCK; ++i) values[i] = NEVER;
    std::memcpy(values, z + first, count * sizeof(float));
    for (int i = 0; i < BLOCK; ++i) top = values[i] > top ? values[i] : top;
    if (top == NEVER || top + MOST_NOISE <= best) continue;
    noise.block(uint32_t(first), g);
    for (int i = 0; i < count; ++i)
      if (values[i] + g[i] > best) best = values[i] + g[i], at = first + i;
  }
  return at;
}

// float32 -> uint32 in the same order; -0 and 0 are one.
inline uint32_t ordered(float x) {
  uint32_t bits;
  x += 0.0f;
  std::memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The largest value t among `x` for which the values of t and more weigh at least `target`; the least value where even all
// of them do not. Weights are 1, or the values themselves. Found digit by digit, from the top.
float threshold(const float* x, int64_t n, double target, bool weigh) {
  uint32_t prefix = 0;
  double above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    double mass[256] = {};
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t key = ordered(x[i]);
      if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) mass[key >> shift & 255] += weigh ? x[i] : 1.0;
    }
    int digit = 255, least = 255;
    while (least > 0 && mass[least] == 0) --least;
    for (digit = least; digit > 0 && above + mass[digit] < target;) {
      above += mass[digit--];
      while (digit > 0 && mass[digit] == 0) --digit;
    }
    prefix |= uint32_t(digit) << shift;
  }
  const uint32_t bits = prefix & 0x80000000u ? prefix & 0x7fffffffu : ~prefix;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// z with -inf outside top-k, then top-p of what that left, then min-p. `p` is room for n floats.
void filter(float* z, float* p, int64_t n, float highest, const float* real, const int32_t* whole) {
  const auto keep = [&](const float* values, float least) {
    for (int64_t i = 0; i < n; ++i) z[i] = values[i] < least ? NEVER : z[i];
  };
  if (whole[Whole::TOP_K] > 0 && whole[Whole::TOP_K] < n) keep(z, threshold(z, n, whole[Whole::TOP_K], false));
  const bool nucleus = real[Real::TOP_P] < 1;
  if (!nucleus && !(real[Real::MIN_P] > 0)) return;
  const F base = set1(highest);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(p + i, exp(sub(load(z + i), base)));
  for (; i < n; ++i) p[i] = exp1(z[i] - highest);
  if (nucleus) {
    double total = 0;
    for (i = 0; i < n; ++i) total += p[i];
    keep(p, threshold(p, n, double(real[Real::TOP_P]) * total, true));
  }
  if (real[Real::MIN_P] > 0) keep(p, real[Real::MIN_P]);  // the largest p is 1
}

// One row on its way to a draw and a masked draw.
struct Row {
  const S1Machine& m;
  const int32_t *s, *p, *last;
  float* x;
  int64_t vocab;

  void never(int32_t id) const {
    if (id >= 0 && id < vocab) x[id] = NEVER;
  }

  void ban_eos() const {
    const bool answers =
        s[State::PHASE] == Phase::ANSWER && s[State::CLOSED] && s[State::ANSWERED] < p[Param::MIN_ANSWER];
    if ((answers || s[State::COMMITTED] < p[Param::MIN_TOKENS]) && !p[Param::IGNORE_EOS])
      for (int64_t j = 0; j < m.eos; ++j) never(m.eos_ids[j]);
  }

  bool excluded(int64_t draw) const {
    return contains(last, m.triggers, int32_t(draw)) || contains(m.eos_ids, m.eos, int32_t(draw));
  }

  void exclude() const {
    for (int64_t j = 0; j < m.triggers; ++j) never(last[j]);
    for (int64_t j = 0; j < m.eos; ++j) never(m.eos_ids[j]);
  }
};

// A draw from x [n], whose argmax is `top`.
int64_t pick(const float* x, int64_t n, int64_t top, const float* real, const int32_t* whole, const Noise& noise,
             bool filters) {
  const float temperature = real[Real::TEMPERATURE];
  if (!(temperature > 0)) return top;
  float* z = (float*)scratch(WIDE, 2 * n * sizeof(float));
  for (int64_t i = 0; i < n; ++i) z[i] = x[i] / temperature;
  if (filters) filter(z, z + n, n, z[top], real, whole);
  return noisy_argmax(z, n, noise);
}

}  // namespace
}  // namespace S1_LEVEL

// Draws from logits [rows, columns] float32 (overwritten where a draw is excluded); columns from `vocab` on are padding.
// real [slots, Real::COUNT] float32 and whole [slots, Whole::COUNT] int32 are SamplingTables; real null: greedy. slots,
// draw, masked [rows] int64, bad [rows] bool.
S1_OP(sample)
(const S1Machine* tables, float* logits, const int64_t* slots, const float* real, const int32_t* whole, int64_t* draw,
 int64_t* masked, uint8_t* bad, int64_t rows, int64_t columns, int64_t vocab, int32_t filters, int32_t wants_masked,
 int32_t threads) {
  using namespace S1_LEVEL;
  const S1Machine& m = *tables;
  const auto one = [&](int64_t i) {
    const int64_t slot = slots[i];
    const Row row{m, m.state + slot * State::COUNT, m.params + slot * Param::COUNT, m.trigger_last + slot * m.triggers,
                  logits + i * columns, vocab};
    row.ban_eos();
    bool failed;
    const int64_t top = argmax(row.x, vocab, &failed);
    draw[i] = masked[i] = top;
    bad[i] = failed;
    if (failed) return;
    const float* r = real ? real + slot * Real::COUNT : nullptr;
    const bool draws = r && r[Real::TEMPERATURE] > 0;
    const int32_t* w = whole + slot * Whole::COUNT;
    if (draws) draw[i] = masked[i] = pick(row.x, vocab, top, r, w, Noise(w, row.s[State::LENGTH]), filters);
    // Without filters the masked draw is another one only where the free one is excluded; they look at what is left.
    const bool filtered = draws && filters && (w[Whole::TOP_K] > 0 || r[Real::TOP_P] < 1 || r[Real::MIN_P] > 0);
    if (!wants_masked || (!filtered && !row.excluded(draw[i]))) return;
    row.exclude();
    const int64_t second = argmax(row.x, vocab, &failed);
    if (failed) return;
    masked[i] = draws ? pick(row.x, vocab, second, r, w, Noise(w, row.s[State::LENGTH]), filters) : second;
  };
  parallel(rows * vocab < 65536 ? 1 : threads, [&](int id, int count) {
    const Range part = share(rows, id, count);
    for (int64_t i = part.begin; i < part.end; ++i) one(i);
  });
}
