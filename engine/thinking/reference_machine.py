"""Budget forcing as a state machine in plain Python: the readable form of the table in `kernels/thinking.py`.

To be read, and for tests, which hold the two against each other token by token. What runs is `kernels/thinking.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.request import TokenKind
from engine.thinking.automaton import advance
from engine.thinking.plan import ThinkingPlan
from kernels.thinking import Finish, Phase, Stop, Text, Trait
from kernels.thinking_tables import HIT_INSIDE


@dataclass(frozen=True)
class Commit:
    """One transition: the token (None: nothing was committed), what it is part of, who wrote it, and what is over."""

    token: int | None
    kind: TokenKind
    forced: bool
    finish: Finish
    stop_reason: Stop
    thinking: int
    extensions: int
    taken: int
    """tokens that were taken back before it"""
    held: int
    """tokens that may be taken back from now on"""


class Machine:
    """The twin of `kernels.thinking.thinking_step`: one request, plain Python, one method per idea."""

    def __init__(
        self,
        plan: ThinkingPlan,
        prompt: Sequence[int],
        eos_ids: Sequence[int],
        traits: Sequence[int],
        text: Mapping[Phase, np.ndarray] | None = None,
    ):
        """`traits`: for every token the bits of `kernels.thinking.Trait`. `text`: where delimiters are plain text,
        `engine.thinking.automaton.next_states` of the triggers (THINK) and of the opener (PLAIN)."""
        self.plan, self.eos_ids, self.traits = plan, tuple(eos_ids), traits
        self.history = list(prompt)
        self.phase, self.thinking, self.match_from = plan.phase, plan.thinking, plan.match_from
        self.finish, self.stop_reason = Finish.RUNNING, Stop.NONE
        self.budget, self.extensions_left, self.extensions_used = plan.budget, plan.extensions, 0
        self.forced: Text | None = None
        self.forced_pos, self.mask_next, self.newline = 0, False, plan.newline
        self.closed, self.answered, self.loop_run, self.end_requested = False, 0, 0, False
        self.text, self.taken = text, 0
        begun = advance(text[self.phase], 0, plan.reading(prompt)) if text is not None and self.phase in text else 0
        self.marks = [*[(0, 0)] * (len(prompt) - 1), (begun, 0)]
        """For each token the match of plain text under way behind it: (state, tokens that may be taken back)."""
        if self.phase is Phase.CLOSING:
            self.forced, self.forced_pos, self.stop_reason = Text.END, plan.closing_at, Stop.NATURAL

    @property
    def committed(self) -> int:
        """Tokens written in this response, forced ones included."""
        return len(self.history) - self.plan.prompt_len

    @property
    def eos_banned(self) -> bool:
        """Whether the next draw must not be an EOS (`min_tokens`, `min_answer_tokens`)."""
        if self.plan.ignore_eos:
            return False
        answers = self.phase is Phase.ANSWER and self.closed and self.answered < self.plan.min_answer
        return answers or self.committed < self.plan.min_tokens

    def step(self, draw: int, masked: int, bad: bool = False) -> Commit:
        """Commit one token. `masked` is the draw with triggers and EOS excluded; `bad`: nothing could be drawn."""
        plan, self.taken = self.plan, 0
        if self.finish is not Finish.RUNNING:
            return self._report(None, TokenKind.PLAIN, False)
        if self.forced is not None:  # 1
            return self._write(self.forced, self.forced_pos)
        if bad:
            self.finish = Finish.ERROR
            return self._report(None, TokenKind.PLAIN, False)
        eos = draw in self.eos_ids and not plan.ignore_eos
        if self.phase is not Phase.THINK:  # 2
            return self._speak(draw, eos)
        by_text = self.text is not None
        value, held = self._next(draw) if by_text else (0, 0)
        started = 0 if value == HIT_INSIDE else held
        interrupted = by_text and (value < 0 or eos)
        # What a trigger of plain text takes back, or an EOS behind half a one; all limits are those without it.
        back = started if interrupted and not self.mask_next else 0
        thinking, committed = self.thinking - back, self.committed - back
        room = min(plan.max_tokens, plan.max_context) - committed
        over_budget, over_room = thinking >= self.budget, room <= plan.reserve
        asked = self.end_requested or self.loop_run >= plan.loop_run
        limit = over_budget or over_room or asked
        completed = [len(t) - 1 for t in plan.format.triggers if draw == t[-1] and self._stands(t[:-1])]
        half = max((k for t in plan.format.triggers for k in range(1, len(t)) if self._stands(t[:k])), default=0)
        lead = max(completed) if completed else half
        complete = bool(completed) or value < 0
        trigger = complete or (eos and not plan.eos_stops)
        closes = value < 0 or not plan.truncate or room >= len(plan.format.end) - lead
        size = len(plan.extension)
        short = thinking < plan.min_thinking and (interrupted or not by_text)
        if not limit and (short or self.mask_next):  # 3
            return self._think_masked(masked, back)
        if eos and plan.eos_stops:  # 4
            self.finish, self.stop_reason = Finish.STOP, Stop.EOS
            return self._commit(draw, TokenKind.REASONING, False)
        fits = thinking < self.budget - size and room > plan.reserve + size
        if trigger and not limit and self.extensions_left > 0 and fits:  # 5
            self.extensions_left -= 1
            self.extensions_used += 1
            if not size:
                return self._think_masked(masked, back)
            self._take_back(back)
            return self._write(Text.EXTENSION, 0)
        if trigger and closes:  # 6
            self.stop_reason = Stop.NATURAL if complete else Stop.EOS
            if value < 0:  # it is `end` already
                self.thinking -= started
                self.phase, self.closed = Phase.ANSWER, True
                return self._commit(draw, TokenKind.DELIMITER, False)
            self._take_back(back)
            self.thinking -= lead
            return self._write(Text.END, lead, draw)
        if trigger or (limit and plan.truncate):  # 7
            self.finish, self.stop_reason = Finish.LENGTH, Stop.TRUNCATED
            return self._report(None, TokenKind.REASONING, False)
        in_grace = thinking - plan.grace < self.budget and not self.newline
        if (
            limit and not over_room and not asked and (in_grace or value > 0)
        ):  # 8; what may be a trigger is seen through
            return self._think(draw)
        if limit:  # 9
            self.stop_reason = self._limit_reason(over_budget, over_room)
            self._take_back(held)
            if half:  # half a trigger is completed as `end`, without budget_end's extra text
                self.thinking -= half
                return self._write(Text.END, half)
            if self.newline:
                return self._write(Text.BUDGET_END, 0)
            self.phase, self.forced, self.forced_pos = Phase.CLOSING, Text.BUDGET_END, 0
            return self._commit(plan.newline_id, TokenKind.DELIMITER, True)
        return self._think(draw)  # 10

    def _limit_reason(self, over_budget: bool, over_room: bool) -> Stop:
        if self.end_requested:
            return Stop.CLIENT
        if over_budget:
            return Stop.BUDGET
        if over_room:
            short = self.plan.max_tokens - self.committed <= self.plan.reserve
            return Stop.MAX_TOKENS if short else Stop.CONTEXT
        return Stop.LOOP

    def _stands(self, pattern: Sequence[int]) -> bool:
        start = len(self.history) - len(pattern)
        return start >= self.match_from and tuple(self.history[start:]) == tuple(pattern)

    def _speak(self, draw: int, eos: bool) -> Commit:
        plan, opener = self.plan, self.plan.format.opener
        self.answered += self.closed and not self.traits[draw] & Trait.BLANK
        if eos or (draw in plan.stop_ids and self.committed >= plan.min_tokens):
            self.finish = Finish.STOP
        room = min(plan.max_tokens, plan.max_context) - self.committed
        opens = self.phase is Phase.PLAIN and bool(opener) and room - 1 >= plan.reserve
        if self.text is not None:
            opens = opens and self._next(draw)[0] < 0
        else:
            opens = opens and draw == opener[-1] and self._stands(opener[:-1])
        if opens:
            self.phase, self.match_from = Phase.THINK, len(self.history) + 1
            return self._commit(draw, TokenKind.OPENER, False)
        kind = TokenKind.ANSWER if self.phase is Phase.ANSWER else TokenKind.PLAIN
        return self._commit(draw, kind, False)

    def _next(self, token: int) -> tuple[int, int]:
        """(what the token makes of the match of plain text that is under way, tokens of it that may be taken back)."""
        state, held = self.marks[-1]
        rows = None if self.text is None else self.text.get(self.phase)
        return (0, 0) if rows is None else (int(rows[state, token]), held)

    def _mark(self, token: int, goes_on: bool, forced: bool) -> tuple[int, int]:
        """The match that is under way behind a committed token; nothing of what was there before `goes_on`."""
        state, held = self.marks[-1] if goes_on else (0, 0)
        rows = None if self.text is None else self.text.get(self.phase)
        value = 0 if rows is None else max(int(rows[state, token]), 0)
        holds = value > 1 and goes_on and not forced
        return value >> 1, (1 if value & 1 else held + 1) if holds else 0

    def _take_back(self, count: int) -> None:
        """The last tokens are no longer there; the cache is overwritten by position."""
        if count:
            del self.history[-count:], self.marks[-count:]
            self.thinking -= count
            self.taken, self.loop_run = count, 0
            self.newline = bool(self.traits[self.history[-1]] & Trait.ENDS_LINE)

    def _think_masked(self, token: int, back: int) -> Commit:
        """The masked draw; where its place is that of a token further back, in the next step."""
        if not back:
            return self._think(token)
        self._take_back(back)
        self.mask_next = True
        return self._report(None, TokenKind.REASONING, False)

    def _think(self, token: int) -> Commit:
        self.thinking += 1
        self.mask_next = False
        return self._commit(token, TokenKind.REASONING, False)

    def _write(self, text: Text, at: int, draw: int | None = None) -> Commit:
        """Write one token of a forced string; it is not forced where the draw happens to be the first of them."""
        plan = self.plan
        strings = {Text.EXTENSION: plan.extension, Text.END: plan.format.end, Text.BUDGET_END: plan.budget_end}
        string = strings[text]
        kind = TokenKind.REASONING if text is Text.EXTENSION else TokenKind.DELIMITER
        if text is Text.BUDGET_END and at < plan.budget_end_at:
            kind = TokenKind.REASONING
        elif text is Text.BUDGET_END and at >= plan.answer_at:
            kind = TokenKind.ANSWER
        over = at + 1 == len(string)
        self.forced, self.forced_pos = (None, 0) if over else (text, at + 1)
        if text is Text.EXTENSION:
            self.thinking += 1
            self.mask_next = self.mask_next or over
        else:
            self.phase = Phase.ANSWER if over else Phase.CLOSING
            self.closed = self.closed or over
        return self._commit(string[at], kind, string[at] != draw)

    def _commit(self, token: int, kind: TokenKind, forced: bool) -> Commit:
        plan = self.plan
        before = len(self.history) - plan.loop_ngram
        same = plan.loop_ngram > 0 and before >= self.match_from and self.history[before] == token
        self.loop_run = self.loop_run + 1 if same and self.phase is Phase.THINK else 0
        self.marks.append(self._mark(token, kind is not TokenKind.OPENER, forced))
        self.history.append(token)
        self.newline = bool(self.traits[token] & Trait.ENDS_LINE)
        if self.committed >= min(plan.max_tokens, plan.max_context) and self.finish is Finish.RUNNING:
            self.finish = Finish.LENGTH
            if self.phase is Phase.THINK:
                self.stop_reason = Stop.TRUNCATED
        return self._report(token, kind, forced)

    def _report(self, token: int | None, kind: TokenKind, forced: bool) -> Commit:
        held = self.marks[-1][1] if self.phase is Phase.THINK else 0
        return Commit(
            token,
            kind,
            forced,
            self.finish,
            self.stop_reason,
            self.thinking,
            self.extensions_used,
            self.taken,
            held,
        )
