"""Budget forcing on the device: one transition of the thinking machine for every row of a batch.

This file is the idea the engine exists for. A drawn token is not in the KV cache yet, so replacing it costs nothing:
after sampling, and before the token becomes the next input, this operator decides what is committed. Thinking is ended
at its budget by writing the end delimiter, and lengthened by writing "Wait" in place of the end that was drawn.
No logit is edited, nothing is drawn twice, and the host is never asked.

The first row that matches decides (`engine/thinking/reference_machine.py` is the same in plain Python: read it first):

| #  | situation                                              | committed                                   |
|----|--------------------------------------------------------|---------------------------------------------|
| 1  | a forced string is under way                           | its next token                              |
| 2  | plain or answer                                        | the draw; EOS and stop tokens finish        |
| 3  | think, T < min or the draw after an extension          | the masked draw                             |
| 4  | think, EOS drawn, policy "stop"                        | EOS; finished                               |
| 5  | think, trigger, an extension is left and fits          | the extension's first token (none: masked)  |
| 6  | think, trigger                                         | the next token of `end`; closing            |
| 7  | think, at the limit, action "truncate"                 | nothing; finished                           |
| 8  | think, only the budget is reached, in the grace window | the draw                                    |
| 9  | think, at the limit                                    | a newline if none is there, or `budget_end` |
| 10 | think                                                  | the draw                                    |

A delimiter of plain text is found in the bytes of the tokens, by a table of what each token makes of a match under way
(`MachineTables.next`). Its tokens are committed as they come; until it is complete they are held, and what interrupts
it takes them back: the sequence is that much shorter, and what was in the cache is overwritten by position. Row 5
takes the trigger back and writes over it; row 6 leaves it, as it is `end`, and forces nothing; row 6 with EOS and row 9
take back half a trigger; row 8 sees one through that begins at the budget, as none of it counts. Where the masked draw
is to stand at the place of a trigger of several tokens, nothing is committed: the next step draws there again.

The columns and tables are in `kernels.thinking_tables`.
"""

import torch
from torch import Tensor

from kernels import use_triton
from kernels.native import step as native_step
from kernels.thinking_tables import (
    ANSWER,
    DELIMITER,
    HELD_SHIFT,
    HIT_INSIDE,
    OPENER,
    REASONING,
    UNLIMITED,
    Finish,
    MachineTables,
    Param,
    Phase,
    Record,
    State,
    Stop,
    Text,
    Trait,
)
from kernels.thinking_triton import thinking_step_triton

__all__ = [
    "UNLIMITED",
    "Finish",
    "MachineTables",
    "Param",
    "Phase",
    "Record",
    "State",
    "Stop",
    "Text",
    "Trait",
    "thinking_step",
    "thinking_step_cost",
    "thinking_step_reference",
]


def thinking_step_reference(tables: MachineTables, slots: Tensor, draw: Tensor, masked: Tensor, bad: Tensor) -> Tensor:
    """One transition per row, in place on `tables`; the definition.

    slots [B] int64, draw and masked [B] int64 (equal where no row needs the masked draw), bad [B] bool: no token could
    be drawn (NaN logits, or everything banned). Returns records [B, len(Record)] int32. Rows whose sequence is already
    finished commit nothing and keep their record, so a step launched before the host saw the finish is harmless.
    Source: budget_forcing specification, section 3.
    """
    s = dict(zip(State, tables.state[slots].unbind(1), strict=True))
    p = dict(zip(Param, tables.params[slots].unbind(1), strict=True))
    strings = tables.strings[slots]
    draw, masked = draw.to(torch.int32), masked.to(torch.int32)
    zero = torch.zeros_like(draw)

    def text(which: int | Tensor, position: Tensor) -> Tensor:
        """Token at `position` of a forced string, per row."""
        rows = torch.arange(len(draw), device=draw.device)
        return strings[rows, which, position.long().clamp(0, strings.shape[2] - 1)]

    think = s[State.PHASE] == Phase.THINK
    count, length, thinking = s[State.COMMITTED], s[State.LENGTH], s[State.THINKING]

    # What was drawn, and how much of `end` already stands at the end of the text (several-token triggers only).
    trigger, lead, half = _match_triggers(tables, slots, s, strings, draw)
    ends = (draw[:, None] == tables.eos_ids).any(1) & (p[Param.IGNORE_EOS] == 0)
    by_text = p[Param.TEXT_ROW] >= 0 if tables.text else zero > 0
    value, held = _match_text(tables, slots, s, p, draw) if tables.text else (zero, zero)
    complete = by_text & think & (value < 0)
    trigger = trigger | complete
    trigger_drawn = trigger | (ends & (p[Param.EOS_STOPS] == 0))
    interrupted = by_text & think & (complete | ends)
    lead = torch.where(trigger, lead, half)
    # What a trigger of plain text takes back, or an EOS behind half a one; all limits are those without it.
    started = torch.where(value == HIT_INSIDE, zero, held)
    back = torch.where(interrupted & (s[State.MASK_NEXT] == 0), started, zero)
    thinking = thinking - back

    # The limit.
    room = torch.minimum(p[Param.MAX_TOKENS], p[Param.MAX_CONTEXT]) - count + back
    over_budget = thinking >= p[Param.BUDGET]
    over_room = room <= p[Param.RESERVE]
    asked = (s[State.END_REQUESTED] > 0) | (s[State.LOOP_RUN] >= p[Param.LOOP_RUN])
    limit = think & (over_budget | over_room | asked)
    truncate = p[Param.TRUNCATE] > 0
    closes = torch.where(truncate & ~complete, room >= p[Param.END_LEN] - lead, room >= 0)  # truncate reserves nothing

    # The table: each row takes what the rows before it left.
    left = s[State.FINISH] == Finish.RUNNING

    def take(condition: Tensor) -> Tensor:
        nonlocal left
        row = left & condition
        left = left & ~condition
        return row

    r1 = take(s[State.FORCED] > 0)
    failed = take(bad)
    r2 = take(~think)
    short = (thinking < p[Param.MIN_THINKING]) & (interrupted | ~by_text)
    r3 = take(~limit & (short | (s[State.MASK_NEXT] > 0)))
    r4 = take(ends & (p[Param.EOS_STOPS] > 0))
    fits = (thinking < p[Param.BUDGET] - p[Param.EXTENSION_LEN]) & (room > p[Param.RESERVE] + p[Param.EXTENSION_LEN])
    r5 = take(trigger_drawn & ~limit & (s[State.EXTENSIONS_LEFT] > 0) & fits)
    r6 = take(trigger_drawn & closes)
    r7 = take(limit & truncate | (trigger_drawn & ~closes))
    in_grace = (s[State.NEWLINE] == 0) & (thinking - p[Param.GRACE] < p[Param.BUDGET])
    r8 = take(limit & ~over_room & ~asked & (in_grace | (by_text & (value > 0))))
    r9 = take(limit)
    r10 = left

    bare = r5 & (p[Param.EXTENSION_LEN] == 0)  # thinking_extension_str="": the masked draw, unforced
    extends = r5.int()
    again = (r3 | bare) & (back > 0)  # the masked draw, at the trigger's first token: in the next step
    taken = torch.where(again | r5 | (r6 & ~complete), back, torch.where(r9 & by_text, held, zero))
    thinking = thinking + back - taken  # what stays counts
    count, length = count - taken, length - taken
    r3, bare, r5 = r3 & ~again, bare & ~again, r5 & ~bare
    completes = r9 & (half > 0)  # half a trigger at the limit becomes `end`
    r9 = r9 & ~completes
    if tables.text:
        s |= _take_back(tables, slots, s, taken)
    newline = r9 & (s[State.NEWLINE] == 0)
    r9 = r9 & ~newline
    natural = r6 & complete
    ending = r6 & ~natural | completes
    lead = torch.where(by_text, zero, lead)

    # What is committed.
    token = _choose(
        zero - 1,
        (r2 | r4 | natural | r8 | r10, draw),
        (r1, text((s[State.FORCED] - 1).clamp(min=0).long(), s[State.FORCED_POS])),
        (r3 | bare, masked),
        (r5, text(Text.EXTENSION, zero)),
        (ending, text(Text.END, lead)),
        (newline, p[Param.NEWLINE_ID]),
        (r9, text(Text.BUDGET_END, zero)),
    )
    commits = token >= 0
    forced = r1 | r5 | completes | (r6 & (token != draw)) | newline | r9

    # The forced string under way after this token.
    written = _choose(  # what this token is part of
        zero,
        (r1, s[State.FORCED]),
        (r5, Text.EXTENSION + 1),
        (ending, Text.END + 1),
        (newline | r9, Text.BUDGET_END + 1),
    )
    position = _choose(zero, (r1, s[State.FORCED_POS] + 1), (ending, lead + 1), (r5 | r9, 1))
    lengths = torch.stack([zero, p[Param.EXTENSION_LEN], p[Param.END_LEN], p[Param.BUDGET_END_LEN]], 1)
    ended = (written > 0) & (position >= lengths.gather(1, written.long()[:, None])[:, 0])
    extended = ended & (written == Text.EXTENSION + 1)
    closed = (ended & ~extended) | natural
    which = torch.where(ended, zero, written)

    # What the token is: the machine's phase decides, never the text.
    at = position - 1 - p[Param.BUDGET_END_AT]  # -1 and below: before `end`; the newline counts as a delimiter
    in_budget_end = written == Text.BUDGET_END + 1
    # The opener, where the model wrote it itself and there is still room to close.
    opens = r2 & (s[State.PHASE] == Phase.PLAIN) & (p[Param.OPENER_LEN] > 0) & (room - 1 >= p[Param.RESERVE])
    opens = opens & torch.where(by_text, value < 0, _ends_with_opener(tables, slots, s, p, strings, draw))
    kind = _choose(
        zero,
        (s[State.PHASE] == Phase.ANSWER, ANSWER),
        (think, REASONING),
        ((written == Text.END + 1) | in_budget_end | natural, DELIMITER),
        (in_budget_end & (position > p[Param.ANSWER_AT]), ANSWER),
        (in_budget_end & (at < 0) & (position > 0), REASONING),
        (opens, OPENER),
    )

    # New state.
    count, length = count + commits.int(), length + commits.int()
    adds = r3 | r5 | bare | r8 | r10 | (r1 & (written == Text.EXTENSION + 1))
    thinking = thinking + adds.int() - torch.where(ending, lead, zero) - torch.where(natural, started, zero)
    phase = _choose(
        s[State.PHASE],
        (opens, Phase.THINK),
        (ending | newline | r9, Phase.CLOSING),
        (closed, Phase.ANSWER),
    )
    stops = (draw[:, None] == tables.stop_ids[slots]).any(1) & (s[State.COMMITTED] >= p[Param.MIN_TOKENS])
    full = commits & (count >= torch.minimum(p[Param.MAX_TOKENS], p[Param.MAX_CONTEXT]))
    finish = _choose(
        s[State.FINISH],
        (full | r7, Finish.LENGTH),
        (r2 & (ends | stops) | r4, Finish.STOP),
        (failed, Finish.ERROR),
    )
    limit_reason = _choose(
        zero + Stop.LOOP,
        (over_room, Stop.CONTEXT),
        (p[Param.MAX_TOKENS] - s[State.COMMITTED] <= p[Param.RESERVE], Stop.MAX_TOKENS),
        (over_budget, Stop.BUDGET),
        (s[State.END_REQUESTED] > 0, Stop.CLIENT),
    )
    reason = _choose(
        s[State.STOP_REASON],
        (r4 | r6, Stop.EOS),
        (r6 & trigger, Stop.NATURAL),
        (completes | newline | r9, limit_reason),
        (r7 | (full & ~r4 & (phase == Phase.THINK)), Stop.TRUNCATED),
    )

    traits = tables.traits[token.clamp(min=0).long()].int()
    visible = (traits & Trait.BLANK) == 0
    s |= {
        State.PHASE: phase,
        State.FINISH: finish,
        State.STOP_REASON: reason,
        State.LENGTH: length,
        State.COMMITTED: count,
        State.THINKING: thinking,
        State.EXTENSIONS_LEFT: s[State.EXTENSIONS_LEFT] - extends,
        State.EXTENSIONS_USED: s[State.EXTENSIONS_USED] + extends,
        State.FORCED: which,
        State.FORCED_POS: torch.where(which > 0, position, zero),
        State.MASK_NEXT: torch.where(r3 | r8 | r10 | bare, zero, s[State.MASK_NEXT] | (extended | again).int()),
        State.NEWLINE: torch.where(commits, traits & Trait.ENDS_LINE, s[State.NEWLINE]),
        State.MATCH_FROM: torch.where(opens, length, s[State.MATCH_FROM]),
        State.CLOSED: s[State.CLOSED] | closed.int(),
        State.ANSWERED: s[State.ANSWERED] + (r2 & (s[State.CLOSED] > 0) & visible).int(),
        State.LOOP_RUN: _loop_run(tables, slots, s, p, token, (phase == Phase.THINK) & commits & ~opens),
    }
    tables.history[slots, torch.where(commits, length - 1, tables.history.shape[1] - 1).long()] = token
    tables.state[slots] = torch.stack([s[c] for c in State], 1)
    held = _mark(tables, slots, s, p, token, opens, forced) if tables.text else zero
    return torch.stack([token, kind, forced.int(), finish, reason, thinking, s[State.EXTENSIONS_USED], taken, held], 1)


def _choose(value: Tensor, *cases: tuple[Tensor, Tensor | int]) -> Tensor:
    """`value` [B], or in each row that of the last case whose condition [B] holds there."""
    for condition, instead in cases:
        value = torch.where(condition, instead, value)
    return value


def _match_triggers(
    tables: MachineTables, slots: Tensor, s: dict[State, Tensor], strings: Tensor, draw: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(does the draw complete a trigger, that trigger's lead, tokens of `end` at the text's end), each [B].

    Leads are compared with the history itself, so matching restarts by construction wherever a step, a chunk or a
    preemption cut it (a counter that is reset on a mismatch would miss self-overlapping delimiters).
    """
    last, lead = tables.trigger_last[slots], tables.trigger_lead[slots]
    hit = (draw[:, None] == last) & (last >= 0)
    half = torch.zeros_like(draw)
    if tables.max_lead == 0:
        return hit.any(1), half, half
    sizes = range(1, tables.max_lead + 1)
    parts = [_text_ends_with(tables, slots, s, strings[:, Text.END, :k]) for k in sizes]
    stands = torch.stack([torch.ones_like(hit[:, 0]), *parts], 1)  # stands[:, k]: the text ends with end[:k]
    hit = hit & stands.gather(1, lead.long())
    half = _choose(half, *((stands[:, k] & (lead >= k).any(1), k) for k in sizes))
    return hit.any(1), torch.where(hit, lead, torch.zeros_like(lead)).amax(1), half


def _text_ends_with(tables: MachineTables, slots: Tensor, s: dict[State, Tensor], pattern: Tensor) -> Tensor:
    """[B] bool: the last tokens of the history equal `pattern` [B, k], none of them before MATCH_FROM."""
    width = pattern.shape[1]
    start = s[State.LENGTH] - width
    where = (start.long()[:, None] + torch.arange(width, device=start.device)).clamp(min=0)
    same = (tables.history[slots[:, None], where] == pattern).all(1)
    return same & (start >= s[State.MATCH_FROM])


def _ends_with_opener(
    tables: MachineTables, slots: Tensor, s: dict[State, Tensor], p: dict[Param, Tensor], strings: Tensor, draw: Tensor
) -> Tensor:
    """[B] bool: the draw completes the opener."""
    size = p[Param.OPENER_LEN]
    if tables.max_opener == 0:
        return torch.zeros_like(size, dtype=torch.bool)
    opener = strings[:, Text.OPENER, : tables.max_opener]
    index = torch.arange(tables.max_opener, device=draw.device)
    start = s[State.LENGTH] - size + 1
    where = (start.long()[:, None] + index).clamp(0, tables.history.shape[1] - 1)
    text = torch.where(index == size[:, None] - 1, draw[:, None], tables.history[slots[:, None], where])
    return ((text == opener) | (index >= size[:, None])).all(1) & (start >= s[State.MATCH_FROM])


def _text_row(tables: MachineTables, s: dict[State, Tensor], p: dict[Param, Tensor]) -> tuple[Tensor, Tensor]:
    """(first row of the delimiters that may come in this phase, whether there are any in plain text), each [B]."""
    think = s[State.PHASE] == Phase.THINK
    row = torch.where(think, p[Param.TEXT_ROW], p[Param.OPENER_ROW])
    return row.clamp(min=0), (row >= 0) & (think | (s[State.PHASE] == Phase.PLAIN))


def _match_text(
    tables: MachineTables, slots: Tensor, s: dict[State, Tensor], p: dict[Param, Tensor], draw: Tensor
) -> tuple[Tensor, Tensor]:
    """(what `next` says of the draw, tokens that the match under way touches), each [B]."""
    assert tables.next is not None and tables.marks is not None
    row, some = _text_row(tables, s, p)
    mark = torch.where(some, tables.marks[slots, (s[State.LENGTH] - 1).clamp(min=0).long()], 0)
    value = tables.next[(row + mark % (1 << HELD_SHIFT)).long(), draw.clamp(min=0).long()].int()
    return torch.where(some, value, 0), mark >> HELD_SHIFT


def _take_back(tables: MachineTables, slots: Tensor, s: dict[State, Tensor], taken: Tensor) -> dict[State, Tensor]:
    """The columns that know of tokens taken back, without them."""
    length, some = s[State.LENGTH] - taken, taken > 0
    last = tables.history[slots, (length - 1).clamp(min=0).long()]
    ends_line = tables.traits[last.clamp(min=0).long()].int() & Trait.ENDS_LINE
    return {
        State.LENGTH: length,
        State.NEWLINE: torch.where(some, ends_line, s[State.NEWLINE]),
        State.LOOP_RUN: torch.where(some, 0, s[State.LOOP_RUN]),
    }


def _mark(
    tables: MachineTables,
    slots: Tensor,
    s: dict[State, Tensor],
    p: dict[Param, Tensor],
    token: Tensor,
    opens: Tensor,
    forced: Tensor,
) -> Tensor:
    """Enter the match that is under way behind the committed token, in the new state. [B]: tokens that are held now."""
    assert tables.next is not None and tables.marks is not None
    row, some = _text_row(tables, s, p)
    commits, length = token >= 0, s[State.LENGTH]
    before = tables.marks[slots, (length - 1 - commits.int()).clamp(min=0).long()]
    state = torch.where(some & ~opens, before % (1 << HELD_SHIFT), 0)
    value = tables.next[(row + state).long(), token.clamp(min=0).long()].int().clamp(min=0)
    held = torch.where(value & 1 > 0, 1, (before >> HELD_SHIFT) + 1)
    held = torch.where((value >> 1 > 0) & ~forced & ~opens, held, 0)
    mark = torch.where(some, held << HELD_SHIFT | value >> 1, 0)
    tables.marks[slots, torch.where(commits, length - 1, tables.marks.shape[1] - 1).long()] = mark.int()
    stands = torch.where(commits, mark, before) >> HELD_SHIFT
    return torch.where(s[State.PHASE] == Phase.THINK, stands, 0).int()


def _loop_run(
    tables: MachineTables, slots: Tensor, s: dict[State, Tensor], p: dict[Param, Tensor], token: Tensor, counts: Tensor
) -> Tensor:
    """[B]: how many tokens in a row equal the one `loop_ngram` before them, all of it inside thinking."""
    size = p[Param.LOOP_NGRAM]
    if not tables.loops:
        return torch.zeros_like(token)
    before = s[State.LENGTH] - size
    same = tables.history[slots, before.clamp(min=0).long()] == token
    same = same & counts & (size > 0) & (before >= s[State.MATCH_FROM])
    return torch.where(same, s[State.LOOP_RUN] + 1, torch.zeros_like(token))


def thinking_step(tables: MachineTables, slots: Tensor, draw: Tensor, masked: Tensor, bad: Tensor) -> Tensor:
    """One transition per row, in place on `tables`, by the best implementation for the device.

    Arguments and result as `thinking_step_reference`.
    """
    if use_triton(draw):
        return thinking_step_triton(tables, slots, draw, masked, bad)
    on_cpu = native_step.thinking_step if native_step.supports(tables) else thinking_step_reference
    return on_cpu(tables, slots, draw, masked, bad)


def thinking_step_cost(batch: int, state: int = len(State), params: int = len(Param)) -> tuple[int, int]:
    """(bytes moved, FLOPs) of one transition of `batch` rows: state in and out, parameters in, draws, the record."""
    return batch * (4 * (2 * state + params + len(Record)) + 17), 0
