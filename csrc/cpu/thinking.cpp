// One transition of the thinking machine per row. Twin of kernels/thinking.py; the table and its row numbers are explained
// there.
#include <cstring>

#include "abi.h"
#include "machine.h"

namespace S1_LEVEL {
namespace {

using namespace machine;

enum Record { TOKEN, KIND, WAS_FORCED, FINISHED, REASON, T, USED, RECORD };
enum Text { EXTENSION, END, BUDGET_END, OPENER, TEXTS };
enum Finish { RUNNING, STOP, FULL, ERROR };
enum Stop { NONE, NATURAL, BY_EOS, BY_BUDGET, BY_MAX_TOKENS, BY_CONTEXT, TRUNCATED, LOOP, CLIENT };
enum Kind { K_PLAIN, K_OPENER, K_REASONING, K_DELIMITER, K_ANSWER };

struct Row {
  int32_t *s, *history;
  const int32_t *p, *strings, *last, *lead, *stops;
  const Machine& m;
  int32_t token = -1, kind = K_PLAIN;
  bool forced = false;

  Row(const Machine& m, int64_t slot)
      : s(m.state + slot * STATE), history(m.history + slot * m.history_len), p(m.params + slot * PARAMS),
        strings(m.strings + slot * TEXTS * m.string_len), last(m.trigger_last + slot * m.triggers),
        lead(m.trigger_lead + slot * m.triggers), stops(m.stop_ids + slot * m.stops), m(m) {}

  const int32_t* text(int which) const { return strings + which * m.string_len; }
  int32_t size(int which) const {
    return which == EXTENSION ? p[EXTENSION_LEN] : which == END ? p[END_LEN] : p[BUDGET_END_LEN];
  }
  int32_t cap() const { return p[MAX_TOKENS] < p[MAX_CONTEXT] ? p[MAX_TOKENS] : p[MAX_CONTEXT]; }
  bool stands(const int32_t* pattern, int32_t count) const {
    const int32_t start = s[LENGTH] - count;
    return start >= s[MATCH_FROM] && std::memcmp(history + start, pattern, count * sizeof(int32_t)) == 0;
  }

  void commit(int32_t id, int32_t what, bool by_engine) {
    const int32_t before = s[LENGTH] - p[LOOP_NGRAM];
    const bool same = s[PHASE] == THINK && what != K_OPENER && p[LOOP_NGRAM] > 0 && before >= s[MATCH_FROM] &&
                      history[before] == id;
    s[LOOP_RUN] = same ? s[LOOP_RUN] + 1 : 0;
    history[s[LENGTH]++] = id;
    s[COMMITTED]++;
    s[NEWLINE] = m.ends_line[id];
    if (s[FINISH] == RUNNING && s[COMMITTED] >= cap()) {
      s[FINISH] = FULL;
      if (s[PHASE] == THINK) s[STOP_REASON] = TRUNCATED;
    }
    token = id, kind = what, forced = by_engine;
  }

  void think(int32_t id) {
    s[THINKING]++;
    s[MASK_NEXT] = 0;
    commit(id, K_REASONING, false);
  }

  // Token `at` of a forced string; not forced where the draw happens to be it (draw -1: it is under way already).
  void write(int which, int32_t at, int32_t draw) {
    const int32_t id = text(which)[at];
    const bool over = at + 1 == size(which);
    int32_t what = which == EXTENSION ? K_REASONING : K_DELIMITER;
    if (which == BUDGET_END && at < p[BUDGET_END_AT]) what = K_REASONING;
    if (which == BUDGET_END && at >= p[BUDGET_END_AT] + p[END_LEN]) what = K_ANSWER;
    s[FORCED] = over ? 0 : which + 1;
    s[FORCED_POS] = over ? 0 : at + 1;
    if (which == EXTENSION) {
      s[THINKING]++;
      if (over) s[MASK_NEXT] = 1;
    } else {
      s[PHASE] = over ? ANSWER : CLOSING;
      if (over) s[CLOSED] = 1;
    }
    commit(id, what, id != draw);
  }

  void speak(int32_t draw, bool eos) {
    if (s[CLOSED]) s[ANSWERED]++;
    if (eos || (draw >= 0 && contains(stops, m.stops, draw) && s[COMMITTED] >= p[MIN_TOKENS])) s[FINISH] = STOP;
    const int32_t size = p[OPENER_LEN];
    const bool opens = s[PHASE] == PLAIN && size > 0 && cap() - s[COMMITTED] - 1 >= p[RESERVE] &&
                       draw == text(OPENER)[size - 1] && stands(text(OPENER), size - 1);
    if (opens) {
      s[PHASE] = THINK;
      s[MATCH_FROM] = s[LENGTH] + 1;
      commit(draw, K_OPENER, false);
    } else {
      commit(draw, s[PHASE] == ANSWER ? K_ANSWER : K_PLAIN, false);
    }
  }

  void step(int32_t draw, int32_t masked, bool bad) {
    if (s[FINISH] != RUNNING) return;
    if (s[FORCED] > 0) return write(s[FORCED] - 1, s[FORCED_POS], -1);  // 1
    if (bad) {
      s[FINISH] = ERROR;
      return;
    }
    const bool eos = contains(m.eos_ids, m.eos, draw) && !p[IGNORE_EOS];
    if (s[PHASE] != THINK) return speak(draw, eos);  // 2
    const int32_t room = cap() - s[COMMITTED];
    const bool over_budget = s[THINKING] >= p[BUDGET], over_room = room <= p[RESERVE];
    const bool asked = s[END_REQUESTED] || s[LOOP_RUN] >= p[LOOP_LIMIT];
    const bool limit = over_budget || over_room || asked;
    bool completed = false;
    int32_t lead_done = 0, half = 0;
    for (int64_t i = 0; i < m.triggers; ++i) {
      if (last[i] < 0) continue;
      for (int32_t k = half + 1; k <= lead[i]; ++k)
        if (stands(text(END), k)) half = k;
      if (draw == last[i] && stands(text(END), lead[i])) {
        completed = true;
        if (lead[i] > lead_done) lead_done = lead[i];
      }
    }
    const int32_t done = completed ? lead_done : half;  // tokens of `end` that stand already
    const bool trigger = completed || (eos && !p[EOS_STOPS]);
    const bool closes = !p[TRUNCATE] || room >= p[END_LEN] - done;
    const int32_t extension = p[EXTENSION_LEN];
    if (!limit && (s[THINKING] < p[MIN_THINKING] || s[MASK_NEXT])) return think(masked);  // 3
    if (eos && p[EOS_STOPS]) {  // 4
      s[FINISH] = STOP;
      s[STOP_REASON] = BY_EOS;
      return commit(draw, K_REASONING, false);
    }
    const bool fits = s[THINKING] < p[BUDGET] - extension && room > p[RESERVE] + extension;
    if (trigger && !limit && s[EXTENSIONS_LEFT] > 0 && fits) {  // 5
      s[EXTENSIONS_LEFT]--;
      s[EXTENSIONS_USED]++;
      return extension ? write(EXTENSION, 0, -1) : think(masked);
    }
    if (trigger && closes) {  // 6
      s[STOP_REASON] = completed ? NATURAL : BY_EOS;
      s[THINKING] -= done;
      return write(END, done, draw);
    }
    if (trigger || (limit && p[TRUNCATE])) {  // 7
      s[FINISH] = FULL;
      s[STOP_REASON] = TRUNCATED;
      kind = K_REASONING;
      return;
    }
    const bool grace = s[THINKING] - p[GRACE] < p[BUDGET] && !s[NEWLINE];
    if (limit && !over_room && !asked && grace) return think(draw);  // 8
    if (!limit) return think(draw);                                 // 10
    const bool short_of_tokens = p[MAX_TOKENS] - s[COMMITTED] <= p[RESERVE];
    s[STOP_REASON] = s[END_REQUESTED] ? CLIENT
                     : over_budget    ? BY_BUDGET
                     : over_room      ? (short_of_tokens ? BY_MAX_TOKENS : BY_CONTEXT)
                                      : LOOP;
    if (half) {  // 9, half a trigger becomes `end`
      s[THINKING] -= half;
      return write(END, half, -1);
    }
    if (s[NEWLINE]) return write(BUDGET_END, 0, -1);
    s[PHASE] = CLOSING;
    s[FORCED] = BUDGET_END + 1;
    s[FORCED_POS] = 0;
    commit(p[NEWLINE_ID], K_DELIMITER, true);
  }
};

}  // namespace
}  // namespace S1_LEVEL

// `tables`: 9 pointers and 5 sizes of MachineTables, in the order of S1_LEVEL::Machine. slots, draw, masked [rows]
// int64, bad [rows] bool; records [rows, 7] int32.
S1_OP(thinking_step)
(const void* tables, const int64_t* slots, const int64_t* draw, const int64_t* masked, const uint8_t* bad,
 int32_t* records, int64_t rows) {
  using namespace S1_LEVEL;
  const Machine& m = *(const Machine*)tables;
  for (int64_t i = 0; i < rows; ++i) {
    Row row(m, slots[i]);
    row.step(int32_t(draw[i]), int32_t(masked[i]), bad[i]);
    int32_t* r = records + i * RECORD;
    r[TOKEN] = row.token, r[KIND] = row.kind, r[WAS_FORCED] = row.forced, r[FINISHED] = row.s[FINISH];
    r[REASON] = row.s[STOP_REASON], r[T] = row.s[THINKING], r[USED] = row.s[EXTENSIONS_USED];
  }
}
