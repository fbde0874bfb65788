"""The device tables that running sequences live in, one slot each: block table, history, machine and sampling state."""

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.schedule.sequence import Sequence
from engine.thinking.automaton import MAX_STATES, TokenBytes, advance, next_states
from engine.thinking.plan import TextDelimiters, ThinkingFormat, ThinkingPlan
from kernels.sampler import NEVER, Real, SamplingNeeds, SamplingTables, Whole
from kernels.thinking import Finish, MachineTables, Param, Phase, Record, State, Stop, Text

NOISE, FILTERS, PENALTIES, BIAS, MASKED, LOGPROBS, OPENER, LEAD, LOOPS, TEXT = (1 << i for i in range(10))
"""What a sequence needs of a step beyond a greedy draw; bits of `Sequence.needs`."""


_WIDTHS = {"strings": 32, "triggers": 1, "stop_ids": 4}
"""Widths that most requests keep to: a table that must be widened costs all captured steps."""


def needs_of(sequence: Sequence) -> int:
    """The bits above for one sequence."""
    params, plan = sequence.admission.prepared.params, sequence.admission.prepared.plan
    sampled = not params.greedy
    bits = (
        (sampled, NOISE),
        (sampled and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0), FILTERS),
        (penalised(sequence), PENALTIES),
        (bool(params.logit_bias or params.banned_token_ids) or params.allowed_token_ids is not None, BIAS),
        (plan.needs_masked, MASKED),
        (params.logprobs is not None, LOGPROBS),
        (plan.phase is Phase.PLAIN and plan.format.thinks and plan.format.text is None, OPENER),
        (plan.format.max_lead > 0, LEAD),
        (plan.loop_ngram > 0, LOOPS),
        (plan.format.text is not None, TEXT),
    )
    return sum(bit for wanted, bit in bits if wanted)


def penalised(sequence: Sequence) -> bool:
    """Whether the sequence's logits depend on what was written before."""
    params = sequence.admission.prepared.params
    return (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)


@cache
def sampling_needs(bits: int) -> SamplingNeeds:
    """The sampler's part of the bits."""
    return SamplingNeeds(
        noise=bool(bits & NOISE),
        filters=bool(bits & FILTERS),
        penalties=bool(bits & PENALTIES),
        bias=bool(bits & BIAS),
        masked=bool(bits & MASKED),
        logprobs=bool(bits & LOGPROBS),
    )


@dataclass(frozen=True, eq=False)
class StepTables:
    """What a step's rows read and write of the slot tables, and what the machine may skip for them. A captured step
    holds these very tensors and constants; where `SlotTables.for_step` gives another object, it is stale."""

    machine: MachineTables
    sampling: SamplingTables
    blocks: Tensor
    """[S, P] int32"""

    def last_tokens(self, slots: Tensor) -> Tensor | None:
        """[B, MAX_STATES]: the last tokens, newest first, from which some may be taken back and must then be counted
        out; None where nothing counts them."""
        if self.sampling.counts is None or not self.machine.text:
            return None
        places = self.machine.state[slots, State.LENGTH, None] - torch.arange(1, MAX_STATES + 1, device=slots.device)
        return self.machine.history[slots[:, None], places.clamp(min=0).long()]

    def count(self, slots: Tensor, records: Tensor, last: Tensor | None) -> None:
        """Add committed tokens to the counts that penalties read, without those of `last` that were taken back."""
        tokens = records[:, Record.TOKEN]
        if self.sampling.counts is not None:
            if last is not None:
                taken = torch.arange(last.shape[1], device=last.device) < records[:, Record.TAKEN, None]
                self.sampling.counts.index_put_(
                    (slots[:, None].expand_as(last), last.clamp(min=0).long()), -taken.int(), accumulate=True
                )
            self.sampling.counts.index_put_(
                (slots, tokens.clamp(min=0).long()), (tokens >= 0).to(torch.int32), accumulate=True
            )


class SlotTables:
    """Rows are written when a sequence gets its slot and changed by the device alone after that; the block table
    gets the new page's number, once per page. S - 1 slots for sequences, C context, P pages per context, V vocabulary.

    The last row is the dummy request: finished, one token long, on the dummy page 0. Steps are padded with it: it
    writes where nobody reads, commits nothing, and needs no mask in any kernel.
    """

    def __init__(
        self,
        device: torch.device,
        num_slots: int,
        context: int,
        page_size: int,
        columns: int,
        eos_ids: Seq[int],
        traits: Tensor,
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        """`columns` of the logits, of which the first V exist; `traits` [V] uint8: bits of kernels.thinking.Trait;
        `token_bytes` of each token, for delimiters of plain text."""
        self.num_slots = rows = num_slots + 1

        def table(*shape: int, fill: int = -1) -> Tensor:
            return torch.full((rows, *shape), fill, dtype=torch.int32, device=device)

        self.device, self.vocab, self._columns, self.context = device, len(traits), columns, context
        self.dummy = num_slots
        """The dummy request's slot."""
        pages = -(-context // page_size) + 1
        self.host_blocks = np.zeros((rows, pages), dtype=np.int32)
        """[S, P], the block table on the host"""
        self.blocks = table(pages, fill=0)
        """[S, P] int32"""
        self._longest_lead = self._longest_opener = 0
        self._for_steps: dict[tuple[int, int, bool, bool], StepTables] = {}
        self._token_bytes = token_bytes
        self._vocabulary: TokenBytes | None = None
        self._text_rows: dict[TextDelimiters, dict[Phase, tuple[int, np.ndarray]]] = {}
        self._pages_written = [0] * rows
        self._texts: dict[int, tuple[object, ...]] = {}
        """What stands in each slot's rows of delimiters and ends: the next request's are mostly the same"""
        self._new_pages: list[tuple[int, int]] = []
        self.machine = MachineTables(
            state=table(len(State), fill=0),
            params=table(len(Param), fill=0),
            strings=table(len(Text), _WIDTHS["strings"]),
            trigger_last=table(_WIDTHS["triggers"]),
            trigger_lead=table(_WIDTHS["triggers"], fill=0),
            stop_ids=table(_WIDTHS["stop_ids"]),
            history=table(context + 1),
            eos_ids=torch.tensor(list(eos_ids) or [-1], dtype=torch.int32, device=device),
            traits=traits.to(device),
        )
        self.sampling = SamplingTables(
            real=torch.zeros(rows, len(Real), device=device), whole=table(len(Whole), fill=0)
        )
        self.machine.state[self.dummy, State.FINISH] = Finish.STOP
        self.machine.state[self.dummy, State.LENGTH] = 1
        self.machine.history[self.dummy, 0] = 0

    def seat(self, sequence: Sequence) -> None:
        """Write every row of the sequence's slot. A preempted sequence gets back the machine state it had."""
        slot, plan = sequence.slot, sequence.admission.prepared.plan
        self._pages_written[slot] = 0
        self.write_pages(sequence)
        self._seat_machine(slot, plan)
        self._write(self.machine.history[slot], sequence.tokens)
        if sequence.saved_state is not None:
            self.restore(slot, sequence.saved_state)
        else:
            self._write(self.machine.state[slot], _first_state(plan))
            self._first_mark(slot, plan, sequence.tokens)
        self._seat_sampling(sequence)

    def save(self, slot: int) -> list[Tensor]:
        """What the machine knows of the slot's sequence beyond its tokens."""
        rows = (self.machine.state, self.machine.marks)
        return [table[slot].clone() for table in rows if table is not None]

    def restore(self, slot: int, saved: list[Tensor]) -> None:
        """Give the slot what `save` returned."""
        for table, row in zip((self.machine.state, self.machine.marks), saved, strict=False):  # marks may be newer
            if table is not None:
                table[slot] = row

    def register(self, format: ThinkingFormat) -> None:
        """Make the rows for the format's delimiters, where they are plain text."""
        text = format.text
        if text is None or text in self._text_rows:
            return
        if self._vocabulary is None:
            assert self._token_bytes is not None, "delimiters of plain text need the tokens' bytes"
            self._vocabulary = TokenBytes(self.vocab, self._token_bytes)
        think, plain = (
            next_states([pattern.encode() for pattern in patterns], self._vocabulary)
            for patterns in (text.triggers, (text.opener,))
        )
        old = self.machine.next
        start = 0 if old is None else len(old)
        self._text_rows[text] = {Phase.THINK: (start, think), Phase.PLAIN: (start + len(think), plain)}
        new = to_device(np.concatenate([think, plain]), torch.int16, self.device)
        marks = self.machine.marks
        self.machine = replace(
            self.machine,
            next=new if old is None else torch.cat([old, new]),
            marks=torch.zeros_like(self.machine.history) if marks is None else marks,
        )
        self._for_steps.clear()

    def write_pages(self, sequence: Sequence) -> None:
        """Enter the pages that the sequence got since the last call; `new_pages` then brings them to the device."""
        slot, pages = sequence.slot, sequence.pages
        for at in range(self._pages_written[slot], len(pages)):
            self.host_blocks[slot, at] = pages[at]
            self._new_pages.append((slot * self.host_blocks.shape[1] + at, pages[at]))
        self._pages_written[slot] = len(pages)

    def new_pages(self) -> list[tuple[int, int]]:
        """(place in the flat block table, page) of what `write_pages` entered since the last call."""
        new, self._new_pages = self._new_pages, []
        return new

    def flush_pages(self) -> None:
        """Bring new pages to the device in one copy of their own: for steps that do not bring them as an input."""
        if self._new_pages:
            place, page = to_device(self.new_pages(), torch.int64, self.device).T
            self.blocks.view(-1)[place] = page.int()

    def for_step(self, bits: int) -> StepTables:
        """The tables for a step that does what `bits` ask for: the same object until a table is replaced by a wider
        one, or a longer delimiter must be matched."""
        lead, opener = self._longest_lead if bits & LEAD else 0, self._longest_opener if bits & OPENER else 0
        key = lead, opener, bool(bits & LOOPS), bool(bits & TEXT)
        if key not in self._for_steps:
            machine = replace(self.machine, max_lead=lead, max_opener=opener, loops=key[2], text=key[3])
            self._for_steps[key] = StepTables(machine, self.sampling, self.blocks)
        return self._for_steps[key]

    def _seat_machine(self, slot: int, plan: ThinkingPlan) -> None:
        format = plan.format
        strings = (plan.extension, format.end, plan.budget_end, format.opener)
        old, triggers = self.machine, len(format.triggers)
        wide = replace(
            old,
            strings=_widen(old.strings, max(map(len, strings))),
            trigger_last=_widen(old.trigger_last, triggers),
            trigger_lead=_widen(old.trigger_lead, triggers, fill=0),
            stop_ids=_widen(old.stop_ids, len(plan.stop_ids)),
        )
        kept = wide.strings is old.strings and wide.trigger_last is old.trigger_last and wide.stop_ids is old.stop_ids
        if not kept:
            self.machine = wide
            self._for_steps.clear()
            self._texts.clear()
        self._longest_lead = max(self._longest_lead, format.max_lead)
        self._longest_opener = max(self._longest_opener, len(format.opener) if format.text is None else 0)
        self.register(format)
        machine, numbers = self.machine, plan.numbers
        if format.text is not None:
            rows = self._text_rows[format.text]
            numbers[Param.TEXT_ROW], numbers[Param.OPENER_ROW] = rows[Phase.THINK][0], rows[Phase.PLAIN][0]
        self._write(machine.params[slot], numbers)
        texts = (strings, format.triggers, plan.stop_ids)
        if self._texts.get(slot) == texts:
            return
        self._texts[slot] = texts
        for row, ids in zip(machine.strings[slot], strings, strict=True):
            self._write(row, ids, -1)
        self._write(machine.trigger_last[slot], [t[-1] for t in format.triggers], -1)
        self._write(machine.trigger_lead[slot], [len(t) - 1 for t in format.triggers], 0)
        self._write(machine.stop_ids[slot], plan.stop_ids, -1)

    def _first_mark(self, slot: int, plan: ThinkingPlan, prompt: Seq[int]) -> None:
        """The prompt may end inside a delimiter of plain text, which then is recognised; none of it is taken back."""
        if plan.format.text is None or self.machine.marks is None:
            return
        rows = self._text_rows[plan.format.text].get(plan.phase)
        state = 0 if rows is None else advance(rows[1], 0, plan.reading(prompt))
        self.machine.marks[slot, plan.prompt_len - 1] = state

    def _seat_sampling(self, sequence: Sequence) -> None:
        slot, params, seed = sequence.slot, sequence.admission.prepared.params, sequence.admission.seed
        real = {
            Real.TEMPERATURE: 0.0 if params.greedy else params.temperature,
            Real.TOP_P: params.top_p,
            Real.MIN_P: params.min_p,
            Real.REPETITION: params.repetition_penalty,
            Real.PRESENCE: params.presence_penalty,
            Real.FREQUENCY: params.frequency_penalty,
        }
        self.sampling.real[slot] = to_device([real[c] for c in Real], torch.float32, self.device)
        low, high = seed & 0xFFFFFFFF, seed >> 32
        whole = {
            Whole.TOP_K: max(params.top_k, 0),
            Whole.SEED_LOW: low - (low >> 31 << 32),
            Whole.SEED_HIGH: high,
            Whole.SAMPLE: sequence.sample,
        }
        self._write(self.sampling.whole[slot], [whole[c] for c in Whole])
        rows, biased = len(self.machine.state), bool(needs_of(sequence) & BIAS)
        if biased and self.sampling.bias is None:
            self.sampling = replace(self.sampling, bias=torch.zeros(rows, self._columns, device=self.device))
            self._for_steps.clear()
        if self.sampling.bias is not None:
            self.sampling.bias[slot] = (
                to_device(_bias_row(sequence, self._columns).numpy(), torch.float32, self.device) if biased else 0.0
            )
        if penalised(sequence) and self.sampling.counts is None:
            shape = (rows, self._columns)
            self.sampling = replace(
                self.sampling,
                counts=torch.zeros(shape, dtype=torch.int32, device=self.device),
                in_prompt=torch.zeros(shape, dtype=torch.bool, device=self.device),
            )
            self._for_steps.clear()
        if self.sampling.counts is not None and self.sampling.in_prompt is not None:
            tokens = np.frombuffer(sequence.tokens, dtype=np.int32)
            prompt, response = np.split(tokens, [sequence.admission.prepared.plan.prompt_len])
            counts, present = (np.bincount(part, minlength=self._columns) for part in (response, prompt))
            self.sampling.counts[slot] = to_device(counts.astype(np.int32), torch.int32, self.device)
            self.sampling.in_prompt[slot] = to_device(present > 0, torch.bool, self.device)

    def _write(self, row: Tensor, values: Seq[int] | array, pad: int | None = None) -> None:
        """The first columns of a row; the rest becomes `pad` unless it is None."""
        if len(values):
            row[: len(values)] = to_device(values, torch.int32, self.device)
        if pad is not None:
            row[len(values) :] = pad


def to_device(values: Seq[Any] | array | np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of host values, brought over without waiting: on CUDA through pinned memory, which the caching
    host allocator does not hand out again before the copy is done."""
    on_host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return on_host if device.type == "cpu" else on_host.to(device, non_blocking=True)


def _first_state(plan: ThinkingPlan) -> list[int]:
    closing = plan.phase is Phase.CLOSING
    values = dict.fromkeys(State, 0) | {
        State.PHASE: plan.phase,
        State.LENGTH: plan.prompt_len,
        State.THINKING: plan.thinking,
        State.EXTENSIONS_LEFT: plan.extensions,
        State.NEWLINE: plan.newline,
        State.MATCH_FROM: plan.match_from,
        State.FORCED: Text.END + 1 if closing else 0,
        State.FORCED_POS: plan.closing_at,
        State.STOP_REASON: Stop.NATURAL if closing else Stop.NONE,
    }
    return [int(values[c]) for c in State]


def _bias_row(sequence: Sequence, columns: int) -> Tensor:
    params = sequence.admission.prepared.params
    row = torch.zeros(columns)
    if params.allowed_token_ids is not None:
        row.fill_(NEVER)
        row[list(params.allowed_token_ids)] = 0.0
    for token, bias in (params.logit_bias or {}).items():
        row[token] += bias
    row[list(params.banned_token_ids)] = NEVER
    return row


def _widen(table: Tensor, width: int, fill: int = -1) -> Tensor:
    """`table` with its last dimension at least `width` (doubled, so that it happens a few times in all)."""
    if width <= table.shape[-1]:
        return table
    wide = table.new_full((*table.shape[:-1], max(width, 2 * table.shape[-1])), fill)
    wide[..., : table.shape[-1]] = table
    return wide
