"""One step on the device: forward pass, draw, thinking machine. Nothing here reads a tensor back.

Launch and read are two calls: `launch` queues a step and returns at once on CUDA, `Launched.read` waits for that step
alone. So the loop may launch step n+1 before it has read step n; the next input of a decoding sequence is taken from
its `history` row on the device, and its position from the machine's state. A step without prompts is one call of
`_decode` on persistent inputs, which `StepGraphs` captures; one with prompts (`_mixed`) has tensors of its own.
docs/captured_step.md has the drawing.
"""

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.model.batch import READ_AT_ONCE, AttentionMeta, Batch, StepResult, TokenLogprobs
from engine.schedule.scheduler import Chunk, Step
from engine.schedule.sequence import Control, Sequence
from engine.step.graphs import CaptureReport, StepGraphs, StepKey, buckets_for
from engine.step.inputs import StepInputs
from engine.step.launched import Launched, ResultBuffers
from engine.step.slots import LOGPROBS, MASKED, NOISE, SlotTables, StepTables, needs_of, sampling_needs, to_device
from kernels.copy_pages import copy_pages
from kernels.decode_inputs import decode_inputs
from kernels.sampler import sample
from kernels.thinking import Param, Record, State, thinking_step


class Model(Protocol):
    """What the runner needs of a decoder (`engine.model.decoder.Decoder`)."""

    def forward(
        self, ids: Tensor, positions: Tensor, meta: AttentionMeta, kv: list[tuple[Tensor, Tensor]]
    ) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...
    def scores(self, hidden: Tensor, labels: Tensor) -> Tensor: ...


class Runner:
    """Owns the KV cache and the slot tables of one rank."""

    def __init__(
        self,
        model: Model,
        kv: list[tuple[Tensor, Tensor]],
        tables: SlotTables,
        page_size: int,
        step_graphs: bool = False,
    ) -> None:
        """`step_graphs`: decode steps are padded to buckets and, on CUDA, captured."""
        self.model, self.kv, self.tables, self.page_size = model, kv, tables, page_size
        self._device = device = tables.device
        sequences, width = tables.num_slots - 1, tables.blocks.shape[1]
        rows = max(sequences, buckets_for(sequences)[-1]) if step_graphs else sequences
        self._inputs = StepInputs(rows, tables.dummy, tables.dummy * width, device)
        self._graphs = StepGraphs(self._captured, self._inputs.clear, sequences, device) if step_graphs else None
        self._results = ResultBuffers(sequences, device)
        self._no_chunks = torch.zeros(1, dtype=torch.int32, device=device)

    @property
    def capture_report(self) -> CaptureReport:
        """What capturing has taken so far."""
        return self._graphs.report if self._graphs is not None else CaptureReport()

    @torch.inference_mode()
    def capture_at_start(self) -> CaptureReport:
        """Capture all buckets for greedy and for sampled requests; what else a request may need is captured when one
        comes that needs it. Nothing to do without graphs."""
        if self._graphs is None:
            return CaptureReport()
        return self._graphs.capture_all((MASKED, MASKED | NOISE), self.tables.for_step)

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
        for sequence in step.grown:
            if sequence.slot >= 0:  # else it was preempted or ended, and its pages are others'
                self.tables.write_pages(sequence)
        rows = step.rows
        if step.chunks:
            result = self._mixed(step, rows)
        elif rows:
            result = self._decodes(step)
        else:
            return Launched([])
        return Launched([]) if result is None else self._results.copy_out(rows, result)

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

    def _decodes(self, step: Step) -> StepResult:
        """A step of decodes alone, through a graph where there is one for so many."""
        rows = step.decodes
        slots = [s.slot for s in rows]
        bits, top = _needs(rows)
        pages = self.tables.new_pages()
        bucket = self._graphs.bucket(len(rows)) if self._graphs is not None else None
        if self._graphs is None or bucket is None:
            inputs = self._inputs.write(slots, pages, len(rows))
            return self._decode(inputs, self.tables.for_step(bits), bits, top, step.longest)
        # Always with the masked draw, and a power of two of log-probabilities: fewer kinds of graphs.
        key = StepKey(bucket, bits | MASKED, 1 << (top - 1).bit_length() if top else 0)
        capture = self._graphs.get(key, self.tables.for_step(key.needs))
        self._inputs.write(slots, pages, bucket)
        capture.replay()
        return capture.result

    def _captured(self, key: StepKey, tables: StepTables) -> StepResult:
        """What a graph holds: nothing in it depends on the host, and the context is bounded by its largest value."""
        context = tables.blocks.shape[1] * self.page_size
        return self._decode(self._inputs.device[:, : key.bucket], tables, key.needs, key.top, context)

    def _decode(self, inputs: Tensor, tables: StepTables, bits: int, top: int, longest: int) -> StepResult:
        """inputs [3, B]: see engine.step.inputs. Where each sequence stands is the machine's state: the host may not
        know yet what was committed."""
        machine, size = tables.machine, self.page_size
        rows = decode_inputs(inputs, machine.state, machine.history, tables.blocks, size, -(-longest // size))
        meta = AttentionMeta(
            slot_mapping=rows.slot_mapping,
            block_tables=rows.block_tables,
            context_lens=rows.context_lens,
            num_decodes=inputs.shape[1],
            cu_q=self._no_chunks,
            max_q=0,
            max_context=longest,
        )
        hidden = self.model.forward(rows.ids, rows.positions, meta, self.kv)
        return self._draw(hidden, inputs[0], tables, bits, top)

    def _mixed(self, step: Step, rows: list[Sequence]) -> StepResult | None:
        """A step with prompts in it; None where none of them is complete, nothing is read and nothing decodes."""
        self.tables.flush_pages()
        batch = self._batch(step, rows)
        hidden = self.model.forward(batch.ids, batch.positions, batch.meta, self.kv)
        result = StepResult(torch.empty(0, len(Record), dtype=torch.int32, device=self._device))
        if rows:
            bits, top = _needs(rows)
            result = self._draw(hidden[batch.sampled], batch.slots, self.tables.for_step(bits), bits, top)
        if batch.scored is not None:
            scored, labels = batch.scored
            result = replace(result, scores=self.model.scores(hidden[scored], labels))
        if batch.followed is not None:
            at, ids, most = batch.followed
            result = replace(result, followed=self._follow(hidden[at], ids, most))
        return result if rows or batch.scored or batch.followed else None

    def _batch(self, step: Step, rows: list[Sequence]) -> Batch:
        decodes, tables = step.decodes, self.tables
        seated = self._ids([s.slot for s in decodes] + [c.sequence.slot for c in step.chunks])
        slots = seated[: len(decodes)]
        last = tables.machine.state[slots, State.LENGTH].long() - 1
        page = tables.blocks[slots, last // self.page_size].long()
        chunk_ids, chunk_positions, chunk_mapping = (
            self._ids(np.concatenate(part))
            for part in zip(*(self._chunk_inputs(chunk) for chunk in step.chunks), strict=True)
        )
        ends = [chunk.start + chunk.count for chunk in step.chunks]
        longest = max(step.longest, *ends)
        cu_q = [0, *np.cumsum([chunk.count for chunk in step.chunks]).tolist()]
        meta = AttentionMeta(
            slot_mapping=torch.cat([page * self.page_size + last % self.page_size, chunk_mapping]),
            block_tables=tables.blocks[seated, : -(-longest // self.page_size)],
            context_lens=torch.cat([last + 1, self._ids(ends)]).int(),
            num_decodes=len(decodes),
            cu_q=self._ids(cu_q).int(),
            max_q=max(chunk.count for chunk in step.chunks),
            max_context=longest,
        )
        last_rows = [len(decodes) + end - 1 for end in cu_q[1:]]
        drawn = (at for at, chunk in zip(last_rows, step.chunks, strict=True) for _ in chunk.samples)
        places = {
            chunk.sequence.key: len(decodes) + begin - chunk.start
            for chunk, begin in zip(step.chunks, cu_q[:-1], strict=True)
        }
        scored, followed = ([places[s.key] + at for s, at in reads] for reads in (step.scored, step.followed))
        return Batch(
            ids=torch.cat([tables.machine.history[slots, last].long(), chunk_ids]),
            positions=torch.cat([last, chunk_positions]),
            meta=meta,
            sampled=self._ids([*range(len(decodes)), *drawn]),
            slots=self._ids([s.slot for s in rows]),
            scored=(self._ids(scored), self._labels(step.scored)) if scored else None,
            followed=(self._ids(followed), *self._next(step.followed)) if followed else None,
        )

    def _labels(self, reads: Seq[tuple[Sequence, int]]) -> Tensor:
        """The labels of each: [R, L] int64, padded with -1."""
        labels = [sequence.admission.prepared.labels for sequence, _ in reads]
        most = max(map(len, labels))
        return self._ids([[*ids, *[-1] * (most - len(ids))] for ids in labels]).view(len(reads), most)

    def _next(self, reads: Seq[tuple[Sequence, int]]) -> tuple[Tensor, int]:
        """The tokens that follow, [R] int64, and the most alternatives asked for beside one."""
        most = max(sequence.admission.prepared.tops or 0 for sequence, _ in reads)
        return self._ids([sequence.tokens[at + 1] for sequence, at in reads]), most

    def _chunk_inputs(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, positions, slot mapping) of one chunk, int64."""
        positions = np.arange(chunk.start, chunk.start + chunk.count)
        ids = np.array(chunk.sequence.tokens[chunk.start : chunk.start + chunk.count], dtype=np.int64)
        pages = self.tables.host_blocks[chunk.sequence.slot, positions // self.page_size].astype(np.int64)
        return ids, positions, pages * self.page_size + positions % self.page_size

    def _draw(self, hidden: Tensor, slots: Tensor, tables: StepTables, bits: int, top: int) -> StepResult:
        """hidden [B, H] of the rows that draw, slots [B] int64; `top` best log-probabilities where bits ask for any."""
        needs, vocab = sampling_needs(bits), self.tables.vocab
        logits = self.model.logits(hidden)
        own = torch.log_softmax(logits[:, :vocab], 1) if needs.logprobs else None
        draws = sample(logits, tables.sampling, tables.machine, slots, vocab, needs)
        last = tables.last_tokens(slots)
        records = thinking_step(tables.machine, slots, draws.draw, draws.masked, draws.bad)
        tables.count(slots, records, last)
        if own is None:
            return StepResult(records)
        return StepResult(records, TokenLogprobs.of(own, records[:, Record.TOKEN], top))

    def _follow(self, hidden: Tensor, ids: Tensor, most: int) -> TokenLogprobs:
        """hidden [R, H], ids [R] int64 of the tokens behind them: their log-probabilities, as `_draw` has them."""
        parts = [
            TokenLogprobs.of(torch.log_softmax(self.model.logits(rows)[:, : self.tables.vocab], 1), tokens, most)
            for rows, tokens in zip(hidden.split(READ_AT_ONCE), ids.split(READ_AT_ONCE), strict=True)
        ]
        return TokenLogprobs(*map(torch.cat, zip(*parts, strict=True)))

    def _ids(self, values: list[Any] | np.ndarray) -> Tensor:
        return to_device(values, torch.int64, self._device)


def _needs(rows: list[Sequence]) -> tuple[int, int]:
    """(bits of engine.step.slots that any row needs, most log-probabilities that one asks for)."""
    bits = 0
    for sequence in rows:
        bits |= sequence.needs
    top = max(s.admission.prepared.params.logprobs or 0 for s in rows) if bits & LOGPROBS else 0
    return bits, top
