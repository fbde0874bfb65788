"""Low-rank adapters (LoRA, arXiv 2106.09685) on linear layers; files in PEFT's format."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from engine.whole_file import write_whole
from train.config import Lora


class LoraLinear(nn.Linear):
    """y = x W^T + b + alpha / rank * (x A^T) B^T; W and b are frozen and keep their names."""

    def __init__(self, base: nn.Linear, config: Lora, adapter_dtype: torch.dtype):
        device, dtype = base.weight.device, base.weight.dtype
        super().__init__(base.in_features, base.out_features, base.bias is not None, device=device, dtype=dtype)
        self.requires_grad_(False)
        self.scale = config.alpha / config.rank
        self.lora_A = nn.Linear(base.in_features, config.rank, bias=False, device=device, dtype=adapter_dtype)
        self.lora_B = nn.Linear(config.rank, base.out_features, bias=False, device=device, dtype=adapter_dtype)

    @torch.no_grad()
    def merged(self) -> torch.Tensor:
        """W + alpha / rank * B A in float32, sharded as W is."""
        a, b = self.lora_A.weight, self.lora_B.weight
        if isinstance(a, DTensor):
            a = a.redistribute(a.device_mesh, [Replicate()] * a.device_mesh.ndim)
        return self.weight.float() + self.scale * (b.float() @ a.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(x))


def add_lora(model: nn.Module, config: Lora, adapter_dtype: torch.dtype) -> None:
    """Freezes the model and puts an adapter on every linear layer named in `config.targets`."""
    model.requires_grad_(False)
    children = [(parent, *named) for parent in model.modules() for named in parent.named_children()]
    for parent, name, child in children:
        if name in config.targets and isinstance(child, nn.Linear):
            setattr(parent, name, LoraLinear(child, config, adapter_dtype))


def adapter_bound(parameter: torch.Tensor) -> float:
    """A starts uniform within this (as in PEFT, Kaiming with a = sqrt 5), B at 0: the first loss is the base's."""
    return 1.0 / math.sqrt(parameter.shape[1])


@torch.no_grad()
def export_adapter(model: nn.Module, config: Lora, folder: Path, base: str, first: bool) -> None:
    """Writes adapter_model.safetensors and adapter_config.json (collective; rank 0 writes)."""
    tensors = {
        "base_model.model." + name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().to("cpu", torch.float32)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    if not first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: values.contiguous() for name, values in tensors.items()}
    write_whole(folder / "adapter_model.safetensors", save(contiguous, metadata={"format": "pt"}))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_whole(folder / "adapter_config.json", json.dumps(settings, indent=2) + "\n")


@torch.no_grad()
def merge(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Adds the adapters to the weights, which then are of `dtype`, and returns the model's tensors under their plain
    names. One matrix after the other, because a second copy of a 32B model does not fit beside the first.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.weight = nn.Parameter(module.merged().to(dtype), requires_grad=False)
    return {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
