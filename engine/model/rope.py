"""Rotary position embedding: the parameters a checkpoint asks for and the cos/sin table they give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import InputError, refuse, shown

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
}
"""Scaling kinds that Qwen2 checkpoints use, and the parameters each of them reads."""


@dataclass(frozen=True, kw_only=True)
class Rope:
    """RoPE (arXiv 2104.09864), plain, with linear scaling, or with YaRN (arXiv 2309.00071)."""

    theta: float = 10_000.0
    kind: str = "default"
    """`default`, `linear` or `yarn`."""
    factor: float = 1.0
    attention_factor: float | None = None
    """What YaRN multiplies cos and sin by; None: derived from `factor` (and `mscale`), YaRN equation 22."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    original_max_position_embeddings: int = 0
    truncate: bool = True

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "Rope":
        """From `config.json` as transformers 4 writes it (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).

        `source` names the file in errors. Raises InputError for a kind or a parameter that is not known.
        """
        name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        section = values.get(name) or {}
        if not isinstance(section, Mapping):
            raise InputError(f"{source}: {name} is {section!r}; give an object")
        given = dict(section)
        kind = given.pop("rope_type", given.pop("type", "default"))
        theta = given.pop("rope_theta", None) or values.get("rope_theta") or 10_000.0
        partial = given.pop("partial_rotary_factor", None) or values.get("partial_rotary_factor") or 1.0
        known = _KNOWN.get(kind) if isinstance(kind, str) else None
        unknown = sorted(set(given) - (known or set()))
        refuse(
            (known is None, f"{source}: RoPE kind is {shown(kind)}; supported are {', '.join(_KNOWN)}"),
            (
                partial != 1.0,
                f"{source}: partial_rotary_factor is {partial!r}; Qwen2 rotates whole heads, give 1.0",
            ),
            (
                unknown,
                f"{source}: RoPE kind {kind} does not read {', '.join(map(repr, unknown))}; remove it or correct the "
                "kind",
            ),
        )
        if kind == "default":
            return cls(theta=_number(theta, "rope_theta", source))
        limit = int(_number(values.get("max_position_embeddings", 0), "max_position_embeddings", source))
        stated = given.pop("original_max_position_embeddings", None)
        original = values.get("original_max_position_embeddings") or stated or limit
        original = int(_number(original, "original_max_position_embeddings", source))
        if given.get("factor") is None and kind == "yarn":
            given["factor"] = limit / original
        truncate = given.pop("truncate", True)
        numbers = {name: _number(value, name, source) for name, value in given.items() if value is not None}
        if "factor" not in numbers:
            raise InputError(f"{source}: RoPE kind {kind} has no factor; add one")
        return cls(
            theta=_number(theta, "rope_theta", source),
            kind=kind,
            original_max_position_embeddings=original,
            truncate=bool(truncate),
            **numbers,
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
        positions = torch.arange(max_positions, dtype=torch.float32, device=device)
        angles = torch.outer(positions, self.inverse_frequencies(head_dim).to(device))
        return torch.cat((angles.cos(), angles.sin()), dim=-1) * self.attention_scale


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _number(value: object, name: str, source: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{source}: {name} is {value!r}; give a finite number above 0")
    return float(value)
