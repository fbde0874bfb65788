"""How far results in floating point may lie from the exact ones, whatever the order of their sums and the instructions
of the processor: bounds from sizes.

`gamma` is the worst that sums can do (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Through a whole
network it says little; there `likely` holds but for one case in 10^10, since roundings do not conspire (Higham and
Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019).
"""

from typing import Any

import torch

UNIT = 2.0**-24
"""Unit roundoff of float32."""


def unit(dtype: torch.dtype) -> float:
    """Unit roundoff: what rounding to `dtype` changes at most, relative to the value."""
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, roundoff: float = UNIT) -> float:
    """Relative error of a sum of `terms` products, in any order, by the sum of the absolute values."""
    return terms * roundoff / (1 - terms * roundoff)


def likely(roundings: int, roundoff: float = UNIT) -> float:
    """Relative error after so many roundings, one upon the other."""
    return 8 * roundings**0.5 * roundoff


def sums(terms: int) -> float:
    """Largest error, relative to the largest value, of sums whose absolute values add up to at most thrice that."""
    return 3 * gamma(terms)


def decoder_roundings(shape: Any, keys: int) -> int:
    """Roundings on the way from a token to its logits, the terms of every sum one after the other: two norms, qkv,
    scores, softmax, values, output, gate and down of each layer; the last norm and the head. `shape` is a ModelConfig
    or an Architecture, `keys` the longest context."""
    width = shape.num_heads * shape.head_dim
    layer = 4 * shape.hidden_size + shape.head_dim + 2 * keys + width + shape.intermediate_size
    return shape.num_layers * layer + 2 * shape.hidden_size


def product(
    x: torch.Tensor, w: torch.Tensor, *added: torch.Tensor | None, roundings: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """x Wᵀ and what is added, in float64, and how far from it float32 may be: sums, then a scale, then `roundings` to
    x's dtype where it is narrower. x [N, K], w [M, K] -> two of [N, M]."""
    terms = [each.double() for each in added if each is not None]
    exact = x.double() @ w.double().T + sum(terms)
    size = x.double().abs() @ w.double().abs().T + sum(each.abs() for each in terms)
    narrow = 0.0 if x.dtype is torch.float32 else roundings * unit(x.dtype)
    largest = exact.abs() + sum(each.abs() for each in terms)  # of what stood there before something was added
    return exact, gamma(x.shape[1] + len(terms) + 2) * size + narrow * largest


def assert_within(found: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor | float) -> None:
    """Every element, and NaN nowhere."""
    distance = (found.double() - exact.double()).abs()
    worst = (distance / bound).nan_to_num(torch.inf).max() if distance.numel() else 0.0
    assert (distance <= bound).all(), f"{float(worst):.3g} times the bound"
