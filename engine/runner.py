"""One step on the device: forward pass, draw, thinking machine. Nothing here reads a tensor back.

Launch and read are two calls: `launch` queues a step and returns at once on CUDA, `Launched.read` waits for that step
alone. So the loop may launch step n+1 before it has read step n; the next input of a decoding sequence is taken from
its `history` row on the device, and its position from the machine's state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.batch import AttentionMeta, Batch, StepResult
from engine.scheduler import Chunk, Step
from engine.sequence import Control, Sequence
from engine.slots import MASKED, SlotTables, needs_of, sampling_needs
from kernels.pages import copy_pages
from kernels.sampler import sample
from kernels.thinking import Param, Record, State, thinking_step


class Model(Protocol):
    """What the runner needs of a decoder (`engine.model.Decoder`)."""

    def forward(
        self, ids: Tensor, positions: Tensor, meta: AttentionMeta, kv: list[tuple[Tensor, Tensor]]
    ) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Read:
    """A step's result on the host; arrays as in StepResult."""

    records: np.ndarray
    logprobs: np.ndarray | None
    top_ids: np.ndarray | None
    top_logprobs: np.ndarray | None


class Launched:
    """A step in flight."""

    def __init__(self, rows: list[Sequence], result: StepResult | None) -> None:
        self.rows = rows
        self._result, self._event = result, None
        if result is not None and result.records.is_cuda:
            optional = (result.logprobs, result.top_ids, result.top_logprobs)
            self._result = StepResult(_pinned(result.records), *(None if t is None else _pinned(t) for t in optional))
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> Read | None:
        """Wait for the step and return what it drew; None where no row drew."""
        if self._event is not None:
            self._event.synchronize()
        if self._result is None:
            return None
        r = self._result
        optional = (None if t is None else t.numpy() for t in (r.logprobs, r.top_ids, r.top_logprobs))
        return Read(r.records.numpy(), *optional)


def _pinned(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Runner:
    """Owns the KV cache and the slot tables of one rank."""

    def __init__(self, model: Model, kv: list[tuple[Tensor, Tensor]], tables: SlotTables, page_size: int) -> None:
        self.model, self.kv, self.tables, self.page_size = model, kv, tables, page_size
        self._device = tables.device

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Queue a step. Slots change hands first: states saved, tables written, forks' pages copied."""
        for sequence, slot in step.preempted:
            sequence.saved_state = self.tables.save(slot)
        for sequence in step.admitted:
            self._seat(sequence)
        if step.copies:
            source, target = self._ids([pair[0] for pair in step.copies]), self._ids([pair[1] for pair in step.copies])
            copy_pages([cache for layer in self.kv for cache in layer], source, target)
        if not step.tokens:
            return Launched([], None)
        batch = self._batch(step)
        hidden = self.model.forward(batch.ids, batch.positions, batch.meta, self.kv)
        rows = step.rows
        return Launched(rows, self._draw(hidden, batch, rows) if rows else None)

    def control(self, sequence: Sequence, control: Control) -> None:
        """Live control: changes what the sequence's next draw meets. A new budget is `sequence.budget`."""
        tables, slot = self.tables.machine, sequence.slot
        if control is Control.EXTEND:
            sequence.needs |= MASKED
        if slot < 0:
            sequence.controls.append(control)
        elif control is Control.EXTEND:
            tables.state[slot, State.EXTENSIONS_LEFT] += 1
        elif control is Control.END_THINKING:
            tables.state[slot, State.END_REQUESTED] = 1
        elif sequence.budget is not None:
            tables.params[slot, Param.BUDGET] = sequence.budget

    def _seat(self, sequence: Sequence) -> None:
        sequence.needs |= needs_of(sequence)
        self.tables.seat(sequence)
        controls, sequence.controls = sequence.controls, []
        for control in (*controls, Control.SET_BUDGET):  # the plan's own budget was just written
            self.control(sequence, control)

    def _batch(self, step: Step) -> Batch:
        decodes, tables = step.decodes, self.tables
        for sequence in decodes:
            tables.write_pages(sequence)
        for chunk in step.chunks:
            tables.write_pages(chunk.sequence)
        tables.flush_pages()
        rows = self._ids([s.slot for s in decodes] + [c.sequence.slot for c in step.chunks])
        slots = rows[: len(decodes)]
        # Where each decoding sequence stands is the machine's state: the host may not know yet what was committed.
        last = tables.machine.state[slots, State.LENGTH].long() - 1
        ids, positions = tables.machine.history[slots, last].long(), last
        page = tables.blocks[slots, last // self.page_size].long()
        mapping, context = page * self.page_size + last % self.page_size, (last + 1).int()
        longest = max((s.length for s in decodes), default=0)
        cu_q, max_q = [0], 0
        if step.chunks:
            host = [self._chunk_inputs(chunk) for chunk in step.chunks]
            chunk_ids, chunk_positions, chunk_mapping = (
                torch.from_numpy(np.concatenate(part)).to(self._device, non_blocking=True)
                for part in zip(*host, strict=True)
            )
            ends = [chunk.start + chunk.count for chunk in step.chunks]
            ids, positions = torch.cat([ids, chunk_ids]), torch.cat([positions, chunk_positions])
            mapping, context = torch.cat([mapping, chunk_mapping]), torch.cat([context, self._ids(ends).int()])
            cu_q = [0, *np.cumsum([chunk.count for chunk in step.chunks]).tolist()]
            max_q, longest = max(chunk.count for chunk in step.chunks), max(longest, *ends)
        meta = AttentionMeta(
            slot_mapping=mapping,
            block_tables=tables.blocks[rows, : -(-longest // self.page_size)],
            context_lens=context,
            num_decodes=len(decodes),
            cu_q=self._ids(cu_q).int(),
            max_q=max_q,
            max_context=longest,
        )
        sampled = list(range(len(decodes)))
        for end, chunk in zip(cu_q[1:], step.chunks, strict=True):
            sampled += [len(decodes) + end - 1] * len(chunk.samples)
        return Batch(ids, positions, meta, self._ids(sampled), self._ids([s.slot for s in step.rows]))

    def _chunk_inputs(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, positions, slot mapping) of one chunk, int64."""
        positions = np.arange(chunk.start, chunk.start + chunk.count)
        ids = np.array(chunk.sequence.tokens[chunk.start : chunk.start + chunk.count], dtype=np.int64)
        pages = self.tables.host_pages(chunk.sequence.slot)[positions // self.page_size].astype(np.int64)
        return ids, positions, pages * self.page_size + positions % self.page_size

    def _draw(self, hidden: Tensor, batch: Batch, rows: list[Sequence]) -> StepResult:
        bits = 0
        for sequence in rows:
            bits |= sequence.needs
        tables, needs = self.tables, sampling_needs(bits)
        machine = tables.machine_for(bits)
        logits = self.model.logits(hidden[batch.sampled])
        own = torch.log_softmax(logits[:, : tables.vocab], 1) if needs.logprobs else None
        draws = sample(logits, tables.sampling, machine, batch.slots, tables.vocab, needs)
        records = thinking_step(machine, batch.slots, draws.draw, draws.masked, draws.bad)
        token = records[:, Record.TOKEN]
        tables.count(batch.slots, token)
        if own is None:
            return StepResult(records)
        most = max(s.admission.params.logprobs or 0 for s in rows)
        chosen = own.gather(1, token.clamp(min=0).long()[:, None])[:, 0]
        top = own.topk(min(most, tables.vocab), 1)
        return StepResult(records, chosen, top.indices, top.values)

    def _ids(self, values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64).to(self._device, non_blocking=True)
