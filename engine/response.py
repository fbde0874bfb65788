"""What becomes of a request on rank 0: tokens to text, deltas for whoever streams, the finished output.

A token costs the loop a few appends. Text is made of them right away where somebody reads the deltas or a stop string
may come up, otherwise for a run of tokens at once.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from engine.messages import Event
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
from engine.schedule.sequence import Prepared
from engine.text.output import KINDS, OutputStream, Piece, StopMatcher
from engine.text.spelled import SpelledStream
from engine.text.tokenizer import Tokenizer
from kernels.thinking_tables import Finish, Record, Stop

_FINISH_REASON: dict[int, FinishReason] = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.ERROR: "error"}
_RUN = 64
"""Tokens that wait to become text while nobody looks: many share one call, and no step pays for many at once."""
_BEFORE_ANSWER = (TokenKind.PLAIN, TokenKind.REASONING)
"""Where a response can pause."""
_NO_TOKEN = "no token could be drawn: the logits are NaN, or every token is banned; check the weights and the bans"


class Pauses:
    """When a sample pauses: behind one of some strings, or after some tokens, but not where its state would be lost:
    inside what the engine writes, or behind a token that may yet be taken back."""

    def __init__(self, strings: Sequence[str], tokens: int) -> None:
        self._matcher = StopMatcher(strings) if strings else None
        self._lasts = {string.encode()[-1:] for string in strings}
        self._tokens = tokens
        self._due = False

    def near(self, token: int, bytes_of: Callable[[int], bytes], count: int) -> bool:
        """Whether the sample may pause behind a token, which makes `count`: then it must become text."""
        if self._due or 0 < self._tokens <= count:
            return True
        return bool(self._lasts) and any(last in bytes_of(token) for last in self._lasts)

    def reached(self, pieces: Sequence[Piece], count: int, kind: int, certain: bool) -> bool:
        """Whether the sample pauses behind its last token, which has this `kind` and made these `pieces` of text
        certain; with it there are `count`. `certain`: the model drew it, and it will not be taken back."""
        for piece in pieces if self._matcher is not None else ():
            assert self._matcher is not None
            if piece.forced or piece.kind not in _BEFORE_ANSWER:
                self._matcher.tail = ""
            elif self._matcher.push(piece.text) is not None:
                self._due = True
        self._due |= 0 < self._tokens <= count
        return self._due and certain and kind in _BEFORE_ANSWER


class _Sample:
    """One sample as it grows."""

    def __init__(self, index: int, stream: OutputStream, run: int, pauses: Pauses | None) -> None:
        self.index, self.stream, self.pauses = index, stream, pauses
        self.token_ids: list[int] = []
        self.forced: list[int] = []
        self.logprobs: list[Logprob] = []
        self.kinds: list[int] = []
        """of the tokens that are not text yet, the last ones"""
        self.run = run
        """how many of them there may be"""
        self.record = [-1, *[0] * (len(Record) - 1)]
        """the last one: fields of kernels.thinking.Record"""
        self.pieces: list[Piece] = []
        """text that has not gone out"""
        self.shown_ids, self.shown_forced = 0, 0
        """what went out with a delta"""
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None


class Response:
    """Collects one request's events. `emit` gets every delta, the last one with the output."""

    def __init__(
        self, request_id: str, index: int, prepared: Prepared, tokenizer: Tokenizer, emit: Callable[[Delta], None]
    ) -> None:
        params, plan = prepared.params, prepared.plan
        self.id, self.index, self._prepared, self._emit = request_id, index, prepared, emit
        self.streams = False
        """Somebody reads deltas as they come: set it from any thread. Until then they are kept together."""
        text, start = plan.format.text, (tokenizer, prepared.prompt, plan.format)
        stream = partial(OutputStream, *start) if text is None else partial(SpelledStream, *start, text)
        pauses = bool(params.pause or params.pause_tokens)
        self._samples = [
            _Sample(
                i,
                stream(params.stop, tokenizer.eos_token_ids, params.ignore_eos, params.min_tokens),
                # requests that start together take turns
                1 if params.stop else 2 + (index + i) % (_RUN - 1),
                Pauses(params.pause, params.pause_tokens) if pauses else None,
            )
            for i in range(params.n)
        ]
        self._bytes = tokenizer.token_bytes
        self._open = params.n
        self._cached = 0
        self._submitted = time.monotonic()
        self._seated: float | None = None
        self._first: float | None = None

    @property
    def done(self) -> bool:
        """Whether every sample has ended."""
        return self._open == 0

    def logprobs(self, sample: int) -> Sequence[Logprob]:
        """Of the tokens of a sample so far; nothing where none were asked for."""
        return self._samples[sample].logprobs

    def thinking(self, sample: int) -> int:
        """Thinking tokens of a sample so far."""
        return self._samples[sample].record[Record.THINKING]

    def completion(self, sample: int) -> Completion:
        """What has become of a sample so far; its log-probabilities are those that will grow."""
        return self._completion(self._samples[sample])

    def said(self, sample: int) -> str:
        """The text of a sample outside thinking, as a stream shows it."""
        return self._samples[sample].stream.said

    def stop_hit(self, sample: int) -> str | None:
        """The stop string that has ended a sample."""
        return self._samples[sample].stream.stop_hit

    def push(self, event: Event) -> bool:
        """Take one event of the core. True: a stop string was hit, so the core must be told to end the sample."""
        sample = self._samples[event.sequence.sample]
        if sample.finish_reason is not None:
            return False  # a step that was in flight when the host ended the sample
        if self._first is None:
            self._first = time.monotonic()
            self._seated, self._cached = event.sequence.seated_at, event.sequence.cached
        sample.record = event.record
        token, kind, forced, finish, _, _, _, taken, held = event.record
        if taken:
            self._take_back(sample, taken)
        if token >= 0:
            at = len(sample.token_ids)
            if forced:
                sample.forced.append(at)
            sample.token_ids.append(token)
            if event.logprob is not None:
                sample.logprobs.append(Logprob(token, event.logprob, event.top, bool(forced)))
            waited_for = self.streams and sample.shown_ids == at
            if waited_for and not finish and sample.pauses is None:  # somebody waits for just this token
                text = sample.stream.push_ordinary(token, kind)
                if text:
                    sample.shown_ids = at + 1
                    sample.shown_forced += forced
                    self._emit(Delta(sample.index, text, KINDS[kind], (token,), (at,) if forced else ()))
                if text is not None:
                    return False
            sample.kinds.append(kind)
        near = sample.pauses is not None and (
            sample.stream.holds or (token >= 0 and sample.pauses.near(token, self._bytes, len(sample.token_ids)))
        )
        if not finish and not near and len(sample.kinds) < sample.run and not self.streams:
            return False
        if finish == Finish.ERROR:
            sample.error = _NO_TOKEN
        unshown = len(sample.pieces)
        self._write(sample)
        reason = "stop" if sample.stream.stop_hit is not None else _FINISH_REASON.get(finish)
        if reason is None and token >= 0 and sample.pauses is not None:
            count, certain = len(sample.token_ids), not (forced or held)
            reason = "pause" if sample.pauses.reached(sample.pieces[unshown:], count, kind, certain) else None
        self._show(sample, reason)
        return reason is not None and not finish

    def _take_back(self, sample: _Sample, count: int) -> None:
        """The last tokens are no longer part of the response: they were a delimiter's, and never shown."""
        self._write(sample)
        sample.stream.take_back(count)
        del sample.token_ids[-count:]
        del sample.logprobs[-count:]

    def abort(self) -> None:
        """End what has not ended, keeping what was written."""
        for sample in self._samples:
            if sample.finish_reason is None:
                self._write(sample)
                self._show(sample, "abort")

    def _write(self, sample: _Sample) -> None:
        """Make text of the tokens that wait."""
        kinds = sample.kinds
        if kinds:
            start = len(sample.token_ids) - len(kinds)
            forced = set(sample.forced[bisect_left(sample.forced, start) :])
            written = [at in forced for at in range(start, start + len(kinds))]
            sample.pieces += sample.stream.push_all(sample.token_ids[start:], kinds, written)
        kinds.clear()
        sample.run = 1 if sample.run == 1 else _RUN

    def _show(self, sample: _Sample, reason: FinishReason | None) -> None:
        """Deltas for the text that has not gone out; the sample's last one where it ends."""
        if reason is None and not self.streams:
            return
        if reason is not None:
            sample.pieces += sample.stream.finish()
            sample.finish_reason = reason
            self._open -= 1
        for piece in sample.pieces:
            self._emit(self._delta(sample, piece.text, piece.kind, max(sample.shown_ids, piece.end)))
        sample.pieces.clear()
        if reason is not None:
            end = self._delta(sample, "", TokenKind.PLAIN, len(sample.token_ids))
            self._emit(end._replace(finish_reason=reason, output=self._output() if self.done else None))

    def _delta(self, sample: _Sample, text: str, kind: TokenKind, upto: int) -> Delta:
        """A delta of `text` and of the token ids before `upto` that have not gone out."""
        shown, sample.shown_ids = sample.shown_ids, upto
        forced: list[int] = sample.forced[sample.shown_forced :]
        if forced and forced[-1] >= upto:
            forced = forced[: bisect_left(forced, upto)]
        sample.shown_forced += len(forced)
        return Delta(sample.index, text, kind, tuple(sample.token_ids[shown:upto]), tuple(forced))

    def _output(self) -> RequestOutput:
        now = time.monotonic()
        prompt_reasoning = self._prepared.plan.thinking
        usage = Usage(
            prompt_tokens=len(self._prepared.prompt),
            cached_tokens=self._cached,
            completion_tokens=sum(len(s.token_ids) for s in self._samples),
            reasoning_tokens=sum(max(0, s.record[Record.THINKING] - prompt_reasoning) for s in self._samples),
            forced_tokens=sum(len(s.forced) for s in self._samples),
        )
        return RequestOutput(
            id=self.id,
            index=self.index,
            prompt_token_ids=self._prepared.prompt.tolist(),
            outputs=[self._completion(s) for s in self._samples],
            usage=usage,
            timing=Timing(
                queue_s=(self._seated or now) - self._submitted,
                ttft_s=(self._first or now) - self._submitted,
                total_s=now - self._submitted,
            ),
        )

    def _completion(self, sample: _Sample) -> Completion:
        wants_logprobs = self._prepared.params.logprobs is not None
        record = sample.record
        reason = Stop(record[Record.STOP_REASON])
        return Completion(
            index=sample.index,
            text=sample.stream.text,
            reasoning=sample.stream.reasoning,
            answer=sample.stream.answer,
            token_ids=sample.token_ids,
            forced=sample.forced,
            finish_reason=sample.finish_reason or "abort",
            thinking=ThinkingReport(
                tokens=record[Record.THINKING],
                forced_tokens=len(sample.forced),
                extensions=record[Record.EXTENSIONS_USED],
                stop_reason=None if reason is Stop.NONE else cast(StopReason, reason.name.lower()),
            ),
            logprobs=sample.logprobs if wants_logprobs else None,
            cumulative_logprob=sum(p.logprob for p in sample.logprobs if not p.forced) if wants_logprobs else None,
            error=sample.error,
        )
