"""What torchrun says of this process: numbers in the environment, which may be anything."""

import os
import re
from typing import NamedTuple

from engine.errors import InputError, shown


class Torchrun(NamedTuple):
    """This process among all that were started; alone, where torchrun started none."""

    rank: int
    size: int
    local_rank: int


def torchrun() -> Torchrun:
    """RANK, WORLD_SIZE and LOCAL_RANK. Raises InputError naming the variable that is no number, or out of range."""
    size = _number("WORLD_SIZE", 1)
    rank, local_rank = _number("RANK", 0), _number("LOCAL_RANK", 0)
    if size < 1:
        raise InputError("environment variable WORLD_SIZE is 0; unset it, or start the ranks with torchrun")
    if rank >= size > 1:
        raise InputError(f"environment variable RANK is {rank} and WORLD_SIZE {size}; start the ranks with torchrun")
    return Torchrun(rank if size > 1 else 0, size, local_rank)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise InputError(
            f"environment variable {name} is {shown(text)}, no number; unset it, or start the ranks with torchrun"
        )
    return int(text)


def one_machine() -> bool:
    """Whether torchrun started all ranks on this machine."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
