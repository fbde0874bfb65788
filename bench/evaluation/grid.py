"""What an evaluation runs: a frozen, typed grid of tasks and methods, from a YAML file or from flags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.evaluation.methods import Condition, Defaults, Method
from bench.evaluation.prompts import PromptName
from bench.evaluation.search_methods import AnySearch
from bench.evaluation.tasks import TaskSpec
from curate.models.local import engine_config
from engine import InputError
from engine.struct_file import read_struct, to_struct

Count = Annotated[int, Meta(ge=1)]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenAI-compatible server that runs the model instead of this process."""

    url: str
    """Up to and with /v1."""
    model: str
    """The name that the server knows it by."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it need not be set."""
    concurrency: Count = 16
    """Requests in flight at most."""
    thinking_fields: bool = True
    """Whether the server takes this engine's thinking parameters; without them only method `none` can run."""
    body: dict[str, Any] = {}
    """Fields laid over every request, such as max_completion_tokens; null leaves a field out, such as temperature."""
    timeout_s: Annotated[float, Meta(gt=0, le=1e7)] = 3600.0
    """Seconds of one try."""
    retries: Annotated[int, Meta(ge=0)] = 4
    """Further tries of a request that failed."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"endpoint: url is {self.url!r}; give http://HOST:PORT/v1 or https://...")


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks x methods x samples on one model. Limits are in tokens."""

    name: str = ""
    """What the run, and a model that a training run exported, are called; empty: the first task's name."""
    model: str = "models/s1-nano"
    """Checkpoint directory or hub id."""
    endpoint: Endpoint | None = None
    engine: dict[str, Any] = {}
    """Fields of EngineConfig, such as device, dtype, tensor_parallel_size, max_num_seqs."""
    tasks: Annotated[tuple[TaskSpec, ...], Meta(min_length=1)]
    methods: Annotated[tuple[Method | AnySearch, ...], Meta(min_length=1)]
    """How thinking is scaled; each comes to one or more conditions, the points of a curve."""
    prompt: PromptName = "s1"
    """How a question is put: `s1` is the question alone, the others have the wording of the harness that they are named
    after."""
    system: str | None = None
    """System message; null: what the chat template writes by itself."""
    thinking_format: str | None = None
    """How thinking is marked; null: the engine's."""
    samples: Count = 1
    """Samples per problem, for methods that do not say."""
    temperature: float = 0.0
    """Of methods that do not say; 0 is greedy."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this much probability together."""
    seed: int = 0
    """Of the draws; a sample has the same seed under every condition."""
    max_tokens: Count = 32768
    """Most tokens of a response."""
    answer_tokens: Count = 1024
    """Of these, tokens kept for the forced end and the answer: thinking has what is left, or its budget."""
    min_answer_tokens: Annotated[int, Meta(ge=0)] = 1
    """Visible tokens of an answer at least, so that none is empty; 0: a model may end its turn while it thinks."""
    reuse: bool = True
    """Fork one trace per problem at every budget, instead of generating each anew."""

    def __post_init__(self) -> None:
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                f"samples is {self.samples} and temperature 0: greedy samples are all alike; raise the "
                "temperature or lower samples to 1"
            )
        _refuse_twice([task.name for task in self.tasks], "task {} is given twice; use two grids")
        engine_config(self.model, self.engine)
        searching = next((condition for condition in self.conditions() if condition.search is not None), None)
        if self.endpoint is not None and searching is not None:
            raise InputError(
                f"condition {searching.label!r} searches, which only the engine in this process can; leave endpoint "
                "out, or the method"
            )

    @property
    def title(self) -> str:
        """What the run is called."""
        return self.name or self.tasks[0].name

    def conditions(self) -> tuple[Condition, ...]:
        """Every point of every curve, in the grid's order. Raises InputError where two have one label."""
        defaults = Defaults(
            self.temperature,
            self.top_p,
            self.samples,
            self.max_tokens,
            self.answer_tokens,
            self.min_answer_tokens,
            self.thinking_format,
        )
        found = tuple(condition for method in self.methods for condition in method.conditions(defaults))
        _refuse_twice(
            [condition.label for condition in found],
            "condition {!r} stands in the grid twice; leave one out, or name a search",
        )
        if not found:
            raise InputError("the methods come to no condition; give them budgets, limits or extensions")
        return found


def _refuse_twice(names: Sequence[str], message: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(message.format(name))


def load(path: Path) -> Grid:
    """Read a grid. Raises InputError naming the file and the field that cannot be used."""
    return read_struct(path, Grid)


def from_values(values: Mapping[str, Any]) -> Grid:
    """A grid from plain values, such as msgspec's `to_builtins` of one. Raises InputError naming the field."""
    return to_struct(values, Grid)
