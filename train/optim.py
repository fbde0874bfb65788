"""AdamW, its schedule as a function of the step, and the global gradient norm."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from train.config import Optim
from train.errors import TrainingError


def build_optimizer(model: nn.Module, config: Optim, device: torch.device) -> torch.optim.Optimizer:
    """Decay on matrices only: biases and norms (one dimension) have none, as in Hugging Face's Trainer."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in (
            ([p for p in trainable if p.dim() > 1], config.weight_decay),
            ([p for p in trainable if p.dim() <= 1], 0.0),
        )
        if params
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    try:
        from torchao.optim import AdamW8bit  # Optional, and slow to import: only the 8-bit optimiser needs it.
    except ImportError as error:
        raise TrainingError(
            "optim.kind is adamw8bit, which needs torchao: pip install torchao, or use adamw"
        ) from error
    return AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def lr_at(step: int, total: int, config: Optim) -> float:
    """Learning rate of step `step` (from 0) of `total`: linear from `warmup_from` over ceil(warmup * total) steps, then
    cosine.

    With warmup_from 0 the same values as Hugging Face's cosine schedule; with s1's recipe 16 + 299 steps.
    """
    warmup = math.ceil(config.warmup * total)
    if step < warmup:
        first = 1 / (warmup + 1) if config.warmup_from is None else config.warmup_from
        return config.lr * (first + (1 - first) * step / warmup)
    progress = (step - warmup) / max(total - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # torchao keeps it on the device
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """L2 norm over all parameters and ranks, float32 scalar, the same on every rank."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
