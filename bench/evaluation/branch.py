"""Sequence search on the engine: branches that step, fork, are written to and closed, and what it all cost.

A branch is token ids behind a prompt. Its steps go to the engine as prompt + path, so what branches share is computed
once (the engine's prefix cache) and nothing is tokenized twice. Strategies (best-of-N and majority in
`bench.evaluation.search`) are loops over this interface.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from engine import Engine, EngineDead, InputError, SamplingParams

_PLAIN = {
    it.name: getattr(SamplingParams(thinking_format="none"), it.name)
    for it in fields(SamplingParams)
    if "thinking" in it.name or it.name.startswith(("loop_", "min_answer", "answer_reserve"))
}
"""What makes a step plain text: no thinking field acts on it."""


@dataclass
class Ledger:
    """Tokens of one search. `generated` counts what was drawn or forced once, however many branches share it."""

    generated: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, tokens: int) -> None:
        """Count tokens, from any thread."""
        with self._lock:
            self.generated += tokens


@dataclass(frozen=True)
class Step:
    """What a step added: ids, the stop kept; their log-probability under the model; whether the branch ended."""

    token_ids: tuple[int, ...]
    logprob: float
    finished: bool


class Branch:
    """One growing sequence. Not safe from several threads; different branches are."""

    def __init__(self, engine: Engine, prompt: Sequence[int], params: SamplingParams, ledger: Ledger | None = None):
        """`params` sample every step; thinking fields apply where the path is inside thinking."""
        if params.n != 1:
            raise InputError(f"n is {params.n}; a branch is one sequence, fork it instead")
        self._engine, self._prompt, self._params = engine, tuple(prompt), params
        self.ledger = Ledger() if ledger is None else ledger
        self.token_ids: tuple[int, ...] = ()
        self.forced: tuple[int, ...] = ()
        """Positions in `token_ids` that were written, not drawn."""
        self.logprob = 0.0
        """Of what was drawn along the path."""
        self.drawn = 0
        self.finished = self.closed = False
        self._forks = 0

    def step(self, stop: Sequence[str] = (), max_tokens: int | None = None) -> Step:
        """Draw until one of the `stop` strings is complete or `max_tokens` are drawn; without either, to the end.

        A step with `stop` or `max_tokens` is plain text: no thinking field acts on it. The stop's tokens stay in the
        path. Raises InputError for a branch that is closed or has ended.
        """
        self._refuse(self.finished)
        params = replace(self._params, logprobs=0)
        partial = bool(stop) or max_tokens is not None
        if partial:
            params = replace(params, stop=tuple(stop), max_tokens=max_tokens or params.max_tokens, **_PLAIN)
        output = self._engine.generate([[*self._prompt, *self.token_ids]], params)[0].outputs[0]
        if output.error is not None:
            raise EngineDead(f"a step failed: {output.error}")
        self.forced += tuple(len(self.token_ids) + position for position in output.forced)
        self.token_ids += tuple(output.token_ids)
        self.logprob += output.cumulative_logprob or 0.0
        self.drawn += len(output.token_ids) - len(output.forced)
        self.ledger.add(len(output.token_ids))
        eos = bool(output.token_ids) and output.token_ids[-1] in self._engine.tokenizer.eos_token_ids
        self.finished = eos or not partial
        return Step(tuple(output.token_ids), output.cumulative_logprob or 0.0, self.finished)

    def fork(self, count: int, at: int | None = None) -> list["Branch"]:
        """`count` branches that go on from here, or from the first `at` tokens of the path, each with its own seed.

        Log-probabilities are only known for whole steps, so a fork inside the path starts them anew.
        """
        self._refuse(ended=False)
        if count < 1 or (at is not None and not 0 <= at <= len(self.token_ids)):
            raise InputError(f"fork of {count} at {at}; give at least 1, at 0 to {len(self.token_ids)} tokens")
        children = []
        for _ in range(count):
            child = Branch(self._engine, self._prompt, replace(self._params, seed=self._child_seed()), self.ledger)
            cut = len(self.token_ids) if at is None else at
            child.token_ids, child.forced = self.token_ids[:cut], tuple(p for p in self.forced if p < cut)
            if cut == len(self.token_ids):
                child.logprob, child.drawn, child.finished = self.logprob, self.drawn, self.finished
            children.append(child)
        return children

    def force(self, ids: Sequence[int]) -> None:
        """Write `ids` behind the path, such as the end of thinking: every pruned branch can be made to answer."""
        self._refuse(self.finished)
        before = len(self.token_ids)
        self.token_ids += tuple(ids)
        self.forced += tuple(range(before, len(self.token_ids)))
        self.ledger.add(len(ids))

    def close(self) -> None:
        """Drop the branch: nothing can be added any more. Its pages are the cache's, which frees them when needed."""
        self.closed = True

    @property
    def text(self) -> str:
        """The path as text, special tokens shown, the ending EOS not."""
        eos = self._engine.tokenizer.eos_token_ids
        ids = self.token_ids[:-1] if self.token_ids and self.token_ids[-1] in eos else self.token_ids
        return self._engine.tokenizer.decode(ids)

    @property
    def path_tokens(self) -> int:
        """Tokens along this path, shared ones included."""
        return len(self.token_ids)

    def _child_seed(self) -> int:
        """Children's seeds follow from the parent's and their number, never from when they were made."""
        self._forks += 1
        digest = hashlib.sha256(f"{self._params.seed}|{len(self.token_ids)}|{self._forks}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def _refuse(self, ended: bool) -> None:
        if self.closed:
            raise InputError("the branch is closed; fork before you close it")
        if ended:
            raise InputError("the branch has ended; fork it at an earlier token")
