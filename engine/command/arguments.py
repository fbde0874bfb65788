"""Flags of programs that run a model, every field of SamplingParams and EngineConfig; and those of engine.generate."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import tyro

from engine.command.flags import given_flags, read_flags
from engine.config import EngineConfig
from engine.errors import InputError, refuse
from engine.model.embedded import EMBEDDED
from engine.request import SamplingParams


@dataclass(frozen=True, kw_only=True)
class ModelFlags(SamplingParams, EngineConfig):
    """A model, and how to sample it."""

    model: str = str(EMBEDDED)
    """Checkpoint directory in the Hugging Face layout, a hub id, or s1-nano, which comes with the engine."""
    seed: int = 0
    """Seed of the random draws, and of the weights that --load-format dummy makes."""
    thinking_format: str = "auto"
    """How thinking is marked: auto (by the checkpoint), s1, qwen3, deepseek_r1, am_thinking, sky_t1, exaone, magistral,
    none, or JSON of opener, end, budget_end and triggers."""
    logit_bias: dict[int, float] | None = None
    """Added to the logits of these token ids: id value id value ..."""
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()
    """Names of the flags on the command line."""

    def __post_init__(self) -> None:
        """Flags may contradict each other here; SamplingParams and EngineConfig check them when they are made."""

    @property
    def model_name(self) -> str:
        """What output lines call the model: as given, without the folder of the embedded one."""
        return "s1-nano" if self.model == str(EMBEDDED) else self.model

    def sampling_params(self, base: SamplingParams) -> SamplingParams:
        """`base` under the sampling flags that were given. Raises InputError naming the field."""
        names = {f.name for f in fields(SamplingParams)} & self.given
        return SamplingParams.from_dict({name: getattr(self, name) for name in names}, base)

    def engine_config(self) -> EngineConfig:
        """The engine's flags. Raises InputError naming the field."""
        return EngineConfig(**{f.name: getattr(self, f.name) for f in fields(EngineConfig)})


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelFlags):
    """Generate with budget forcing: how long the model thinks is yours to say."""

    prompt: str | None = None
    """One question."""
    input: str | None = None
    """A JSONL file ("-": standard input), with prompt, messages or prompt_token_ids a line, or OpenAI's batch lines."""
    output: str | None = None
    """The JSONL file to write ("-": standard output). Without it, the answers are shown as they are written."""
    resume: bool = False
    """Go on with the output file: requests that it holds are not run again."""
    overwrite: bool = False
    """Start the output file anew."""
    carry: tuple[str, ...] = ()
    """Fields of input lines that are data although a parameter has their name; the output has them as they are."""
    data_parallel_size: int = 1
    """Engines that share the lines of --input, each with GPUs of its own, or a share of the processor."""
    timeline: bool = False
    """Tell at the end where the start went, up to the first token, and the most memory it took."""


F = TypeVar("F", bound=ModelFlags)
_OF_REQUESTS = ("n", "logprobs", "pause", "pause_tokens", "continue_final_message")


def refuse_of_requests(flags: ModelFlags, where: str) -> None:
    """Raises InputError for parameters that only a single request can have."""
    for name in _OF_REQUESTS:
        if getattr(flags, name) != getattr(SamplingParams, name):
            raise InputError(f"--{name.replace('_', '-')} is not for {where}; leave it out")


def read_model_flags(flags: type[F], argv: Sequence[str], program: str) -> F:
    """`argv` as `flags`, each given once at most. Raises InputError for flags that are unknown or malformed; --help
    ends with exit code 0."""
    parsed = read_flags(flags, argv, program, once=True)
    return replace(parsed, given=frozenset(name.replace("-", "_") for name in given_flags(argv)))


def parse(argv: Sequence[str]) -> Arguments:
    """Raises InputError for flags that are unknown, malformed or contradictory; --help ends with exit code 0."""
    parsed = read_model_flags(Arguments, argv, "python -m engine.generate")
    output, source = parsed.output, parsed.input
    refuse(
        ((parsed.prompt is None) == (source is None), "give exactly one of --prompt TEXT and --input FILE"),
        (
            parsed.resume and (output is None or parsed.overwrite),
            "--resume needs --output and contradicts --overwrite",
        ),
        (parsed.overwrite and output is None, "--overwrite needs --output"),
        (parsed.carry and source is None, "--carry is for the lines of --input"),
        (parsed.data_parallel_size < 1, f"--data-parallel-size is {parsed.data_parallel_size}; give 1 or more"),
        (
            parsed.data_parallel_size > 1 and (output is None or parsed.timeline),
            "--data-parallel-size needs --input and --output, and has no --timeline",
        ),
        (
            output is not None
            and source is not None
            and os.path.isfile(source)
            and os.path.exists(output)
            and os.path.samefile(output, source),
            f"--output {output} is the input file; choose another",
        ),
    )
    return parsed
