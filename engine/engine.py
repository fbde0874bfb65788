"""The engine as a caller sees it: `generate`, `stream`, `submit`, on one process or many.

One thread runs the loop; callers hand it requests through a queue and wait. On ranks other than 0 the constructor
serves rank 0 until that closes, then leaves the process: the same script runs on every rank under torchrun.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from engine.build import refuse_scorer
from engine.config import EngineConfig
from engine.errors import EngineDead, InputError, shown, tell
from engine.handle import Handle
from engine.host import Host
from engine.messages import Command, End
from engine.model.checkpoint import resolve
from engine.open_requests import OpenRequests
from engine.prepare import Preparer
from engine.prompt_logprobs import PromptLogprobs
from engine.request import Delta, Logprob, Prompt, RequestOutput, SamplingParams
from engine.schedule.sequence import Admission, Prepared
from engine.scoring import ScoreCache, Scores, Scoring
from engine.step.clock import StepTime
from engine.text.tokenizer import Tokenizer
from engine.thinking.formats import choose_format
from engine.timeline import Timeline

_Holder = TypeVar("_Holder", Handle, Scoring, PromptLogprobs)
_STUCK_S = 2.0
"""How long `close` waits for the step under way before it kills the other ranks."""


class Engine:
    """A loaded model that takes requests until `close`. Use it as a context manager."""

    def __init__(
        self,
        model: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        timeline: Timeline | None = None,
        **fields: Any,
    ) -> None:
        """`fields` are those of EngineConfig, laid over `config`; `tokenizer` is that of the checkpoint, where it is
        loaded already; what the start takes is entered in `timeline`. Raises InputError for what cannot be used."""
        timeline = timeline or Timeline()
        config = config or EngineConfig()
        unknown = sorted(set(fields) - set(asdict(config)))
        if unknown:
            raise InputError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(asdict(config)))}")
        if model is not None:
            fields["model"] = str(model)
        self.config = replace(config, **fields)
        directory = resolve(self.config.model)
        self.tokenizer = tokenizer or Tokenizer.load(directory)
        self._lock = threading.Condition()
        self._commands: list[Command] = []
        self._open = OpenRequests()
        self._scored = ScoreCache()
        self._submitted, self._closing, self._dead = 0, False, False
        self._host = Host(self.config, directory, self.tokenizer, timeline)
        self._model, self.context = self._host.model, self._host.context
        """Most tokens a request may hold: min(max_model_len, tokens the page pool holds)."""
        self.default_params = self._host.default_params
        """What a request without parameters gets."""
        if self.config.thinking_format == "auto":
            chosen = choose_format(self.tokenizer)
            tell(f"thinking_format auto is {chosen.preset}: {chosen.reason}", "note")
        self._preparer = Preparer(
            self.tokenizer, self.config.thinking_format, self.context, self.config.max_samples, self.config.max_logprobs
        )
        self._thread = threading.Thread(target=self._run, name="engine loop", daemon=True)
        self._thread.start()

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[RequestOutput]:
        """Run all prompts; outputs in their order. All are checked before the first one runs."""
        if isinstance(prompts, (str, bytes, Mapping)):
            raise InputError(f"generate takes a list of prompts; give [prompt] for {shown(prompts)}")
        prompts = list(prompts)
        each = list(params) if isinstance(params, Sequence) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise InputError(f"{len(prompts)} prompts and {len(each)} params; give one params for all, or one for each")
        prepared = [self.prepare(p, q) for p, q in zip(prompts, each, strict=True)]
        handles: list[Handle] = []
        try:
            for request in prepared:
                if len(handles) >= self.config.max_waiting:
                    handles[len(handles) - self.config.max_waiting].result()
                handles.append(self.submit_prepared(request))
            return [handle.result() for handle in handles]
        except BaseException:  # an interrupt, or a full queue: nobody will read the others
            for handle in handles:
                handle.abort()
            raise

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Deltas of one request as they come. Leaving the loop early aborts it."""
        handle = self.submit(prompt, params)
        try:
            yield from handle
        finally:
            if not handle.done:
                handle.abort()

    def submit(self, prompt: Prompt, params: SamplingParams | None = None) -> Handle:
        """Queue a request from any thread. Raises InputError, naming the field, where it cannot run."""
        return self.submit_prepared(self.prepare(prompt, params))

    def prepare(self, prompt: Prompt, params: SamplingParams | None = None) -> Prepared:
        """Check a request without queueing it."""
        refuse_scorer(self._model, self.config.model)
        params = self.default_params if params is None else params
        if not isinstance(params, SamplingParams):
            raise InputError(f"params is {shown(params)}; give SamplingParams")
        return self._preparer.prepare(prompt, params)

    def submit_prepared(self, prepared: Prepared, place: int | None = None) -> Handle:
        """Queue a checked request. Raises InputError where the queue is full, EngineDead after `close`.

        `place` is what a request without a seed draws by; None: how many were submitted before it.
        """
        refuse_scorer(self._model, self.config.model)
        return self._queue(prepared, lambda number: Handle(number, prepared, self.tokenizer, self._tell), place)

    def score(
        self,
        prompt: Prompt,
        steps: Sequence[str | Sequence[int]],
        mark: str | int | None = None,
        labels: Sequence[str | int] = (),
    ) -> Scores:
        """A score for each of the `steps` behind `prompt`: see `submit_score`."""
        return self.submit_score(prompt, steps, mark, labels).result()

    def submit_score(
        self,
        prompt: Prompt,
        steps: Sequence[str | Sequence[int]],
        mark: str | int | None = None,
        labels: Sequence[str | int] = (),
    ) -> Scoring:
        """Ask for the scores of `steps`, each text (tokenized by itself) or token ids, from any thread.

        A score is read at a step's last token, or at the `mark` that is put behind each. A reward model's head makes
        it; a language model's is the probability of the first of `labels` among them. Only what follows the part that
        was scored before is computed. Raises InputError, naming the field, for what cannot be scored.
        """
        ids, reads = self._preparer.steps(prompt, steps, mark)
        chosen = self._preparer.labels(labels, self._model.score is not None)
        scoring = Scoring(self._scored, ids, reads, chosen, self._tell)
        if not scoring.missing:
            return scoring
        prepared = self._preparer.scored(ids, scoring.missing, chosen)
        return self._queue(prepared, lambda number: scoring.queued(number, prepared), 0)

    def forget_scores(self) -> None:
        """Scores are computed again, as far as their tokens' keys and values are not in the page pool."""
        self._scored = ScoreCache()

    def prompt_logprobs(self, prompt: Prompt, top: int = 0) -> list[Logprob]:
        """How likely the model finds the prompt's tokens: see `submit_prompt_logprobs`."""
        return self.submit_prompt_logprobs(prompt, top).result()

    def submit_prompt_logprobs(self, prompt: Prompt, top: int = 0) -> PromptLogprobs:
        """Ask, from any thread, for the model's own log-probability of each of the prompt's tokens behind those before
        it, from the second on, and for the `top` likeliest in its place.

        The prompt is that which `submit` has written behind. Raises InputError, naming the field, where it cannot run.
        """
        refuse_scorer(self._model, self.config.model)
        prepared = self._preparer.followed(prompt, top)
        asked = PromptLogprobs(prepared, self._tell)
        return asked if asked.done else self._queue(prepared, asked.queued, 0)

    def _queue(self, prepared: Prepared, holder: Callable[[int], _Holder], place: int | None) -> _Holder:
        with self._lock:
            if self._dead or self._closing:
                raise EngineDead("the engine is closed; make a new one")
            if len(self._open) >= self.config.max_waiting:
                raise InputError(f"{len(self._open)} requests are open, the most that max_waiting allows; try later")
            number = self._submitted
            self._submitted += 1
            handle = self._open[number] = holder(number)
            self._commands.append(Admission.of(number, prepared, self.config.seed, number if place is None else place))
            self._lock.notify()
        return handle

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the page pool as it is."""
        return self._host.stats()

    def clocked(self) -> AbstractContextManager[list[StepTime]]:
        """Inside it, every step that ends is entered in the list, in order."""
        return self._host.clocked()

    def start_lines(self) -> list[str]:
        """What to tell when the engine starts: the pool and the predicted limit, what capturing took, slow paths."""
        return self._host.start_lines()

    def memory_line(self) -> str:
        """The most memory that this process took, beside what the model and the pages written so far must have."""
        return self._host.memory_line()

    def check(self) -> None:
        """Raises EngineDead unless every page and slot is accounted for. Call it while nothing runs."""
        self._host.core.check()

    def close(self) -> None:
        """Abort what runs, end the loop and the other ranks. Calling it again does nothing."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join(_STUCK_S)
        if self._thread.is_alive():  # in a long step, or waiting for a rank that does not answer
            self._host.group.abandon()
            self._thread.join(_STUCK_S if self._host.group.size > 1 else None)
        self._host.group.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _tell(self, command: Command) -> None:
        with self._lock:
            if not self._dead:
                self._commands.append(command)
                self._lock.notify()

    def _run(self) -> None:
        """The loop of rank 0."""
        self._host.use_device()
        closing = False
        try:
            while not closing:
                with self._lock:
                    while not (self._commands or self._host.core.has_work or self._closing):
                        self._lock.wait()
                    closing = self._closing
                    if closing:
                        self._commands.extend(End(number) for number in self._open)
                    commands, self._commands = self._commands, []
                self._open.abort(commands)
                for end in self._open.deliver(self._host.turn(commands, closing)):
                    self._tell(end)
            self._end(EngineDead("the engine was closed before the request finished"))
        except BaseException as error:  # whatever it is, nobody may be left waiting
            self._end(error if isinstance(error, EngineDead) else EngineDead(f"the engine loop failed: {error!r}"))
            if not isinstance(error, EngineDead):
                raise

    def _end(self, error: EngineDead) -> None:
        with self._lock:
            self._dead = True
        self._open.fail(error)
