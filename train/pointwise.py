"""RMSNorm and rotary embedding with hand-written gradients: fewer passes over memory than what autograd records."""

from typing import Any

import torch
from torch import nn


class _RmsNorm(torch.autograd.Function):
    """y = n * weight with n = x / rms(x), in float32; then dx = (g w - n mean(g w n)) / rms and dw = sum(g n)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        normal, wide = x.float() * scale, grad.float()
        product = wide * normal
        weight_grad = product.flatten(0, -2).sum(0).to(weight.dtype)
        mean = (product @ weight.float())[..., None] / x.shape[-1]
        return (wide * weight.float()).addcmul_(normal, mean, value=-1.0).mul_(scale).to(x.dtype), weight_grad, None


class RmsNorm(nn.Module):
    """x [..., H] -> the same shape and dtype."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _RmsNorm.apply(x, self.weight, self.eps)


class Rotate(torch.autograd.Function):
    """q [tokens, Hq, D], k and v [tokens, Hk, D], cos and sin [tokens, D/2] float32 -> qkv [tokens, Hq + 2 Hk, D].

    q and k are rotated by their positions (Hugging Face's rotate-half layout). The gradient is the rotation by the
    negative angle.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = (q.shape[1], k.shape[1])
        return torch.cat([_turn(q, cos, sin), _turn(k, cos, sin), v], dim=1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        queries, keys = ctx.heads
        q, k, v = grad.split([queries, keys, keys], dim=1)
        return _turn(q, cos, -sin), _turn(k, cos, -sin), v.contiguous(), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
