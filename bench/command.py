"""What the commands of this package share: options that several have, and how each begins and is refused."""

import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.table import Column, Table

from bench import record, stand_in
from bench.checkpoints import checkpoint
from engine.command.flags import read_flags
from engine.errors import InputError, refuse, shown, tell
from kernels.errors import FAULTS

T = TypeVar("T")

MOST = 10**9
"""Of any number on a command line."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the results go."""

    output: Path | None = None
    """A file of JSON lines to append the results to."""


@dataclass(frozen=True, kw_only=True)
class Resumed(Output):
    """A run that can go on with an earlier one."""

    resume: bool = False
    """Leave out what `output` has already."""

    def known(self, benchmark: str, device: torch.device) -> list[record.Record]:
        """What `output` has of a benchmark on this device, where that is to be left out."""
        if not self.resume or self.output is None or not self.output.is_file():
            return []
        name = record.device_name(device)
        return [line for line in record.read(self.output) if (line.benchmark, line.device) == (benchmark, name)]


@dataclass(frozen=True, kw_only=True)
class Cached(Output):
    """Checkpoints are kept."""

    cache: Path = Path(tempfile.gettempdir()) / "s1-engine-bench"
    """Where random checkpoints are kept from run to run."""


@dataclass(frozen=True, kw_only=True)
class OnDevice(Output):
    """Where it runs."""

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, kw_only=True)
class Threaded(OnDevice):
    """How many threads of a CPU it takes."""

    threads: int = torch.get_num_threads()


@dataclass(frozen=True, kw_only=True)
class Shaped(Cached, OnDevice):
    """A random model of a known shape."""

    shape: Literal["tiny", "40m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"] = "40m"
    dummy: bool = False
    """Make the random weights on the device instead of writing and reading a checkpoint."""

    @property
    def folder(self) -> Path:
        """The checkpoint; it is made where it is not there."""
        return checkpoint(self.cache, stand_in.shape(self.shape), weights=not self.dummy)


@dataclass(frozen=True, kw_only=True)
class Loaded(Shaped, Threaded):
    """A model: a checkpoint, or random weights of a shape."""

    model: str | None = None
    """Checkpoint directory; without one, random weights of `shape` are made in `cache`."""

    @property
    def name(self) -> str:
        """The model, as records tell it."""
        return Path(self.model).name if self.model else self.shape

    @property
    def folder(self) -> Path:
        """The checkpoint; without `model`, that of the shape."""
        return Path(self.model) if self.model else super().folder


def check(*refusals: str | Literal[False]) -> None:
    """Raises InputError with the first of the messages: each is `wrong and message`."""
    for message in filter(None, refusals):
        raise InputError(message)


def check_numbers(options: Any) -> None:
    """Raises InputError, naming the flag, for a number that no benchmark can mean: below 0, NaN, or beyond MOST."""
    for name, given in vars(options).items():
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, (int, float)) and not 0 <= value <= MOST:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is {shown(value)}; give a number from 0 to {MOST:,}")


def columns(*names: str, title: str, left: Collection[int] = (0,)) -> Table:
    """A table of figures: all columns but those at `left` stand at the right."""
    return Table(
        *(Column(name, justify="left" if at in left else "right") for at, name in enumerate(names)),
        title=title,
        title_justify="left",
    )


def command(options: type[T], main: Callable[[T], int | None]) -> None:
    """Run the module that is `__main__`: its text is the help, and what cannot be done ends it with one line."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None
    name = module.__spec__.name
    try:
        parsed = read_flags(options, None, f"python -m {name}", module.__doc__)
        check_numbers(parsed)
        refuse(*((True, fault) for fault in FAULTS))
        sys.exit(main(parsed))
    except InputError as error:
        tell(error, name)
        sys.exit(2)
