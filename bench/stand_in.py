"""A card that is not there: with S1_STAND_IN=H100 (or H200) "cuda" is this processor, and what runs on it is small.

A rehearsal runs the commands of a GPU day as they are, with their shapes and sizes in their records; what is computed
is a tiny model with a 64th of the tokens. Such records name the stand-in as their device, and `bench.report` leaves
them out unless a rehearsal's own table is asked for.
"""

import os
from pathlib import Path

import torch

from bench.shapes import SHAPES, Shape
from kernels.gemm_choices import TABLE, read_choices, table_in_use
from kernels.limits import Device, known_device

VARIABLE = "S1_STAND_IN"
_SCALE = 64


def card() -> Device | None:
    """The card that is stood in for; None: this is no rehearsal."""
    name = os.environ.get(VARIABLE)
    found = known_device(name) if name else None
    if name and found is None:
        raise SystemExit(f"{VARIABLE} is {name!r}; give H100 or H200, or leave it unset")
    return found


def device(name: str | torch.device) -> torch.device:
    """Where "cuda" is."""
    return torch.device("cpu") if card() is not None else torch.device(name)


def tokens(count: int) -> int:
    """How many tokens `count` are."""
    return count if card() is None else max(8, count // _SCALE)


def shape(name: str) -> Shape:
    """The decoder of that name."""
    return SHAPES[name if card() is None else "tiny"]


def products(device: torch.device) -> dict[str, str]:
    """What a case says of the products: nothing where cuBLAS runs all that it can, or on a CPU."""
    table = table_in_use()
    plain = table == "plain" or (table == str(TABLE) and not read_choices(table))
    on_gpu = device.type == "cuda" or card() is not None
    return {"products": Path(table).name} if on_gpu and not plain else {}
