"""What is asked of a model and what comes back, whichever model it is."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

NotNegative = Annotated[int, Meta(ge=0)]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a response is drawn; the names are those of `engine.SamplingParams`.

    An endpoint is sent the thinking fields only where they differ from these defaults.
    """

    max_tokens: Annotated[int, Meta(ge=1)] = 4096
    """Most tokens of a response, thinking included."""
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that hold this much probability together."""
    seed: NotNegative = 0
    """The draw's seed; what is sent is made from it, the question and the sample's number."""
    thinking_token_budget: NotNegative | None = None
    """Most thinking tokens; None: no limit of its own."""
    thinking_extensions: NotNegative = 0
    """How many ends of thinking are replaced by the extension."""
    thinking_extension_str: str = "Wait"
    """What replaces them."""
    min_thinking_tokens: NotNegative = 0
    """Thinking does not end before this many tokens."""
    thinking_format: str | dict[str, Any] | None = None
    """How thinking is marked, by its name or as an object; None: as the model has it, which for an engine in this
    process is a field of its own, and `auto`, by the checkpoint, where that is not given."""

    @property
    def canonical(self) -> str:
        """JSON of the fields that differ from the defaults: part of a response's key."""
        return json.dumps(self.changed, sort_keys=True)

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value != getattr(Sampling(), name)
        }


@dataclass(frozen=True)
class Ask:
    """One call. `id` is the caller's own and no part of the key; `sample` tells several draws of one prompt apart."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    sampling: Sampling
    prompt_version: str
    sample: int = 0

    def key(self, identity: str) -> str:
        """sha256 of everything that decides the response, `identity` being the model's."""
        parts = [identity, [dict(m) for m in self.messages], self.sampling.canonical, self.prompt_version, self.sample]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def seed_of(key: str) -> int:
    """The seed sent with a call: the same in every run, another for every question and sample; below 2^31."""
    return int(key[:12], 16) % 2**31


@dataclass(frozen=True)
class Answer:
    """A response, or the error that a call ended with.

    Attributes:
        id, key: of the call.
        text: the answer part.
        reasoning: the thinking part; "" where the model shows none.
        finish_reason: "stop", "length", ...; None for an error.
        prompt_tokens, completion_tokens, reasoning_tokens: as the model reports them; None where it does not.
        reported_model: what the endpoint says it is.
        error: None, or one of `ERRORS`.
        detail: the error in words.
    """

    id: str
    key: str
    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    reported_model: str = ""
    error: str | None = None
    detail: str = ""


def clean(text: str) -> str:
    """`text` without lone surrogates, which no file can hold; each becomes the replacement character."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


ERRORS = {
    "connection": "the endpoint could not be reached",
    "rejected": "status 401, 403 or 404: key, permission or model name",
    "bad_request": "another 4xx, or a prompt that the engine refuses; not tried again",
    "rate_limit": "status 429 at every try",
    "server": "status 5xx at every try",
    "timeout": "no response in time at every try",
    "garbage": "a response that is no chat completion, at every try",
    "engine": "the engine ended the request with an error",
}
"""Error kinds of an Answer."""


class Model(Protocol):
    """A model that can be asked. `name` goes into tables; `identity` into keys."""

    name: str
    identity: str

    def ask(self, requests: Iterable[Ask]) -> Iterator[Answer]:
        """Answers as they come, those in the store first; every request gets exactly one.

        Raises:
            EndpointDown: nothing can be had from the endpoint at all.
        """


class EndpointDown(ConnectionError):
    """An endpoint that refuses everything. What it had answered is in the store."""
