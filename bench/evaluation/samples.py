"""What is asked of a model and what comes back, whoever runs it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from engine import SamplingParams


@dataclass(frozen=True)
class Request:
    """One sample to draw. `prompt` is token ids (taken as they are) or chat messages."""

    prompt: tuple[int, ...] | tuple[Mapping[str, str], ...]
    params: SamplingParams


@dataclass(frozen=True)
class Sample:
    """One response. Counts are tokens; `forced` are positions in `token_ids`; both are empty where a server hides them.

    `answer` is what came after the end of thinking, by the engine's own account, never by searching the text.
    """

    token_ids: tuple[int, ...]
    forced: tuple[int, ...]
    reasoning: str
    answer: str
    finish_reason: str
    thinking_tokens: int
    extensions: int
    stop_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    mean_logprob: float | None = None
    """Of the tokens that the model chose; None where it was not asked for."""
    timing: Mapping[str, float] | None = None
    error: str | None = None

    @property
    def left_thinking(self) -> bool:
        """Whether there is an answer phase: thinking was closed, or never opened."""
        closed = self.stop_reason is not None or bool(self.answer) or self.thinking_tokens == 0
        return closed and self.stop_reason != "truncated"


class Backend(Protocol):
    """Where samples come from: the engine in this process, or a server."""

    slots: int
    """Requests that run at once."""

    def prompt(self, messages: Sequence[Mapping[str, str]], opener: str | None, params: SamplingParams) -> Request:
        """The request for chat messages; `opener` takes the place of the thinking format's. Raises InputError."""

    def submit(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        """Start a request; `done` gets its sample, or why there is none, on whatever thread."""


def prompt_hash(request: Request) -> str:
    """16 hex digits of what the model is given: equal hashes mean equal prompts."""
    return hashlib.sha256(json.dumps(list(request.prompt)).encode()).hexdigest()[:16]


def sample_seed(run_seed: int, task: str, problem: str, index: int) -> int:
    """The seed of one sample: the same under every condition, so that conditions are paired."""
    digest = hashlib.sha256(json.dumps([run_seed, task, problem, index]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def from_values(values: Mapping[str, Any]) -> Sample:
    """The sample whose fields are among these JSON values."""
    return msgspec.convert(values, Sample)
