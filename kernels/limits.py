"""Bytes, FLOPs and the least seconds of a step, for any decoder on any device: written down before anything is timed.

A decode step must read every matrix once and every visible key and value once, so its least time is
`max(bytes / bandwidth, FLOPs / compute)` plus, with tensor parallelism, two all-reduces per layer.
Gaps between kernels, activations and the embedding row are left out: they are what an engine has to fight.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class DecoderShape(Protocol):
    """The fields of a model configuration that bytes and FLOPs follow from."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...
    @property
    def attention_bias(self) -> bool: ...
    @property
    def qk_norm(self) -> bool: ...


@dataclass(frozen=True)
class Device:
    """What one device can do: bytes/s as a copy (on a CPU, a read) reaches it, dense bf16 FLOP/s, bytes of memory."""

    name: str
    bandwidth: float
    flops: float
    memory: float
    """as its driver tells it"""
    peak_flops: float | None = None
    """dense bf16 by the data sheet, which training's share (MFU) is of"""
    gpu: bool = True


H200 = Device("H200", 4.3e12, 790e12, 150.0e9, 989.5e12)
"""Copy bandwidth and matmul rate as measured on one card; the datasheet says 4.8 TB/s."""
H100 = Device("H100", 3.0e12, 798e12, 84.9e9, 989.5e12)
"""SXM, 80 GB. Copy bandwidth and matmul rate as measured on one card; the datasheet says 3.35 TB/s."""
A100 = Device("A100", float("inf"), float("inf"), 85.0e9, 312e12)
B200 = Device("B200", float("inf"), float("inf"), 192.0e9, 2250e12)
"""Of these two only the data sheet's figures, for training's plan."""

UNKNOWN = Device("unknown", float("inf"), float("inf"), 0.0)
"""A device without measured rates: bytes and FLOPs stand, seconds are 0 and nothing is said to fit."""

_CPU_SHARE, _GPU_SHARE = 0.25, 0.92
"""Of the memory that is free once the weights are loaded, what the page pool may take if nothing else is said."""
_SCRATCH = 2 << 30
"""Bytes left free on a GPU for activations, logits, captured graphs and the libraries' workspaces."""
_CONTEXT = 0.6e9
"""Bytes of a GPU that are taken before anything is loaded: the driver's, and a process's CUDA context."""


def pool_bytes(free: float, gpu: bool) -> int:
    """What the page pool may take of `free` bytes, those left beside the weights: the engine's own rule, which every
    plan asks too."""
    return max(0, int(free * _GPU_SHARE) - _SCRATCH if gpu else int(free * _CPU_SHARE))


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of `rows` x `cols`, used `count` times per token (once per layer, or once)."""

    name: str
    rows: int
    cols: int
    count: int

    @property
    def params(self) -> int:
        return self.rows * self.cols * self.count


def matrices(shape: DecoderShape) -> tuple[Matrix, ...]:
    """The matrices a token passes, in order; the head included, the embedding (one row per token) not."""
    layers, hidden, dim = shape.num_layers, shape.hidden_size, shape.head_dim
    return (
        Matrix("qkv", (shape.num_heads + 2 * shape.num_kv_heads) * dim, hidden, layers),
        Matrix("o", hidden, shape.num_heads * dim, layers),
        Matrix("gate_up", 2 * shape.intermediate_size, hidden, layers),
        Matrix("down", hidden, shape.intermediate_size, layers),
        Matrix("head", shape.vocab_size, hidden, 1),
    )


def matrix_params(shape: DecoderShape) -> int:
    """Parameters in `matrices`: two FLOPs each for every token."""
    return sum(matrix.params for matrix in matrices(shape))


def vector_params(shape: DecoderShape) -> int:
    """Norm weights and QKV biases: read every step, kept in 16 bits whatever the matrices are."""
    bias = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim if shape.attention_bias else 0
    heads = 2 * shape.head_dim if shape.qk_norm else 0
    return shape.num_layers * (2 * shape.hidden_size + bias + heads) + shape.hidden_size


def all_reduce_seconds(nbytes: float) -> float:
    """One all-reduce on a Hopper node: published one-shot times below 0.5 MiB, multimem above."""
    mib = nbytes / 2**20
    if mib <= 0.0625:
        return 7e-6
    if mib < 0.5:
        return 7e-6 + 13.7e-6 * (mib - 0.0625)
    return 10.5e-6 + 5.1e-6 * mib


@dataclass(frozen=True)
class Limits:
    """The limits of one decoder on `tensor_parallel_size` devices of one kind.

    `weight_bytes` is bytes per matrix parameter: 2 for bf16, 1 for 8 bits, 0.5625 for 4 bits with a 16-bit scale
    and zero per 64. `kv_bytes` is bytes per cached value: 2, or 1 for fp8. `head_bytes` is that of the head's
    parameters where it is not `weight_bytes` (the engine's fp8 mode leaves the head in 16). Scales of 8-bit weights,
    one per row, are left out: 0.06 % of the bytes.
    """

    shape: DecoderShape
    device: Device
    tensor_parallel_size: int = 1
    weight_bytes: float = 2
    kv_bytes: float = 2
    head_bytes: float | None = None

    @property
    def streamed_bytes(self) -> float:
        """Weight bytes every step reads, over all ranks."""
        *layers, head = matrices(self.shape)
        head_bytes = self.weight_bytes if self.head_bytes is None else self.head_bytes
        matrix_bytes = sum(m.params for m in layers) * self.weight_bytes + head.params * head_bytes
        return matrix_bytes + vector_params(self.shape) * max(2.0, self.weight_bytes)

    @property
    def resident_bytes(self) -> float:
        """Weight bytes in memory, over all ranks: an embedding comes on top of what is streamed, unless it is the head,
        which one of 8 bits is not."""
        head_bytes = self.weight_bytes if self.head_bytes is None else self.head_bytes
        width = max(2.0, self.weight_bytes, head_bytes)
        shared = self.shape.tie_word_embeddings and head_bytes == width
        embedding = 0 if shared else self.shape.vocab_size * self.shape.hidden_size
        return self.streamed_bytes + embedding * width

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values of one token, over all ranks; KV heads are replicated where ranks exceed them."""
        heads = max(self.shape.num_kv_heads, self.tensor_parallel_size)
        return 2 * self.shape.num_layers * heads * self.shape.head_dim * self.kv_bytes

    def step_bytes(self, batch: int, context: int) -> float:
        """Bytes a decode step of `batch` sequences with `context` visible keys each must read, over all ranks."""
        return self.streamed_bytes + batch * context * self.kv_bytes_per_token

    def step_flops(self, batch: int, context: int) -> float:
        """FLOPs of that step: 2 per matrix parameter, 4 per query value and key (scores, then values)."""
        attention = 4 * self.shape.num_layers * self.shape.num_heads * self.shape.head_dim * context
        return batch * (2 * matrix_params(self.shape) + attention)

    def step_seconds(self, batch: int, context: int) -> float:
        """Least seconds of that step."""
        return self._seconds(self.step_bytes(batch, context), self.step_flops(batch, context), batch)

    def tokens_per_second(self, batch: int, context: int) -> float:
        """Most tokens per second of the whole batch."""
        return batch / self.step_seconds(batch, context)

    def prefill_flops(self, tokens: int, cached: int = 0) -> float:
        """FLOPs to prefill `tokens` after `cached` ones: all matrices, the head for one row only, causal attention."""
        head = self.shape.vocab_size * self.shape.hidden_size
        visible = tokens * cached + tokens * (tokens + 1) / 2
        attention = 4 * self.shape.num_layers * self.shape.num_heads * self.shape.head_dim * visible
        return 2 * (matrix_params(self.shape) - head) * tokens + 2 * head + attention

    def prefill_seconds(self, tokens: int, cached: int = 0) -> float:
        """Least seconds of that prefill: compute, or reading the weights where `tokens` is small."""
        moved = self.streamed_bytes + cached * self.kv_bytes_per_token
        return self._seconds(moved, self.prefill_flops(tokens, cached), tokens)

    @property
    def kv_pool_tokens(self) -> int:
        """Tokens of KV cache that fit beside the weights of a device that does nothing else; 0 where those do not."""
        taken = self.resident_bytes / self.tensor_parallel_size + (_CONTEXT if self.device.gpu else 0)
        room = pool_bytes(max(0.0, self.device.memory - taken), self.device.gpu)
        return int(room * self.tensor_parallel_size // self.kv_bytes_per_token)

    def resident_sequences(self, context: int) -> int:
        """Sequences of `context` tokens that fit at once."""
        return self.kv_pool_tokens // context

    def compute_bound_batch(self) -> float:
        """Batch from which matrix FLOPs take longer than streaming the weights (context 0)."""
        return self.streamed_bytes / self.device.bandwidth * self.device.flops / (2 * matrix_params(self.shape))

    def _seconds(self, moved: float, flops: float, tokens: int) -> float:
        """Least seconds of a step of `tokens` that moves so many bytes, over all ranks."""
        ranks = self.tensor_parallel_size
        alone = max(moved / ranks / self.device.bandwidth, flops / ranks / self.device.flops)
        reduces = 2 * self.shape.num_layers if ranks > 1 else 0
        return alone + reduces * all_reduce_seconds(tokens * self.shape.hidden_size * 2)


def known_device(name: str, among: Sequence[Device] = (H200, H100)) -> Device | None:
    """The device whose limits are known for a name as the driver tells it ("NVIDIA H200"), or None: cards of other
    forms (PCIe, NVL) and parts of a card have other limits."""
    words = re.split(r"\W+", name.upper())
    if not {"PCIE", "NVL", "MIG"}.isdisjoint(words):
        return None
    return next((device for device in among if device.name in words), None)


def summary(limits: Limits, pool_tokens: int) -> str:
    """The engine's start-up line: bytes per step, KV bytes per token, the pool, and the least time per token.

    Where the device is `UNKNOWN` the line has bytes only: a limit nobody measured is not printed.
    """
    line = (
        f"{_bytes(limits.streamed_bytes)} of weights per step, {limits.kv_bytes_per_token / 1024:.4g} KiB of KV "
        f"per token, room for {pool_tokens:,} tokens"
    )
    if limits.device is UNKNOWN:
        return line
    context = min(1024, max(1, pool_tokens))
    seconds = limits.step_seconds(1, context)
    return (
        f"{line}; limit at batch 1, {context:,} tokens of context: {seconds * 1e3:.3g} ms per token "
        f"({1 / seconds:,.0f} tok/s) on {limits.device.name}"
    )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
