"""Which runs a dense product of a decode step: cuBLAS, or `kernels.small_gemm` and in which configuration.

`gemm_choices.json` holds one row per (device, product, shape, type of the weight, numbers of tokens) with the two times
that decided it, as `python -m bench.gemm` took them on the device itself. Where no row holds, cuBLAS runs; for weights
of 8 bits, which it does not take, `small_gemm.default_config`. The table is empty: not yet measured on a GPU.

S1_GEMM_TABLE names another table, or a rule that asks no measurement: `plain`, cuBLAS for all but 8 bits; `folded`, all
products of a layer by `small_gemm` in its default configuration; `dependent`, the same with every kernel of a layer
launched before the one in front of it ends, which needs sm_90. They are there to be measured.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass, replace
from enum import Enum
from operator import itemgetter
from pathlib import Path

import torch

from kernels.errors import FAULTS, KernelError
from kernels.small_gemm import MOST_TOKENS, GemmConfig, default_config

TABLE = Path(__file__).with_name("gemm_choices.json")
FOLDED = ("folded", "dependent")
RULES = ("plain", *FOLDED)
PREFETCH = 4
"""Tiles that a program of the rule `dependent` asks for ahead of its turn."""


class Product(Enum):
    """The three products of a layer's linears: plain (bias, residual), silu(gate) * up, and the float32 head."""

    PLAIN = "plain"
    GATED = "gated"
    HEAD = "head"


@dataclass(frozen=True)
class Choice:
    """One row. It holds for batches of `least` to `tokens`; the times are those that decided."""

    device: str
    product: Product
    out_features: int
    in_features: int
    tokens: int
    config: GemmConfig
    ours_us: float
    rival_us: float
    """of cuBLAS, for codes of 8 bits of the default configuration"""
    weight: str = "bfloat16"
    """type of the weight's values"""
    least: int = 1

    def holds(self, key: tuple[str, Product, str, int, int], tokens: int) -> bool:
        """Whether it is for this (device, product, type, out, in) and so many tokens."""
        mine = self.device, self.product, self.weight, self.out_features, self.in_features
        return mine == key and self.least <= tokens <= self.tokens


def table_in_use() -> str:
    """Where products are chosen from: this package's table, or what S1_GEMM_TABLE says: a path or one of `RULES`."""
    return os.environ.get("S1_GEMM_TABLE") or str(TABLE)


def read_choices(path: Path | str = TABLE) -> tuple[Choice, ...]:
    """The rows of a table; a rule has none."""
    if path in RULES:
        return ()
    try:
        rows = json.loads(Path(path).read_text())
        if not isinstance(rows, list):
            raise TypeError("not a list of rows")
        return tuple(
            Choice(**{**r, "product": Product(r["product"]), "config": GemmConfig(**r["config"])}) for r in rows
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        way = f"S1_GEMM_TABLE names a table of bench.gemm, {', '.join(RULES)}, or is unset"
        raise KernelError(f"{path} is no table of products ({type(error).__name__}: {error}); {way}") from None


def write_choices(choices: list[Choice], path: Path = TABLE) -> None:
    """Replace a table; rows are sorted, so that a diff shows what changed."""
    keys = ("device", "product", "weight", "out_features", "in_features", "tokens")
    rows = [{**asdict(choice), "product": choice.product.value} for choice in choices]
    rows.sort(key=itemgetter(*keys))
    path.write_text(json.dumps(rows, indent=1) + "\n")


@functools.cache
def _rows(table: str) -> tuple[Choice, ...]:
    return read_choices(table)


def pick(choices: tuple[Choice, ...], key: tuple[str, Product, str, int, int], tokens: int) -> GemmConfig | None:
    """The configuration of the narrowest row that holds for `key` and `tokens` (`Choice.holds`), or None."""
    fits = [choice for choice in choices if choice.holds(key, tokens)]
    return min(fits, key=lambda choice: choice.tokens).config if fits else None


@functools.cache
def _chosen(
    table: str, device: str, product: Product, shape: tuple[int, ...], weight: torch.dtype, tokens: int
) -> GemmConfig | None:
    out, width = shape
    found = pick(_rows(table), (device, product, str(weight)[6:], out, width), tokens)
    if found is None and table in FOLDED and product is not Product.HEAD:
        found = default_config(shape, tokens, weight.itemsize, product is Product.GATED)
        return replace(found, prefetch=PREFETCH) if table == "dependent" else found
    return found


def chosen(x: torch.Tensor, weight: torch.Tensor, product: Product) -> GemmConfig | None:
    """What the table or rule in use says of x [N, K] and weight [M, K] on x's device."""
    if x.shape[0] > MOST_TOKENS:
        return None
    return _chosen(_table(x.device), _name(x.device), product, tuple(weight.shape), weight.dtype, x.shape[0])


def choose(x: torch.Tensor, weight: torch.Tensor, product: Product) -> GemmConfig | None:
    """How `small_gemm` multiplies x [N, K] with weight [M, K] on x's device; None: cuBLAS does."""
    found = chosen(x, weight, product)
    if found is None and weight.itemsize == 1 and x.shape[0] <= MOST_TOKENS:
        return default_config(tuple(weight.shape), x.shape[0], 1, product is Product.GATED)
    return found


@functools.cache
def _dependent(table: str, device: str) -> bool:
    return table == "dependent" or any(c.device == device and c.config.prefetch > 0 for c in _rows(table))


def dependent(x: torch.Tensor) -> bool:
    """Whether kernels of a layer on x's device start before the one in front of them ends."""
    return _dependent(_table(x.device), _name(x.device))


def _table(device: torch.device) -> str:
    """The table in use; nothing is dependent before sm_90."""
    table = table_in_use()
    early = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)
    return table if early or table != "dependent" else "folded"


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


try:
    _rows(table_in_use())
except KernelError as fault:
    FAULTS.append(str(fault))
