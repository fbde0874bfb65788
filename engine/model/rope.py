"""Rotary position embedding: the parameters a checkpoint asks for and the cos/sin table they give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import InputError, is_number, refuse, shown

_LEAST, _MOST = 1e-6, 1e15
"""Of every parameter: what is computed of any of them stays well inside float32."""
_KNOWN = {
    "default": set(),
    "linear": {"factor"},
    "yarn": {
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "truncate",
    },
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
"""Scaling kinds that known checkpoints use, and the parameters each of them reads."""


@dataclass(frozen=True, kw_only=True)
class Rope:
    """RoPE (arXiv 2104.09864), plain, with linear scaling, YaRN (arXiv 2309.00071) or Llama 3's."""

    theta: float = 10_000.0
    kind: str = "default"
    """`default`, `linear`, `yarn` or `llama3`."""
    factor: float = 1.0
    attention_factor: float | None = None
    """What YaRN multiplies cos and sin by; None: derived from `factor` (and `mscale`), YaRN equation 22."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    original_max_position_embeddings: int = 0
    truncate: bool = True
    low_freq_factor: float = 1.0
    """Llama 3: pairs that turn fewer times than this within the original context are slowed down by `factor`."""
    high_freq_factor: float = 4.0
    """Llama 3: pairs that turn more often than this keep their frequency; between the two it is blended."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str, positions: int) -> "Rope":
        """From `config.json` as transformers 4 writes it (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).

        `source` names the file in errors; `positions` is the file's max_position_embeddings. Raises InputError for a
        kind or a parameter that is not known, and for numbers of which float32 could make infinities.
        """
        name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        section = {} if values.get(name) is None else values[name]
        if not isinstance(section, Mapping):
            raise InputError(f"{source}: {name} is {shown(section)}; give an object")
        given = dict(section)
        kind = given.pop("rope_type", given.pop("type", "default"))
        theta = _first(given.pop("rope_theta", None), values.get("rope_theta"), 10_000.0)
        partial = _first(given.pop("partial_rotary_factor", None), values.get("partial_rotary_factor"), 1.0)
        known = _KNOWN.get(kind) if isinstance(kind, str) else None
        unknown = sorted(set(given) - (known or set()))
        truncate = given.pop("truncate", True)
        refuse(
            (known is None, f"{source}: RoPE kind is {shown(kind)}; supported are {', '.join(_KNOWN)}"),
            (
                partial != 1.0 or isinstance(partial, bool),
                f"{source}: partial_rotary_factor is {shown(partial)}; only whole heads are rotated, give 1.0",
            ),
            (
                unknown,
                f"{source}: RoPE kind {kind} does not read {shown(unknown)[1:-1]}; remove it or correct the kind",
            ),
            (not isinstance(truncate, bool), f"{source}: truncate is {shown(truncate)}; give true or false"),
            (
                not is_number(theta, 1, _MOST) or theta == 1,
                f"{source}: rope_theta is {shown(theta)}; give a number above 1, up to {_MOST:g}",
            ),
        )
        if kind == "default":
            return cls(theta=float(theta))
        stated = given.pop("original_max_position_embeddings", None)
        original = _first(values.get("original_max_position_embeddings"), stated, positions)
        original = int(_number(original, "original_max_position_embeddings", source, 1))
        if given.get("factor") is None and kind == "yarn":
            given["factor"] = positions / original
        numbers = {name: _number(value, name, source) for name, value in given.items() if value is not None}
        needed = ("factor", "low_freq_factor", "high_freq_factor") if kind == "llama3" else ("factor",)
        for name in needed:
            if name not in numbers:
                raise InputError(f"{source}: RoPE kind {kind} has no {name}; add one")
        if kind == "llama3" and numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
            raise InputError(
                f"{source}: high_freq_factor is {shown(numbers['high_freq_factor'])}; give a number above "
                f"low_freq_factor, {shown(numbers['low_freq_factor'])}"
            )
        return cls(
            theta=float(theta), kind=kind, original_max_position_embeddings=original, truncate=truncate, **numbers
        )

    @property
    def attention_scale(self) -> float:
        """The factor on cos and sin."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor, 1.0)

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """Radians per position of each rotated pair: [head_dim / 2] float32, on the CPU."""
        wavelengths = self.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        extrapolated = 1.0 / wavelengths
        if self.kind == "default":
            return extrapolated
        if self.kind == "linear":
            return extrapolated / self.factor
        if self.kind == "llama3":
            turns = self.original_max_position_embeddings / (2 * math.pi / extrapolated)
            keep = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
            return (1 - keep) * extrapolated / self.factor + keep * extrapolated
        low = self._pair_that_turns(self.beta_fast, head_dim)
        high = self._pair_that_turns(self.beta_slow, head_dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        # Equal bounds would divide by zero: a step so narrow that it falls between two pairs instead.
        span = high - low if high != low else 0.001
        keep = 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
        return 1.0 / (self.factor * wavelengths) * (1 - keep) + extrapolated * keep

    def _pair_that_turns(self, rotations: float, head_dim: int) -> float:
        """The (fractional) pair that makes `rotations` turns within the original context: YaRN, equation 17."""
        wavelength = self.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(self.theta))

    def cos_sin(self, max_positions: int, head_dim: int, device: torch.device) -> torch.Tensor:
        """The table the kernels read: [max_positions, head_dim] float32, cos in the first half, sin in the second."""
        table = torch.empty(max_positions, head_dim, dtype=torch.float32, device=device)  # no second one beside it
        positions = torch.arange(max_positions, dtype=torch.float32, device=device)
        cos, sin = table.chunk(2, dim=-1)
        torch.mul(positions[:, None], self.inverse_frequencies(head_dim).to(device), out=sin)
        torch.cos(sin, out=cos)
        sin.sin_()
        return table.mul_(self.attention_scale)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next(value for value in values if value is not None)


def _number(value: Any, name: str, source: str, least: float = _LEAST) -> float:
    if not is_number(value, least, _MOST):
        raise InputError(f"{source}: {name} is {shown(value)}; give a number from {least:g} to {_MOST:g}")
    return float(value)
