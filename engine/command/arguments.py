"""The command line of `python -m engine.generate`: every field of SamplingParams and EngineConfig is a flag."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import tyro

from engine.config import EngineConfig
from engine.errors import InputError
from engine.request import SamplingParams

_ENGINE = Path(__file__).resolve().parents[1]
_PLACES = (_ENGINE / "s1-nano", _ENGINE.parent / "models" / "s1-nano")
EMBEDDED = str(next(filter(Path.is_dir, _PLACES), _PLACES[-1]))
"""The checkpoint that comes with the engine: inside the package where that is installed, in `models/` in a checkout."""


@dataclass(frozen=True, kw_only=True)
class Arguments(SamplingParams, EngineConfig):
    """Generate with budget forcing: how long the model thinks is yours to say."""

    prompt: str | None = None
    """One question."""
    input: str | None = None
    """A JSONL file of requests ("-": standard input), each with prompt, messages or prompt_token_ids."""
    output: str | None = None
    """The JSONL file to write ("-": standard output). Without it, the answers are shown as they are written."""
    resume: bool = False
    """Go on with the output file: requests that it holds are not run again."""
    overwrite: bool = False
    """Start the output file anew."""
    model: str = EMBEDDED
    """Checkpoint directory in the Hugging Face layout, or a hub id."""
    seed: int = 0
    """Seed of the random draws, and of the weights that --load-format dummy makes."""
    thinking_format: str = "auto"
    """How thinking is marked: auto, s1, qwen3, deepseek_r1, none, or a JSON object with opener, end, budget_end and
    triggers."""
    logit_bias: dict[int, float] | None = None
    """Added to the logits of these token ids: id value id value ..."""
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()
    """Names of the flags on the command line."""

    def __post_init__(self) -> None:
        """Flags may contradict each other here; SamplingParams and EngineConfig check them when they are made."""

    @property
    def model_name(self) -> str:
        """What output lines call the model: as given, without the folder of the embedded one."""
        return "s1-nano" if self.model == EMBEDDED else self.model

    def sampling_params(self, base: SamplingParams) -> SamplingParams:
        """`base` under the sampling flags that were given. Raises InputError naming the field."""
        names = {f.name for f in fields(SamplingParams)} & self.given
        return SamplingParams.from_dict({name: getattr(self, name) for name in names}, base)

    def engine_config(self) -> EngineConfig:
        """The engine's flags. Raises InputError naming the field."""
        return EngineConfig(**{f.name: getattr(self, f.name) for f in fields(EngineConfig)})


def parse(argv: Sequence[str]) -> Arguments:
    """Raises InputError for flags that are unknown, malformed or contradictory; --help ends with exit code 0."""
    names = [word[2:].partition("=")[0].removeprefix("no-").replace("-", "_") for word in argv if word.startswith("--")]
    for name in names:
        if names.count(name) > 1:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is given {names.count(name)} times; give it once, with all its values behind it")
    arguments = replace(_cli(argv), given=frozenset(names))
    if (arguments.prompt is None) == (arguments.input is None):
        raise InputError("give exactly one of --prompt TEXT and --input FILE")
    if arguments.resume and (arguments.output is None or arguments.overwrite):
        raise InputError("--resume needs --output and contradicts --overwrite")
    if arguments.overwrite and arguments.output is None:
        raise InputError("--overwrite needs --output")
    if (
        arguments.output not in (None, "-")
        and arguments.input not in (None, "-")
        and os.path.realpath(arguments.output) == os.path.realpath(arguments.input)
    ):
        raise InputError(f"--output {arguments.output} is the input file; choose another")
    return arguments


def _cli(argv: Sequence[str]) -> Arguments:
    """What tyro makes of the flags. It refuses in a box of several lines; here that is one, as for every bad input."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(Arguments, args=list(argv), prog="python -m engine.generate")
    except SystemExit as ended:
        if not ended.code:
            raise
    # Rules part the box into what is wrong, what may have been meant, and where help is; the title stands in the first.
    lines = [line.strip("│╭╮╰╯ ") for line in box.getvalue().splitlines()]
    rules = [at for at, line in enumerate(lines) if re.fullmatch(r"─ [\w ]+ ─+|─+|-+", line)]
    parts = [" ".join(filter(None, lines[a + 1 : b])) for a, b in itertools.pairwise([*rules, len(lines)])]
    meant = [flag for part in parts if part.startswith("Perhaps") for flag in re.findall(r"--[a-z][a-z-]*", part)]
    raise InputError(parts[0] + (f" (did you mean {' or '.join(meant)}?)" if meant else ""))
