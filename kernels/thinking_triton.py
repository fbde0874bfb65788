"""The thinking machine as one Triton kernel: draws in, committed tokens, records and new state out.

A lane per row of the batch, so rows in different phases, with different budgets and strings, cost one launch and one
pass. The code follows `kernels.thinking.thinking_step_reference` line by line; there the table is explained.
"""

import torch

import kernels.thinking_tables as m
from kernels.language import cdiv, jit, jit_varying, launch, next_power_of_2, require_triton, tl


@jit
def _text_ends_with(history_ptr, strings_ptr, length, match_from, inside, SIZE: tl.constexpr):
    """The last SIZE tokens of the history equal the first SIZE of the string, none of them before `match_from`."""
    start = length - SIZE
    same = inside & (start >= match_from)
    for k in tl.static_range(SIZE):
        text = tl.load(history_ptr + tl.maximum(start + k, 0), mask=inside, other=-1)
        same = same & (text == tl.load(strings_ptr + k, mask=inside, other=-1))
    return same


@jit
def _next(next_ptr, vocab, row, state, token, inside):
    """What `next` says of the token where the match in `state` is under way; 0 where `row` is negative."""
    at = (tl.maximum(row, 0) + state).to(tl.int64) * vocab + tl.maximum(token, 0)
    return tl.load(next_ptr + at, mask=inside & (row >= 0), other=0).to(tl.int32)


@jit_varying("batch")
def _thinking_step_kernel(
    state_ptr,
    params_ptr,
    strings_ptr,
    trigger_last_ptr,
    trigger_lead_ptr,
    stop_ids_ptr,
    history_ptr,
    eos_ids_ptr,
    traits_ptr,
    next_ptr,
    marks_ptr,
    slots_ptr,
    draw_ptr,
    masked_ptr,
    bad_ptr,
    record_ptr,
    batch,
    string_len,
    history_stride,
    vocab,
    TRIGGERS: tl.constexpr,
    STOPS: tl.constexpr,
    EOS_IDS: tl.constexpr,
    MAX_LEAD: tl.constexpr,
    MAX_OPENER: tl.constexpr,
    LOOPS: tl.constexpr,
    TEXT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program of BLOCK rows."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < batch
    slot = tl.load(slots_ptr + row, mask=inside, other=0)
    draw = tl.load(draw_ptr + row, mask=inside, other=0).to(tl.int32)
    masked = tl.load(masked_ptr + row, mask=inside, other=0).to(tl.int32)
    bad = tl.load(bad_ptr + row, mask=inside, other=0) != 0
    zero = tl.zeros_like(draw)
    no = inside & (row < 0)

    state = state_ptr + slot * len(m.State)
    phase = tl.load(state + m.State.PHASE, mask=inside, other=0)
    finish = tl.load(state + m.State.FINISH, mask=inside, other=0)
    reason = tl.load(state + m.State.STOP_REASON, mask=inside, other=0)
    length = tl.load(state + m.State.LENGTH, mask=inside, other=0)
    count = tl.load(state + m.State.COMMITTED, mask=inside, other=0)
    thinking = tl.load(state + m.State.THINKING, mask=inside, other=0)
    extensions_left = tl.load(state + m.State.EXTENSIONS_LEFT, mask=inside, other=0)
    extensions_used = tl.load(state + m.State.EXTENSIONS_USED, mask=inside, other=0)
    under_way = tl.load(state + m.State.FORCED, mask=inside, other=0)
    forced_pos = tl.load(state + m.State.FORCED_POS, mask=inside, other=0)
    mask_next = tl.load(state + m.State.MASK_NEXT, mask=inside, other=0)
    newline_before = tl.load(state + m.State.NEWLINE, mask=inside, other=0)
    match_from = tl.load(state + m.State.MATCH_FROM, mask=inside, other=0)
    was_closed = tl.load(state + m.State.CLOSED, mask=inside, other=0)
    answered = tl.load(state + m.State.ANSWERED, mask=inside, other=0)
    loop_run = tl.load(state + m.State.LOOP_RUN, mask=inside, other=0)
    end_requested = tl.load(state + m.State.END_REQUESTED, mask=inside, other=0)

    params = params_ptr + slot * len(m.Param)
    budget = tl.load(params + m.Param.BUDGET, mask=inside, other=0)
    min_thinking = tl.load(params + m.Param.MIN_THINKING, mask=inside, other=0)
    grace = tl.load(params + m.Param.GRACE, mask=inside, other=0)
    truncate = tl.load(params + m.Param.TRUNCATE, mask=inside, other=0) > 0
    eos_stops = tl.load(params + m.Param.EOS_STOPS, mask=inside, other=0) > 0
    ignore_eos = tl.load(params + m.Param.IGNORE_EOS, mask=inside, other=0)
    max_tokens = tl.load(params + m.Param.MAX_TOKENS, mask=inside, other=0)
    max_context = tl.load(params + m.Param.MAX_CONTEXT, mask=inside, other=0)
    reserve = tl.load(params + m.Param.RESERVE, mask=inside, other=0)
    loop_limit = tl.load(params + m.Param.LOOP_RUN, mask=inside, other=0)
    extension_len = tl.load(params + m.Param.EXTENSION_LEN, mask=inside, other=0)
    end_len = tl.load(params + m.Param.END_LEN, mask=inside, other=0)
    budget_end_len = tl.load(params + m.Param.BUDGET_END_LEN, mask=inside, other=0)
    budget_end_at = tl.load(params + m.Param.BUDGET_END_AT, mask=inside, other=0)
    answer_at = tl.load(params + m.Param.ANSWER_AT, mask=inside, other=0)
    opener_len = tl.load(params + m.Param.OPENER_LEN, mask=inside, other=0)
    newline_id = tl.load(params + m.Param.NEWLINE_ID, mask=inside, other=0)

    strings = strings_ptr + slot * (len(m.Text) * string_len)
    history = history_ptr + slot * history_stride
    running = inside & (finish == m.Finish.RUNNING)
    think = phase == m.Phase.THINK

    # What was drawn, and how much of `end` already stands at the end of the text.
    is_eos = no
    for k in range(EOS_IDS):
        is_eos = is_eos | (draw == tl.load(eos_ids_ptr + k))
    stops = no
    for k in range(STOPS):
        stops = stops | (draw == tl.load(stop_ids_ptr + slot * STOPS + k, mask=inside, other=-1))
    trigger = no
    lead = zero
    half = zero
    for size in tl.static_range(MAX_LEAD + 1):
        stands = inside
        if size > 0:
            stands = _text_ends_with(history, strings + m.Text.END * string_len, length, match_from, inside, size)
        longer = no
        for k in tl.static_range(TRIGGERS):
            last = tl.load(trigger_last_ptr + slot * TRIGGERS + k, mask=inside, other=-1)
            leads = tl.load(trigger_lead_ptr + slot * TRIGGERS + k, mask=inside, other=0)
            hit = stands & (last >= 0) & (draw == last) & (leads == size)
            trigger = trigger | hit
            lead = tl.where(hit, tl.maximum(lead, leads), lead)
            longer = longer | (leads >= size)
        if size > 0:
            half = tl.where(stands & longer, size, half)
    ends = is_eos & (ignore_eos == 0)
    by_text = no
    complete = no
    interrupted = no
    held = zero
    started = zero
    hit = zero
    if TEXT:
        text_row = tl.load(params + m.Param.TEXT_ROW, mask=inside, other=-1)
        opener_row = tl.load(params + m.Param.OPENER_ROW, mask=inside, other=-1)
        by_text = inside & (text_row >= 0)
        marks = marks_ptr + slot * history_stride
        some = by_text & (think | (phase == m.Phase.PLAIN))
        mark = tl.load(marks + tl.maximum(length - 1, 0), mask=some, other=0)
        row_now = tl.where(think, text_row, opener_row)
        hit = _next(next_ptr, vocab, row_now, mark % (1 << m.HELD_SHIFT), draw, some)
        held = mark >> m.HELD_SHIFT
        complete = by_text & think & (hit < 0)
        interrupted = by_text & think & (complete | ends)
        started = tl.where(hit == m.HIT_INSIDE, zero, held)
        trigger = trigger | complete
    trigger_drawn = trigger | (ends & (eos_stops == 0))
    lead = tl.where(trigger, lead, half)
    # What a trigger of plain text takes back, or an EOS behind half a one; all limits are those without it.
    back = tl.where(interrupted & (mask_next <= 0), started, zero)
    thinking = thinking - back

    # The limit.
    room = tl.minimum(max_tokens, max_context) - count + back
    over_budget = thinking >= budget
    over_room = room <= reserve
    asked = (end_requested > 0) | (loop_run >= loop_limit)
    limit = think & (over_budget | over_room | asked)
    closes = tl.where(truncate & (complete == 0), room >= end_len - lead, room >= 0)

    # The table: each row takes what the rows before it left.
    r1 = running & (under_way > 0)
    left = running & (under_way <= 0)
    failed = left & bad
    left = left & (bad == 0)
    r2 = left & (phase != m.Phase.THINK)
    left = left & think
    few = (thinking < min_thinking) & (interrupted | (by_text == 0))
    r3 = left & (limit == 0) & (few | (mask_next > 0))
    left = left & (r3 == 0)
    r4 = left & ends & eos_stops
    left = left & (r4 == 0)
    fits = (thinking < budget - extension_len) & (room > reserve + extension_len)
    r5 = left & trigger_drawn & (limit == 0) & (extensions_left > 0) & fits
    left = left & (r5 == 0)
    r6 = left & trigger_drawn & closes
    left = left & (r6 == 0)
    r7 = left & ((limit & truncate) | (trigger_drawn & (closes == 0)))
    left = left & (r7 == 0)
    in_grace = ((newline_before == 0) & (thinking - grace < budget)) | (by_text & (hit > 0))
    r8 = left & limit & (over_room == 0) & (asked == 0) & in_grace
    left = left & (r8 == 0)
    r9 = left & limit
    r10 = left & (limit == 0)

    bare = r5 & (extension_len == 0)
    extends = r5.to(tl.int32)
    again = (r3 | bare) & (back > 0)
    taken = tl.where(again | r5 | (r6 & (complete == 0)), back, zero)
    taken = tl.where(r9 & by_text, held, taken)
    thinking = thinking + back - taken
    count = count - taken
    length = length - taken
    r3 = r3 & (again == 0)
    r5 = r5 & (bare == 0)
    bare = bare & (again == 0)
    completes = r9 & (half > 0)
    r9 = r9 & (half <= 0)
    if TEXT:
        some = inside & (taken > 0)
        last_token = tl.load(history + tl.maximum(length - 1, 0), mask=some, other=0)
        ends_line = tl.load(traits_ptr + tl.maximum(last_token, 0), mask=some, other=0).to(tl.int32) & m.Trait.ENDS_LINE
        newline_before = tl.where(some, ends_line, newline_before)
        loop_run = tl.where(some, zero, loop_run)
    newline = r9 & (newline_before == 0)
    r9 = r9 & (newline_before != 0)
    natural = r6 & complete
    ending = (r6 & (natural == 0)) | completes
    lead = tl.where(by_text, zero, lead)

    # What is committed.
    which_text = tl.maximum(under_way - 1, 0)
    at_text = tl.minimum(tl.maximum(forced_pos, 0), string_len - 1)
    token = tl.where(r2 | r4 | natural | r8 | r10, draw, -1)
    token = tl.where(r1, tl.load(strings + which_text * string_len + at_text, mask=r1, other=-1), token)
    token = tl.where(r3 | bare, masked, token)
    token = tl.where(r5, tl.load(strings + m.Text.EXTENSION * string_len, mask=r5, other=-1), token)
    at_end = tl.minimum(tl.maximum(lead, 0), string_len - 1)
    token = tl.where(ending, tl.load(strings + m.Text.END * string_len + at_end, mask=ending, other=-1), token)
    token = tl.where(newline, newline_id, token)
    token = tl.where(r9, tl.load(strings + m.Text.BUDGET_END * string_len, mask=r9, other=-1), token)
    commits = token >= 0
    forced = r1 | r5 | completes | (r6 & (token != draw)) | newline | r9

    # The forced string under way after this token.
    which = tl.where(r1, under_way, zero)
    which = tl.where(r5, m.Text.EXTENSION + 1, which)
    which = tl.where(ending, m.Text.END + 1, which)
    which = tl.where(newline | r9, m.Text.BUDGET_END + 1, which)
    position = tl.where(r1, forced_pos + 1, zero)
    position = tl.where(ending, lead + 1, position)
    position = tl.where(r5 | r9, 1, position)
    whole = tl.where(which == m.Text.END + 1, end_len, budget_end_len)
    whole = tl.where(which == m.Text.EXTENSION + 1, extension_len, whole)
    ended = (which > 0) & (position >= whole)
    extended = ended & (which == m.Text.EXTENSION + 1)
    closed = (ended & (which != m.Text.EXTENSION + 1)) | natural
    written = which
    which = tl.where(ended, zero, which)

    # What the token is.
    at = position - 1 - budget_end_at
    kind_closing = tl.where(position > answer_at, m.ANSWER, m.DELIMITER)
    kind_closing = tl.where((at < 0) & (position > 0), m.REASONING, kind_closing)
    kind = tl.where(phase == m.Phase.ANSWER, m.ANSWER, zero)
    kind = tl.where(think, m.REASONING, kind)
    kind = tl.where((written == m.Text.END + 1) | natural, m.DELIMITER, kind)
    kind = tl.where(written == m.Text.BUDGET_END + 1, kind_closing, kind)

    # The opener, where the model wrote it itself and there is still room to close.
    opens = r2 & (phase == m.Phase.PLAIN) & (opener_len > 0) & (room - 1 >= reserve)
    if TEXT:
        spelled = opens & by_text & (hit < 0)
        opens = opens & (by_text == 0)
    else:
        spelled = no
    if MAX_OPENER > 0:
        start = length - opener_len + 1
        opens = opens & (start >= match_from)
        for k in tl.static_range(MAX_OPENER):
            needed = opens & (k < opener_len)
            where = tl.minimum(tl.maximum(start + k, 0), history_stride - 1)
            text = tl.where(k == opener_len - 1, draw, tl.load(history + where, mask=needed, other=-1))
            same = text == tl.load(strings + m.Text.OPENER * string_len + k, mask=needed, other=-1)
            opens = opens & (same | (k >= opener_len))
    else:
        opens = no
    opens = opens | spelled
    kind = tl.where(opens, m.OPENER, kind)

    # New state.
    before = length - tl.load(params + m.Param.LOOP_NGRAM, mask=inside, other=0)
    short = max_tokens - (count + taken) <= reserve
    stops = stops & (count >= tl.load(params + m.Param.MIN_TOKENS, mask=inside, other=0))
    count = count + commits.to(tl.int32)
    length = length + commits.to(tl.int32)
    adds = r3 | r5 | bare | r8 | r10 | (r1 & (written == m.Text.EXTENSION + 1))
    thinking = thinking + adds.to(tl.int32) - tl.where(ending, lead, zero) - tl.where(natural, started, zero)
    limit_reason = tl.where(over_room, zero + m.Stop.CONTEXT, zero + m.Stop.LOOP)
    limit_reason = tl.where(short, zero + m.Stop.MAX_TOKENS, limit_reason)
    limit_reason = tl.where(over_budget, zero + m.Stop.BUDGET, limit_reason)
    limit_reason = tl.where(end_requested > 0, zero + m.Stop.CLIENT, limit_reason)
    reason = tl.where(r6, tl.where(trigger, zero + m.Stop.NATURAL, zero + m.Stop.EOS), reason)
    reason = tl.where(completes | newline | r9, limit_reason, reason)
    reason = tl.where(r4, zero + m.Stop.EOS, reason)
    phase = tl.where(opens, zero + m.Phase.THINK, phase)
    phase = tl.where(ending | newline | r9, zero + m.Phase.CLOSING, phase)
    phase = tl.where(closed, zero + m.Phase.ANSWER, phase)

    full = commits & (count >= tl.minimum(max_tokens, max_context))
    finish = tl.where(full | r7, zero + m.Finish.LENGTH, finish)
    finish = tl.where((r2 & (ends | stops)) | r4, zero + m.Finish.STOP, finish)
    finish = tl.where(failed, zero + m.Finish.ERROR, finish)
    reason = tl.where(r7 | (full & (r4 == 0) & (phase == m.Phase.THINK)), zero + m.Stop.TRUNCATED, reason)

    if LOOPS:
        # The token stands at length - 1 now; `before` is as many places before it as the n-gram is long.
        same = (before < length - 1) & (before >= match_from) & (phase == m.Phase.THINK) & commits & (opens == 0)
        same = same & (tl.load(history + tl.maximum(before, 0), mask=inside, other=-1) == token)
        loop_run = tl.where(same, loop_run + 1, zero)
    else:
        loop_run = zero

    sampled_in_think = r3 | r8 | r10 | bare
    traits = tl.load(traits_ptr + tl.maximum(token, 0), mask=inside, other=0).to(tl.int32)
    visible = (traits & m.Trait.BLANK) == 0
    tl.store(state + m.State.PHASE, phase, mask=inside)
    tl.store(state + m.State.FINISH, finish, mask=inside)
    tl.store(state + m.State.STOP_REASON, reason, mask=inside)
    tl.store(state + m.State.LENGTH, length, mask=inside)
    tl.store(state + m.State.COMMITTED, count, mask=inside)
    tl.store(state + m.State.THINKING, thinking, mask=inside)
    tl.store(state + m.State.EXTENSIONS_LEFT, extensions_left - extends, mask=inside)
    tl.store(state + m.State.EXTENSIONS_USED, extensions_used + extends, mask=inside)
    tl.store(state + m.State.FORCED, which, mask=inside)
    tl.store(state + m.State.FORCED_POS, tl.where(which > 0, position, zero), mask=inside)
    mask_next = tl.where(sampled_in_think, zero, mask_next | (extended | again).to(tl.int32))
    tl.store(state + m.State.MASK_NEXT, mask_next, mask=inside)
    tl.store(state + m.State.NEWLINE, tl.where(commits, traits & m.Trait.ENDS_LINE, newline_before), mask=inside)
    tl.store(state + m.State.MATCH_FROM, tl.where(opens, length, match_from), mask=inside)
    tl.store(state + m.State.ANSWERED, answered + (r2 & (was_closed > 0) & visible).to(tl.int32), mask=inside)
    tl.store(state + m.State.CLOSED, was_closed | closed.to(tl.int32), mask=inside)
    tl.store(state + m.State.LOOP_RUN, loop_run, mask=inside)
    tl.store(history + tl.where(commits, length - 1, history_stride - 1), token, mask=inside)

    held = zero
    if TEXT:
        some = by_text & ((phase == m.Phase.THINK) | (phase == m.Phase.PLAIN))
        before = length - 1 - commits.to(tl.int32)
        mark = tl.load(marks + tl.maximum(before, 0), mask=inside, other=0)
        state_now = tl.where(opens | (some == 0), zero, mark % (1 << m.HELD_SHIFT))
        row_now = tl.where(phase == m.Phase.THINK, text_row, opener_row)
        hit = tl.maximum(_next(next_ptr, vocab, row_now, state_now, token, some), 0)
        touched = tl.where(hit % 2 == 1, 1, (mark >> m.HELD_SHIFT) + 1)
        touched = tl.where((hit // 2 > 0) & (forced == 0) & (opens == 0), touched, zero)
        entered = tl.where(some, touched * (1 << m.HELD_SHIFT) + hit // 2, zero)
        tl.store(marks + tl.where(commits, length - 1, history_stride - 1), entered, mask=inside)
        stands = tl.where(commits, entered, mark) >> m.HELD_SHIFT
        held = tl.where(phase == m.Phase.THINK, stands, zero)

    record = record_ptr + row * len(m.Record)
    tl.store(record + m.Record.TOKEN, token, mask=inside)
    tl.store(record + m.Record.KIND, kind, mask=inside)
    tl.store(record + m.Record.FORCED, forced.to(tl.int32), mask=inside)
    tl.store(record + m.Record.FINISH, finish, mask=inside)
    tl.store(record + m.Record.STOP_REASON, reason, mask=inside)
    tl.store(record + m.Record.THINKING, thinking, mask=inside)
    tl.store(record + m.Record.EXTENSIONS_USED, extensions_used + extends, mask=inside)
    tl.store(record + m.Record.TAKEN, taken, mask=inside)
    tl.store(record + m.Record.HELD, held, mask=inside)


def thinking_step_config(block: int = 32) -> dict[str, int | bool]:
    """A row per thread. One warp per program: a batch of 64 is two programs, all of them in one wave. (More rows per
    thread are unrolled: 1,024 in one warp took 45 s to compile.)"""
    return {"BLOCK": block, **launch(num_warps=max(1, block // 32))}


def thinking_step_triton(
    tables: m.MachineTables,
    slots: torch.Tensor,
    draw: torch.Tensor,
    masked: torch.Tensor,
    bad: torch.Tensor,
    block: int | None = None,
) -> torch.Tensor:
    """The launcher; arguments and result as `kernels.thinking.thinking_step_reference`."""
    require_triton()
    batch = slots.shape[0]
    record = torch.empty(batch, len(m.Record), dtype=torch.int32, device=draw.device)
    config = thinking_step_config() if block is None else thinking_step_config(next_power_of_2(block))
    if batch:
        _thinking_step_kernel[(cdiv(batch, int(config["BLOCK"])),)](
            tables.state,
            tables.params,
            tables.strings,
            tables.trigger_last,
            tables.trigger_lead,
            tables.stop_ids,
            tables.history,
            tables.eos_ids,
            tables.traits,
            tables.next if tables.text else None,
            tables.marks if tables.text else None,
            slots,
            draw,
            masked,
            bad,
            record,
            batch,
            tables.strings.shape[2],
            tables.history.stride(0),
            tables.traits.shape[0],
            TRIGGERS=tables.trigger_last.shape[1],
            STOPS=tables.stop_ids.shape[1],
            EOS_IDS=tables.eos_ids.shape[0],
            MAX_LEAD=tables.max_lead,
            MAX_OPENER=tables.max_opener,
            LOOPS=tables.loops,
            TEXT=tables.text,
            **config,
        )
    return record
