"""A Qwen2-, Qwen3- or Llama-like decoder over a packed stream of tokens; parameter names are Hugging Face's.

Written for training: [tokens, H] in, weighted loss out. The engine has its own model for inference.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from train.architecture import Architecture
from train.attention import Documents, attend
from train.layout import Batch
from train.loss import chunked_cross_entropy
from train.pointwise import RmsNorm, Rotate


class Attention(nn.Module):
    """The projections of a layer's attention; Hugging Face's names."""

    def __init__(self, arch: Architecture):
        super().__init__()
        d, bias = arch.head_dim, arch.attention_bias
        self.q_proj = nn.Linear(arch.hidden_size, arch.num_heads * d, bias=bias)
        self.k_proj = nn.Linear(arch.hidden_size, arch.num_kv_heads * d, bias=bias)
        self.v_proj = nn.Linear(arch.hidden_size, arch.num_kv_heads * d, bias=bias)
        self.o_proj = nn.Linear(arch.num_heads * d, arch.hidden_size, bias=False)
        if arch.qk_norm:
            self.q_norm = RmsNorm(d, arch.rms_norm_eps)
            self.k_norm = RmsNorm(d, arch.rms_norm_eps)


class Mlp(nn.Module):
    """The projections of a layer's gated MLP; Hugging Face's names."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.gate_proj = nn.Linear(arch.hidden_size, arch.intermediate_size, bias=False)
        self.up_proj = nn.Linear(arch.hidden_size, arch.intermediate_size, bias=False)
        self.down_proj = nn.Linear(arch.intermediate_size, arch.hidden_size, bias=False)


class Block(nn.Module):
    """One layer.

    `before` and `after` are the dense parts on both sides of attention. They see only [tokens, ...] and are what gets
    compiled: attention's shapes change with every step's documents.
    """

    def __init__(self, arch: Architecture, checkpointing: str):
        super().__init__()
        self.heads, self.head_dim = (arch.num_heads, arch.num_kv_heads), arch.head_dim
        self.checkpointing = checkpointing
        self.input_layernorm = RmsNorm(arch.hidden_size, arch.rms_norm_eps)
        self.self_attn = Attention(arch)
        self.post_attention_layernorm = RmsNorm(arch.hidden_size, arch.rms_norm_eps)
        self.mlp = Mlp(arch)

    def before(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x [tokens, H], cos and sin [tokens, D] float32 -> rotated qkv [tokens, Hq + 2 Hk, D]."""
        attention, shape = self.self_attn, (x.shape[0], -1, self.head_dim)
        x = self.input_layernorm(x)
        q, k, v = (project(x).view(shape) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        return Rotate.apply(q, k, v, cos, sin)

    def after(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """x [tokens, H], attended [tokens, Hq, D] -> the layer's output [tokens, H]."""
        x = x + self.self_attn.o_proj(attended.flatten(1))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))

    def compute(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        documents: Documents,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        return self.after(x, attend(self.before(x, cos, sin), self.heads, documents, group))

    def forward(self, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        # Recomputation sits inside the module, so that FSDP gathers its parameters once for it, from the outside.
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            return self.compute(x, *rest)
        options: dict[str, Any] = {"context_fn": _selective} if self.checkpointing == "selective" else {}
        return checkpoint(self.compute, x, *rest, use_reentrant=False, **options)


def _selective() -> Any:
    """Keeps what is dear to compute again: attention's and every second matmul's output; the rest is recomputed."""
    matmuls = {False: 0, True: 0}  # in the first pass and, for PyTorch before 2.13, in the recomputation
    kept = {
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
    }
    if hasattr(torch.ops.torch_attn, "_varlen_attn"):  # registered by the first use on a GPU
        kept.add(torch.ops.torch_attn._varlen_attn.default)

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            matmuls[context.is_recompute] += 1
            keep = matmuls[context.is_recompute] % 2 == 1
        else:
            keep = op in kept
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def rotary(positions: torch.Tensor, arch: Architecture) -> tuple[torch.Tensor, torch.Tensor]:
    """positions [tokens] int64 -> cos, sin [tokens, D/2] float32."""
    angles = positions[:, None].float() * arch.rope.inverse_frequencies(arch.head_dim).to(positions.device)
    return angles.cos() * arch.rope.attention_scale, angles.sin() * arch.rope.attention_scale


class Stack(nn.Module):
    """What Hugging Face calls `model`: embedding, layers, last norm."""

    def __init__(self, arch: Architecture, checkpointing: str):
        super().__init__()
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(Block(arch, checkpointing) for _ in range(arch.num_layers))
        self.norm = RmsNorm(arch.hidden_size, arch.rms_norm_eps)


class Head(nn.Module):
    """lm_head. The loss is computed inside its forward pass, where FSDP has gathered its weight."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(arch.vocab_size, arch.hidden_size))

    def forward(self, hidden: torch.Tensor, batch: Batch, chunk: int) -> torch.Tensor:
        return chunked_cross_entropy(hidden, self.weight, batch.labels, batch.weights, chunk)


class Decoder(nn.Module):
    """forward(batch) -> float32 scalar, the batch's weighted sum of cross entropies."""

    def __init__(self, arch: Architecture, checkpointing: str = "none", loss_chunk: int = 1024):
        super().__init__()
        self.arch, self.loss_chunk = arch, loss_chunk
        self.context_group: dist.ProcessGroup | None = None
        self.model = Stack(arch, checkpointing)
        if not arch.tie_word_embeddings:
            self.lm_head = Head(arch)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final normalised hidden states of the rows that predict something, [targets, H]."""
        x = self.model.embed_tokens(batch.ids)
        cos, sin = rotary(batch.documents.positions, self.arch)
        for block in self.model.layers:
            x = block(x, cos, sin, batch.documents, self.context_group)
        return self.model.norm(x.index_select(0, batch.rows))

    def forward(self, batch: Batch) -> torch.Tensor:
        hidden = self.hidden(batch)
        if self.arch.tie_word_embeddings:
            return chunked_cross_entropy(
                hidden, self.model.embed_tokens.weight, batch.labels, batch.weights, self.loss_chunk
            )
        return self.lm_head(hidden, batch, self.loss_chunk)
