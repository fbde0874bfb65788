"""Branches: sequences on the engine that step, fork, are written to and closed, and what it all cost.

A branch is token ids behind a prompt. A step is a request of prompt and path that pauses at the step's end, so budgets
and "Wait" act on the whole path as on a request that never paused, and what branches share is computed once: the engine
finds it by content, inside a page too. Nothing is tokenized twice, and nothing is held between steps that could leak.
"""

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.engine import Engine
from engine.errors import EngineDead, InputError, is_whole, shown
from engine.handle import Handle
from engine.request import Logprob, SamplingParams
from kernels.thinking_tables import Phase


@dataclass
class Ledger:
    """Tokens of one search."""

    generated: int = 0
    """drawn or forced, once, however many branches share them"""
    scored: int = 0
    """computed by reward models"""
    reused: int = 0
    """that reward models found computed already"""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, generated: int = 0, scored: int = 0, reused: int = 0) -> None:
        """Count tokens, from any thread."""
        with self._lock:
            self.generated += generated
            self.scored += scored
            self.reused += reused


@dataclass(frozen=True)
class Step:
    """What a step added: ids, their log-probability under the model without forced ones, whether the branch ended."""

    token_ids: tuple[int, ...]
    logprob: float
    finished: bool


class Branch:
    """One growing sequence. Not safe from several threads; different branches are."""

    def __init__(self, engine: Engine, prompt: Sequence[int], params: SamplingParams, ledger: Ledger | None = None):
        """`params` hold for the path as a whole; without a seed, the engine's. Raises InputError for what they cannot
        say of a path that is sampled step by step."""
        if params.n != 1:
            raise InputError(f"n is {params.n}; a branch is one sequence, fork it instead")
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(params, name):
                raise InputError(f"{name} counts one request's output, not a path's; give repetition_penalty instead")
        if params.pause or params.pause_tokens:
            raise InputError("pause and pause_tokens are a step's; give `stop` and `max_tokens` to step()")
        if isinstance(prompt, (str, Mapping)):
            raise InputError(
                f"the prompt of a branch is {shown(prompt)}; give token ids, engine.prepare(prompt, params).prompt"
            )
        seed = engine.config.seed if params.seed is None else params.seed
        self._engine, self._params = engine, replace(params, seed=seed)
        self.prompt = tuple(prompt)
        """Token ids in front of the path."""
        self._plan = engine.prepare(self.prompt, params).plan
        thinks, plain = self._plan.format.thinks, self._plan.phase is Phase.PLAIN
        if thinks and plain:
            raise InputError(
                "the prompt does not open the thinking; end it with the opener, or set thinking_format none"
            )
        if plain and params.stop:
            raise InputError(
                "stop would not be seen across steps of plain text; end steps with it, and close the branch"
            )
        if thinks and (params.ignore_eos or params.loop_ngram):
            raise InputError("ignore_eos and loop_ngram count one request's thinking, not a path's; leave them out")
        self.ledger = Ledger() if ledger is None else ledger
        self.token_ids: tuple[int, ...] = ()
        self.forced: tuple[int, ...] = ()
        """Positions in `token_ids` that were written, not drawn."""
        self.logprobs: tuple[Logprob, ...] = ()
        """One for each of `token_ids`, with the alternatives that `params.logprobs` asks for."""
        self.ends: tuple[int, ...] = ()
        """Length of the path behind each step."""
        self.answer = ""
        """What came after the thinking, once the branch has ended; without a format, the text."""
        self.thinking_tokens = 0
        """T: tokens in thinking along the path, and in the prompt."""
        self.finished = self.closed = False
        self._extended: tuple[int, ...] = ()
        """Where in the path each "Wait" begins."""
        self._forks = 0
        self._answers = False
        """Whether the last step began behind the thinking."""
        self._pending: Handle | None = None

    def begin(self, stop: Sequence[str] = (), max_tokens: int | None = None) -> None:
        """Queue a step, which `end` waits for: steps of several branches run together. Raises InputError where the
        branch is closed, has ended or is in a step."""
        self._begin(self._step_params(stop, max_tokens))

    def end(self) -> Step:
        """Wait for the step that was begun. Raises EngineDead where it failed."""
        if self._pending is None:
            raise InputError("no step was begun")
        pending, self._pending = self._pending, None
        try:
            output = pending.result().outputs[0]
        except BaseException:  # an interrupt: nobody will read it
            pending.abort()
            raise
        if output.error is not None:
            raise EngineDead(f"a step failed: {output.error}")
        if output.finish_reason == "abort":
            raise EngineDead("the step was aborted: the engine was closed")
        assert output.logprobs is not None
        step = Step(tuple(output.token_ids), output.cumulative_logprob or 0.0, output.finish_reason != "pause")
        forced = tuple(len(self.token_ids) + position for position in output.forced)
        # An extension that is no text is not forced: somewhere in the step.
        extension = len(self._plan.extension)
        starts = forced[::extension] if extension else [len(self.token_ids)] * output.thinking.extensions
        self._extended += tuple(starts[: output.thinking.extensions])
        self.forced += forced
        self.token_ids += step.token_ids
        self.logprobs += tuple(output.logprobs)
        self.ends += (len(self.token_ids),)
        if not self._answers:
            self.thinking_tokens = output.thinking.tokens
        self.ledger.add(generated=len(step.token_ids))
        self.finished = step.finished
        if step.finished:  # earlier steps may have begun the answer
            self.answer = output.answer if output.thinking.stop_reason is not None else self._behind_end().strip()
        return step

    def step(self, stop: Sequence[str] = (), max_tokens: int | None = None) -> Step:
        """Draw up to the end of one of the `stop` strings, which stay in the path, or `max_tokens`, in what comes
        before the answer: once the thinking is over the branch is drawn to its end, and so it is without either."""
        self.begin(stop, max_tokens)
        return self.end()

    def fork(self, count: int, at: int | None = None) -> list["Branch"]:
        """`count` branches that go on from here, or from the first `at` tokens of the path, each with its own seed."""
        self._refuse(ended=False)
        if not is_whole(count, 1) or not (at is None or is_whole(at, 0, len(self.token_ids))):
            raise InputError(
                f"fork of {shown(count)} at {shown(at)}; give at least 1, at 0 to {len(self.token_ids)} tokens"
            )
        if at is not None and {at - 1, at} <= set(self.forced):
            raise InputError(f"fork at {at} is inside what was written; fork where that begins or ends")
        return [self._child(len(self.token_ids) if at is None else at) for _ in range(count)]

    def spread(self, count: int) -> list["Branch"]:
        """This branch and forks of it, `count` in all: it goes on with its own seed, as if nothing had forked."""
        return [self, *(self.fork(count - 1) if count > 1 else ())]

    def force(self, ids: Sequence[int]) -> None:
        """Write `ids` behind the path. What the model says of them is not known: log-probability 0, flagged."""
        self._refuse(self.finished)
        size, most = self._engine.tokenizer.size, self._params.max_tokens
        if not all(is_whole(token, 0, size - 1) for token in ids):
            raise InputError(f"force of {shown(list(ids))}; give token ids from 0 to {size - 1}")
        before = len(self.token_ids)
        if most is not None and before + len(ids) >= most:
            raise InputError(
                f"force of {len(ids)} tokens behind {before} leaves nothing of max_tokens {most}; raise it"
            )
        self.token_ids += tuple(ids)
        self.logprobs += tuple(Logprob(token, 0.0, forced=True) for token in ids)
        self.forced += tuple(range(before, len(self.token_ids)))
        self.ledger.add(generated=len(ids))

    def conclude(self) -> None:
        """Queue a last step that closes the thinking now, as a budget would, and answers: for `end` to wait for. So
        every open branch can be made a vote. Raises InputError as `begin` does."""
        params = self._step_params((), None)
        if self._plan.format.thinks:
            params = replace(
                params,
                thinking_token_budget=0,
                min_thinking_tokens=0,
                thinking_grace_tokens=0,
                thinking_budget_action="force_end",
            )
        self._begin(params)

    def close(self) -> None:
        """Drop the branch, and the step it is in: nothing can be added any more."""
        if self._pending is not None:
            self._pending.abort()
            self._pending = None
        self.closed = True

    @property
    def text(self) -> str:
        """The path as text, special tokens shown, the ending EOS not."""
        return self.spelled(self.token_ids)

    def spelled(self, ids: Sequence[int]) -> str:
        """Token ids of the path as text, special tokens shown, the ending EOS not."""
        eos = () if self._params.ignore_eos else self._engine.tokenizer.eos_token_ids
        return self._engine.tokenizer.decode(ids[:-1] if ids and ids[-1] in eos else ids)

    @property
    def path_tokens(self) -> int:
        """Tokens along this path, shared ones included."""
        return len(self.token_ids)

    @property
    def drawn(self) -> int:
        """Tokens along this path that the model drew."""
        return len(self.token_ids) - len(self.forced)

    @property
    def logprob(self) -> float:
        """Of what was drawn along the path, under the model."""
        return sum(one.logprob for one in self.logprobs if not one.forced)

    def _begin(self, params: SamplingParams) -> None:
        self._refuse(self.finished)
        prepared = self._engine.prepare([*self.prompt, *self.token_ids], params)
        self._answers = prepared.plan.phase is Phase.ANSWER
        self._pending = self._engine.submit_prepared(prepared)

    def _behind_end(self) -> str:
        """The path's text; where its thinking was over before the last step, what stands behind the end."""
        form = self._plan.format
        if form.text is not None:
            return self.text.partition(form.text.triggers[0])[2] if self._answers else self.text
        size = len(form.end)
        places = range(len(self.token_ids) - size + 1) if self._answers else ()
        at = next((at + size for at in places if self.token_ids[at : at + size] == form.end), 0)
        return self.spelled(self.token_ids[at:])

    def _step_params(self, stop: Sequence[str], max_tokens: int | None) -> SamplingParams:
        """What is left of the path's parameters for its next step."""
        params, length = self._params, len(self.token_ids)
        return replace(
            params,
            pause=(stop,) if isinstance(stop, str) else tuple(stop),
            pause_tokens=max_tokens or 0,
            max_tokens=None if params.max_tokens is None else max(1, params.max_tokens - length),
            min_tokens=max(0, params.min_tokens - length),
            thinking_extensions=max(0, params.thinking_extensions - len(self._extended)),
            logprobs=params.logprobs or 0,
        )

    def _child(self, length: int) -> "Branch":
        """A branch with the first `length` tokens of this one, drawn on with a seed that follows from the parent's and
        the child's number, never from when it was made."""
        self._forks += 1
        digest = hashlib.sha256(f"{self._params.seed}|{length}|{self._forks}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
        child = copy.copy(self)
        child._params, child._forks, child.closed = replace(self._params, seed=seed), 0, False
        child.token_ids, child.logprobs = self.token_ids[:length], self.logprobs[:length]
        child.forced, child._extended = (
            tuple(at for at in places if at < length) for places in (self.forced, self._extended)
        )
        child.ends = tuple(end for end in self.ends if end <= length)
        if length < len(self.token_ids):
            child.finished, child.answer = False, ""
        return child

    def _refuse(self, ended: bool) -> None:
        if self.closed:
            raise InputError("the branch is closed; fork before you close it")
        if self._pending is not None:
            raise InputError("the branch is in a step; end it first")
        if ended:
            raise InputError("the branch has ended; fork it at an earlier token")


def grow(branches: Sequence[Branch], stop: Sequence[str] = (), max_tokens: int | None = None) -> list[Step]:
    """One step of every branch, all at once. Where one fails the others are dropped."""
    return _all_at_once(branches, lambda branch: branch.begin(stop, max_tokens))


def _all_at_once(branches: Sequence[Branch], begin: Callable[[Branch], None]) -> list[Step]:
    try:
        for branch in branches:
            begin(branch)
        return [branch.end() for branch in branches]
    except BaseException:
        for branch in branches:
            branch.close()
        raise


def conclude(branches: Sequence[Branch]) -> None:
    """Make every branch that has not ended close its thinking and answer, all at once. Where one fails the others are
    dropped."""
    _all_at_once(branches, lambda branch: branch.conclude())
