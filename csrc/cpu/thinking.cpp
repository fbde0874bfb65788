// One transition of the thinking machine per row. Twin of kernels/thinking.py; the table and its row numbers are explained
// there.
#include <cstring>

#include "abi.h"
#include "machine.h"

namespace S1_LEVEL {
namespace {

// Of kernels/thinking_tables.py.
constexpr int32_t HIT_INSIDE = -2, HELD_SHIFT = 8;

struct Row {
  int32_t *s, *history;
  const int32_t *p, *strings, *last, *lead, *stops;
  const S1Machine& m;
  int32_t *const marks;
  int32_t token = -1, kind = Kind::PLAIN, taken = 0, held = 0;
  bool forced = false;

  Row(const S1Machine& m, int64_t slot)
      : s(m.state + slot * State::COUNT), history(m.history + slot * m.history_len), p(m.params + slot * Param::COUNT),
        strings(m.strings + slot * Text::COUNT * m.string_len), last(m.trigger_last + slot * m.triggers),
        lead(m.trigger_lead + slot * m.triggers), stops(m.stop_ids + slot * m.stops), m(m),
        marks(m.marks ? m.marks + slot * m.history_len : nullptr) {}

  const int32_t* text(int which) const { return strings + which * m.string_len; }
  int32_t size(int which) const {
    return which == Text::EXTENSION ? p[Param::EXTENSION_LEN]
           : which == Text::END     ? p[Param::END_LEN]
                                    : p[Param::BUDGET_END_LEN];
  }
  int32_t cap() const {
    return p[Param::MAX_TOKENS] < p[Param::MAX_CONTEXT] ? p[Param::MAX_TOKENS] : p[Param::MAX_CONTEXT];
  }
  bool stands(const int32_t* pattern, int32_t count) const {
    const int32_t start = s[State::LENGTH] - count;
    return start >= s[State::MATCH_FROM] && std::memcmp(history + start, pattern, count * sizeof(int32_t)) == 0;
  }

  // What a token makes of the match of plain text that is `under_way` in this phase; 0 where there is none.
  int32_t next(int32_t id, int32_t under_way) const {
    const int32_t phase = s[State::PHASE];
    const int32_t row = phase == Phase::THINK ? p[Param::TEXT_ROW] : phase == Phase::PLAIN ? p[Param::OPENER_ROW] : -1;
    return marks && row >= 0 ? m.next[(row + under_way) * m.vocab + id] : 0;
  }
  bool by_text() const { return marks && p[Param::TEXT_ROW] >= 0; }
  int32_t mark() const { return marks ? marks[s[State::LENGTH] - 1] : 0; }

  // The last tokens are no longer there; the cache is overwritten by position.
  void take_back(int32_t count) {
    if (!count) return;
    s[State::LENGTH] -= count;
    s[State::COMMITTED] -= count;
    s[State::THINKING] -= count;
    s[State::LOOP_RUN] = 0;
    s[State::NEWLINE] = m.traits[history[s[State::LENGTH] - 1]] & Trait::ENDS_LINE;
    taken = count;
  }

  void commit(int32_t id, int32_t what, bool by_engine) {
    if (marks) {
      const int32_t before = what == Kind::OPENER ? 0 : mark(), value = next(id, before & ((1 << HELD_SHIFT) - 1));
      const bool holds = value > 1 && what != Kind::OPENER && !by_engine;
      const int32_t touched = !holds ? 0 : value & 1 ? 1 : (before >> HELD_SHIFT) + 1;
      marks[s[State::LENGTH]] = touched << HELD_SHIFT | (value > 0 ? value >> 1 : 0);
    }
    const int32_t before = s[State::LENGTH] - p[Param::LOOP_NGRAM];
    const bool same = s[State::PHASE] == Phase::THINK && what != Kind::OPENER && p[Param::LOOP_NGRAM] > 0 &&
                      before >= s[State::MATCH_FROM] && history[before] == id;
    s[State::LOOP_RUN] = same ? s[State::LOOP_RUN] + 1 : 0;
    history[s[State::LENGTH]++] = id;
    s[State::COMMITTED]++;
    s[State::NEWLINE] = m.traits[id] & Trait::ENDS_LINE;
    if (s[State::FINISH] == Finish::RUNNING && s[State::COMMITTED] >= cap()) {
      s[State::FINISH] = Finish::LENGTH;
      if (s[State::PHASE] == Phase::THINK) s[State::STOP_REASON] = Stop::TRUNCATED;
    }
    token = id, kind = what, forced = by_engine;
  }

  void think(int32_t id) {
    s[State::THINKING]++;
    s[State::MASK_NEXT] = 0;
    commit(id, Kind::REASONING, false);
  }

  // The masked draw; where its place is that of a token further back, in the next step.
  void think_masked(int32_t id, int32_t back) {
    if (!back) return think(id);
    take_back(back);
    s[State::MASK_NEXT] = 1;
    kind = Kind::REASONING;
  }

  // Token `at` of a forced string; not forced where the draw happens to be it (draw -1: it is under way already).
  void write(int which, int32_t at, int32_t draw) {
    const int32_t id = text(which)[at];
    const bool over = at + 1 == size(which);
    int32_t what = which == Text::EXTENSION ? Kind::REASONING : Kind::DELIMITER;
    if (which == Text::BUDGET_END && at < p[Param::BUDGET_END_AT]) what = Kind::REASONING;
    if (which == Text::BUDGET_END && at >= p[Param::ANSWER_AT]) what = Kind::ANSWER;
    s[State::FORCED] = over ? 0 : which + 1;
    s[State::FORCED_POS] = over ? 0 : at + 1;
    if (which == Text::EXTENSION) {
      s[State::THINKING]++;
      if (over) s[State::MASK_NEXT] = 1;
    } else {
      s[State::PHASE] = over ? Phase::ANSWER : Phase::CLOSING;
      if (over) s[State::CLOSED] = 1;
    }
    commit(id, what, id != draw);
  }

  void speak(int32_t draw, bool eos) {
    if (s[State::CLOSED] && !(m.traits[draw] & Trait::BLANK)) s[State::ANSWERED]++;
    const bool stop = draw >= 0 && contains(stops, m.stops, draw) && s[State::COMMITTED] >= p[Param::MIN_TOKENS];
    if (eos || stop) s[State::FINISH] = Finish::STOP;
    const int32_t size = p[Param::OPENER_LEN];
    bool opens = s[State::PHASE] == Phase::PLAIN && size > 0 && cap() - s[State::COMMITTED] - 1 >= p[Param::RESERVE];
    if (by_text())
      opens = opens && next(draw, mark() & ((1 << HELD_SHIFT) - 1)) < 0;
    else
      opens = opens && draw == text(Text::OPENER)[size - 1] && stands(text(Text::OPENER), size - 1);
    if (opens) {
      s[State::PHASE] = Phase::THINK;
      s[State::MATCH_FROM] = s[State::LENGTH] + 1;
      commit(draw, Kind::OPENER, false);
    } else {
      commit(draw, s[State::PHASE] == Phase::ANSWER ? Kind::ANSWER : Kind::PLAIN, false);
    }
  }

  void step(int32_t draw, int32_t masked, bool bad) {
    decide(draw, masked, bad);
    held = s[State::PHASE] == Phase::THINK ? mark() >> HELD_SHIFT : 0;
  }

  void decide(int32_t draw, int32_t masked, bool bad) {
    if (s[State::FINISH] != Finish::RUNNING) return;
    if (s[State::FORCED] > 0) return write(s[State::FORCED] - 1, s[State::FORCED_POS], -1);  // 1
    if (bad) {
      s[State::FINISH] = Finish::ERROR;
      return;
    }
    const bool eos = contains(m.eos_ids, m.eos, draw) && !p[Param::IGNORE_EOS];
    if (s[State::PHASE] != Phase::THINK) return speak(draw, eos);  // 2
    const int32_t value = by_text() ? next(draw, mark() & ((1 << HELD_SHIFT) - 1)) : 0;
    const int32_t touched = by_text() ? mark() >> HELD_SHIFT : 0, started = value == HIT_INSIDE ? 0 : touched;
    const bool complete = value < 0, interrupted = by_text() && (complete || eos);
    // What a trigger of plain text takes back, or an EOS behind half a one; all limits are those without it.
    const int32_t back = interrupted && !s[State::MASK_NEXT] ? started : 0;
    const int32_t thinking = s[State::THINKING] - back, room = cap() - s[State::COMMITTED] + back;
    const bool over_budget = thinking >= p[Param::BUDGET], over_room = room <= p[Param::RESERVE];
    const bool asked = s[State::END_REQUESTED] || s[State::LOOP_RUN] >= p[Param::LOOP_RUN];
    const bool limit = over_budget || over_room || asked;
    bool completed = false;
    int32_t lead_done = 0, half = 0;
    for (int64_t i = 0; i < m.triggers; ++i) {
      if (last[i] < 0) continue;
      for (int32_t k = half + 1; k <= lead[i]; ++k)
        if (stands(text(Text::END), k)) half = k;
      if (draw == last[i] && stands(text(Text::END), lead[i])) {
        completed = true;
        if (lead[i] > lead_done) lead_done = lead[i];
      }
    }
    const int32_t done = completed ? lead_done : half;  // tokens of `end` that stand already
    const bool trigger = completed || complete || (eos && !p[Param::EOS_STOPS]);
    const bool closes = complete || !p[Param::TRUNCATE] || room >= p[Param::END_LEN] - done;
    const int32_t extension = p[Param::EXTENSION_LEN];
    const bool few = thinking < p[Param::MIN_THINKING] && (interrupted || !by_text());
    if (!limit && (few || s[State::MASK_NEXT])) return think_masked(masked, back);  // 3
    if (eos && p[Param::EOS_STOPS]) {  // 4
      s[State::FINISH] = Finish::STOP;
      s[State::STOP_REASON] = Stop::EOS;
      return commit(draw, Kind::REASONING, false);
    }
    const bool fits = thinking < p[Param::BUDGET] - extension && room > p[Param::RESERVE] + extension;
    if (trigger && !limit && s[State::EXTENSIONS_LEFT] > 0 && fits) {  // 5
      s[State::EXTENSIONS_LEFT]--;
      s[State::EXTENSIONS_USED]++;
      if (!extension) return think_masked(masked, back);
      take_back(back);
      return write(Text::EXTENSION, 0, -1);
    }
    if (trigger && closes) {  // 6
      s[State::STOP_REASON] = completed || complete ? Stop::NATURAL : Stop::EOS;
      if (complete) {  // it is `end` already
        s[State::THINKING] -= started;
        s[State::PHASE] = Phase::ANSWER;
        s[State::CLOSED] = 1;
        return commit(draw, Kind::DELIMITER, false);
      }
      take_back(back);
      s[State::THINKING] -= done;
      return write(Text::END, done, draw);
    }
    if (trigger || (limit && p[Param::TRUNCATE])) {  // 7
      s[State::FINISH] = Finish::LENGTH;
      s[State::STOP_REASON] = Stop::TRUNCATED;
      kind = Kind::REASONING;
      return;
    }
    const bool grace = thinking - p[Param::GRACE] < p[Param::BUDGET] && !s[State::NEWLINE];
    // 8; what may be a trigger is seen through
    if (limit && !over_room && !asked && (grace || value > 0)) return think(draw);
    if (!limit) return think(draw);                                 // 10
    const bool short_of_tokens = p[Param::MAX_TOKENS] - s[State::COMMITTED] <= p[Param::RESERVE];
    s[State::STOP_REASON] = s[State::END_REQUESTED] ? Stop::CLIENT
                            : over_budget         ? Stop::BUDGET
                            : over_room           ? (short_of_tokens ? Stop::MAX_TOKENS : Stop::CONTEXT)
                                                  : Stop::LOOP;
    take_back(touched);
    if (half) {  // 9, half a trigger becomes `end`
      s[State::THINKING] -= half;
      return write(Text::END, half, -1);
    }
    if (s[State::NEWLINE]) return write(Text::BUDGET_END, 0, -1);
    s[State::PHASE] = Phase::CLOSING;
    s[State::FORCED] = Text::BUDGET_END + 1;
    s[State::FORCED_POS] = 0;
    commit(p[Param::NEWLINE_ID], Kind::DELIMITER, true);
  }
};

}  // namespace
}  // namespace S1_LEVEL

// slots, draw, masked [rows] int64, bad [rows] bool; records [rows, Record::COUNT] int32.
S1_OP(thinking_step)
(const S1Machine* tables, const int64_t* slots, const int64_t* draw, const int64_t* masked, const uint8_t* bad,
 int32_t* records, int64_t rows) {
  using namespace S1_LEVEL;
  const S1Machine& m = *tables;
  for (int64_t i = 0; i < rows; ++i) {
    Row row(m, slots[i]);
    row.step(int32_t(draw[i]), int32_t(masked[i]), bad[i]);
    int32_t* r = records + i * Record::COUNT;
    r[Record::TOKEN] = row.token, r[Record::KIND] = row.kind, r[Record::FORCED] = row.forced;
    r[Record::FINISH] = row.s[State::FINISH], r[Record::STOP_REASON] = row.s[State::STOP_REASON];
    r[Record::THINKING] = row.s[State::THINKING], r[Record::EXTENSIONS_USED] = row.s[State::EXTENSIONS_USED];
    r[Record::TAKEN] = row.taken, r[Record::HELD] = row.held;
  }
}
