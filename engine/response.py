"""What becomes of a request on rank 0: tokens to text, deltas for whoever streams, the finished output."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from engine.core import Event
from engine.output import OutputStream, Piece
from engine.prepare import Prepared
from engine.request import (
    Completion,
    Delta,
    FinishReason,
    Logprob,
    RequestOutput,
    StopReason,
    ThinkingReport,
    Timing,
    TokenKind,
    Usage,
)
from engine.text import Tokenizer
from kernels.thinking import Finish, Stop

_FINISH_REASON: dict[int, FinishReason] = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.ERROR: "error"}
_NO_TOKEN = "no token could be drawn: the logits are NaN, or every token is banned; check the weights and the bans"


class _Sample:
    """One sample as it grows."""

    def __init__(self, index: int, stream: OutputStream) -> None:
        self.index, self.stream = index, stream
        self.token_ids: list[int] = []
        self.forced: list[int] = []
        self.logprobs: list[Logprob] = []
        self.thinking, self.extensions, self.stop_reason = 0, 0, int(Stop.NONE)
        self.shown = 0
        """token ids that went out with a delta"""
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None


class Response:
    """Collects one request's events. `emit` gets every delta, the last one with the output."""

    def __init__(
        self, request_id: str, index: int, prepared: Prepared, tokenizer: Tokenizer, emit: Callable[[Delta], None]
    ) -> None:
        params, plan = prepared.params, prepared.plan
        self.id, self.index, self._prepared, self._emit = request_id, index, prepared, emit
        self._samples = [
            _Sample(
                i,
                OutputStream(
                    tokenizer, prepared.prompt, plan.format, params.stop, tokenizer.eos_token_ids, params.ignore_eos,
                    params.min_tokens,
                ),
            )
            for i in range(params.n)
        ]  # fmt: skip
        self._cached = 0
        self._submitted = time.monotonic()
        self._seated: float | None = None
        self._first: float | None = None

    @property
    def done(self) -> bool:
        """Whether every sample has ended."""
        return all(s.finish_reason is not None for s in self._samples)

    def push(self, event: Event) -> bool:
        """Take one event of the core. True: a stop string was hit, so the core must be told to end the sample."""
        sample = self._samples[event.sequence.sample]
        if sample.finish_reason is not None:
            return False  # a step that was in flight when the host ended the sample
        self._note(event)
        sample.thinking, sample.extensions = event.thinking, event.extensions
        sample.stop_reason = event.stop_reason
        pieces: list[Piece] = []
        if event.token >= 0:
            if event.forced:
                sample.forced.append(len(sample.token_ids))
            sample.token_ids.append(event.token)
            if event.logprob is not None:
                sample.logprobs.append(Logprob(event.token, event.logprob, event.top, event.forced))
            pieces = sample.stream.push(event.token, TokenKind(event.kind), event.forced)
        if event.finish == Finish.ERROR:
            sample.error = _NO_TOKEN
        reason = "stop" if sample.stream.stop_hit is not None else _FINISH_REASON.get(event.finish)
        self._show(sample, pieces, reason)
        return sample.stream.stop_hit is not None and event.finish == Finish.RUNNING

    def abort(self) -> None:
        """End what has not ended, keeping what was written."""
        for sample in self._samples:
            if sample.finish_reason is None:
                self._show(sample, [], "abort")

    def _note(self, event: Event) -> None:
        if self._first is None:
            self._first = time.monotonic()
            self._seated = event.sequence.seated_at
            self._cached = event.sequence.cached

    def _show(self, sample: _Sample, pieces: list[Piece], reason: FinishReason | None) -> None:
        if reason is not None:
            pieces = pieces + sample.stream.finish()
            sample.finish_reason = reason
        last = len(sample.token_ids)
        for at, piece in enumerate(pieces):
            # Text that was held back goes out with the tokens before this one, the rest with this one.
            upto = last if at == len(pieces) - 1 else max(sample.shown, last - 1)
            self._emit(self._delta(sample, piece.text, piece.kind, upto, None))
        if reason is not None:
            self._emit(self._delta(sample, "", TokenKind.PLAIN, last, reason))

    def _delta(self, sample: _Sample, text: str, kind: TokenKind, upto: int, reason: FinishReason | None) -> Delta:
        ids = tuple(sample.token_ids[sample.shown : upto])
        forced = []
        for position in reversed(sample.forced):
            if position < sample.shown:
                break
            if position < upto:
                forced.append(position)
        sample.shown = upto
        output = self._output() if reason is not None and self.done else None
        return Delta(sample.index, text, kind, ids, tuple(reversed(forced)), reason, output)

    def _output(self) -> RequestOutput:
        now = time.monotonic()
        completions = [self._completion(s) for s in self._samples]
        prompt_reasoning = self._prepared.plan.thinking
        usage = Usage(
            prompt_tokens=len(self._prepared.prompt),
            cached_tokens=self._cached,
            completion_tokens=sum(len(s.token_ids) for s in self._samples),
            reasoning_tokens=sum(max(0, s.thinking - prompt_reasoning) for s in self._samples),
            forced_tokens=sum(len(s.forced) for s in self._samples),
        )
        timing = Timing(
            queue_s=(self._seated or now) - self._submitted,
            ttft_s=(self._first or now) - self._submitted,
            total_s=now - self._submitted,
        )
        return RequestOutput(self.id, self.index, self._prepared.prompt.tolist(), completions, usage, timing)

    def _completion(self, sample: _Sample) -> Completion:
        wants_logprobs = self._prepared.params.logprobs is not None
        reason = Stop(sample.stop_reason)
        report = ThinkingReport(
            tokens=sample.thinking,
            forced_tokens=len(sample.forced),
            extensions=sample.extensions,
            stop_reason=None if reason is Stop.NONE else cast(StopReason, reason.name.lower()),
        )
        return Completion(
            index=sample.index,
            text=sample.stream.text,
            reasoning=sample.stream.reasoning,
            answer=sample.stream.answer,
            token_ids=sample.token_ids,
            forced=sample.forced,
            finish_reason=sample.finish_reason or "abort",
            thinking=report,
            logprobs=sample.logprobs if wants_logprobs else None,
            cumulative_logprob=sum(p.logprob for p in sample.logprobs if not p.forced) if wants_logprobs else None,
            error=sample.error,
        )
