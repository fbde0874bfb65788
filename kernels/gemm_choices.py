"""Which product runs where: the recorded table of shapes for which `kernels.small_gemm` beat cuBLAS on a device.

`gemm_choices.json` holds one row per (device, product, shape, numbers of tokens) with the two times that decided it, as
`python -m bench.gemm` took them on the device itself. Where no row holds, cuBLAS runs. The table is empty: not yet
measured on a GPU.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import torch

from kernels.small_gemm import MOST_TOKENS, GemmConfig

TABLE = Path(__file__).with_name("gemm_choices.json")


class Product(Enum):
    """The three products of a layer's linears: plain (bias, residual), silu(gate) * up, and the float32 head."""

    PLAIN = "plain"
    GATED = "gated"
    HEAD = "head"


@dataclass(frozen=True)
class Choice:
    """One row. It holds for batches of `least` to `tokens`; `ours_us` and `cublas_us` are the times that decided."""

    device: str
    product: Product
    out_features: int
    in_features: int
    tokens: int
    config: GemmConfig
    ours_us: float
    cublas_us: float
    least: int = 1


def table_in_use() -> Path:
    """The table that products are chosen from: this package's, or what S1_GEMM_TABLE names."""
    return Path(os.environ.get("S1_GEMM_TABLE") or TABLE)


def read_choices(path: Path = TABLE) -> tuple[Choice, ...]:
    """The rows of a table."""
    rows = json.loads(path.read_text())
    return tuple(Choice(**{**r, "product": Product(r["product"]), "config": GemmConfig(**r["config"])}) for r in rows)


def write_choices(choices: list[Choice], path: Path = TABLE) -> None:
    """Replace a table; rows are sorted, so that a diff shows what changed."""
    ordered = sorted(choices, key=lambda c: (c.device, c.product.value, c.out_features, c.in_features, c.tokens))
    rows = [{**asdict(choice), "product": choice.product.value} for choice in ordered]
    path.write_text(json.dumps(rows, indent=1) + "\n")


@functools.cache
def _rows() -> tuple[Choice, ...]:
    return read_choices(table_in_use())


@functools.cache
def _pick(device: str, product: Product, out_features: int, in_features: int, tokens: int) -> GemmConfig | None:
    return pick(_rows(), device, product, out_features, in_features, tokens)


def pick(
    choices: tuple[Choice, ...], device: str, product: Product, out_features: int, in_features: int, tokens: int
) -> GemmConfig | None:
    """The configuration of the narrowest row that holds for `tokens`; None: cuBLAS."""
    fits = [
        c
        for c in choices
        if (c.device, c.product, c.out_features, c.in_features) == (device, product, out_features, in_features)
        and c.least <= tokens <= c.tokens
    ]
    return min(fits, key=lambda c: c.tokens).config if fits else None


@functools.cache
def _dependents(device: str) -> bool:
    return any(choice.device == device and choice.config.prefetch > 0 for choice in _rows())


def has_dependents(x: torch.Tensor) -> bool:
    """Whether x's device has products that start before the kernel in front of them ends, which must then let them."""
    return x.is_cuda and _dependents(torch.cuda.get_device_name(x.device))


def choose(x: torch.Tensor, weight: torch.Tensor, product: Product) -> GemmConfig | None:
    """The recorded configuration for x [N, K] and weight [M, K] on x's device; None: cuBLAS."""
    if not x.is_cuda or x.shape[0] > MOST_TOKENS:
        return None
    name = torch.cuda.get_device_name(x.device)
    return _pick(name, product, weight.shape[0], weight.shape[1], x.shape[0])
