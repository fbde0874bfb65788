"""A rank's weights: their tensors, and filling them from a checkpoint or with random numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.checkpoint import StoredTensor, read_tensors
from engine.errors import InputError
from engine.model_config import ModelConfig
from engine.shard import Shard

_RANDOM_STD = 0.02
_RANDOM_BLOCK = 1 << 24
"""Elements drawn at a time for random weights: bounds the scratch memory to 64 MiB."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Hq, Hk and F are the rank's own numbers of heads and MLP columns; D the head's width."""

    input_norm: Tensor
    """[H]"""
    qkv: Tensor
    """[(Hq + 2 Hk) D, H]: query rows, key rows, value rows."""
    qkv_bias: Tensor | None
    """[(Hq + 2 Hk) D]"""
    output: Tensor
    """[H, Hq D]"""
    mlp_norm: Tensor
    """[H]"""
    gate_up: Tensor
    """[2 F, H]: gate rows, then up rows."""
    down: Tensor
    """[H, F]"""


@dataclass(frozen=True)
class Weights:
    """Everything a rank holds, on its device, in one dtype."""

    embedding: Tensor
    """[V, H]: this rank's vocabulary rows; rows past the checkpoint's are zero."""
    layers: list[LayerWeights]
    norm: Tensor
    """[H]"""
    head: Tensor
    """[V, H]; the same tensor as `embedding` where they are tied."""

    @classmethod
    def allocate(cls, config: ModelConfig, shard: Shard, device: torch.device) -> Weights:
        """Uninitialised tensors in `config.dtype`, but for the vocabulary's padding rows, which are zero."""

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=config.dtype, device=device)

        def vocabulary() -> Tensor:
            rows = empty(shard.vocab_size, config.hidden_size)
            rows[shard.vocab_rows :] = 0
            return rows

        hidden, width = config.hidden_size, shard.intermediate_size
        q_rows = shard.num_heads * config.head_dim
        qkv_rows = q_rows + 2 * shard.num_kv_heads * config.head_dim
        embedding = vocabulary()
        layers = [
            LayerWeights(
                input_norm=empty(hidden),
                qkv=empty(qkv_rows, hidden),
                qkv_bias=empty(qkv_rows) if config.attention_bias else None,
                output=empty(hidden, q_rows),
                mlp_norm=empty(hidden),
                gate_up=empty(2 * width, hidden),
                down=empty(hidden, width),
            )
            for _ in range(config.num_layers)
        ]
        head = embedding if config.tie_word_embeddings else vocabulary()
        return cls(embedding=embedding, layers=layers, norm=empty(hidden), head=head)


@dataclass(frozen=True)
class Placement:
    """Where a checkpoint's tensor goes: `target` takes the entries from `start` on of its dimension `dim`."""

    name: str
    shape: tuple[int, ...]
    """The whole tensor's, as the checkpoint holds it."""
    target: Tensor
    dim: int = 0
    start: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.target.shape[self.dim]


def placements(weights: Weights, config: ModelConfig, shard: Shard) -> Iterator[Placement]:
    """Every tensor of a Qwen2 checkpoint, by Hugging Face's names, and its place in this rank's `weights`."""
    hidden, head_dim = config.hidden_size, config.head_dim
    vocabulary = (config.vocab_size, hidden)
    yield Placement(
        "model.embed_tokens.weight", vocabulary, weights.embedding[: shard.vocab_rows], start=shard.vocab_start
    )
    if not config.tie_word_embeddings:
        yield Placement("lm_head.weight", vocabulary, weights.head[: shard.vocab_rows], start=shard.vocab_start)
    yield Placement("model.norm.weight", (hidden,), weights.norm)

    q_rows, kv_rows = shard.num_heads * head_dim, shard.num_kv_heads * head_dim
    q_start, kv_start, column = shard.head_start * head_dim, shard.kv_head_start * head_dim, shard.intermediate_start
    projections = (("q", config.q_size, q_start), ("k", config.kv_size, kv_start), ("v", config.kv_size, kv_start))
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}."
        yield Placement(prefix + "input_layernorm.weight", (hidden,), layer.input_norm)
        yield Placement(prefix + "post_attention_layernorm.weight", (hidden,), layer.mlp_norm)
        rows = layer.qkv.split((q_rows, kv_rows, kv_rows))
        for (letter, size, start), target in zip(projections, rows, strict=True):
            yield Placement(f"{prefix}self_attn.{letter}_proj.weight", (size, hidden), target, start=start)
        if layer.qkv_bias is not None:
            rows = layer.qkv_bias.split((q_rows, kv_rows, kv_rows))
            for (letter, size, start), target in zip(projections, rows, strict=True):
                yield Placement(f"{prefix}self_attn.{letter}_proj.bias", (size,), target, start=start)
        yield Placement(prefix + "self_attn.o_proj.weight", (hidden, config.q_size), layer.output, 1, q_start)
        for letter, target in zip(("gate", "up"), layer.gate_up.chunk(2), strict=True):
            shape = (config.intermediate_size, hidden)
            yield Placement(f"{prefix}mlp.{letter}_proj.weight", shape, target, start=column)
        yield Placement(prefix + "mlp.down_proj.weight", (hidden, config.intermediate_size), layer.down, 1, column)


def load(directory: Path, config: ModelConfig, shard: Shard, device: torch.device) -> Weights:
    """This rank's weights from the safetensors in `directory`.

    Each tensor's slice goes from the mapped file straight to its place on `device`, converted to `config.dtype` on
    the way: no second copy on the host. Everything is checked against the headers before memory is allocated.
    Raises InputError naming file and tensor.
    """
    stored = read_tensors(directory)
    shapes_only = Weights.allocate(config, shard, torch.device("meta"))
    _check(stored, list(placements(shapes_only, config, shard)), directory)
    weights = Weights.allocate(config, shard, device)
    wanted = sorted(((stored[p.name].file, p) for p in placements(weights, config, shard)), key=itemgetter(0))
    for file, group in groupby(wanted, key=itemgetter(0)):
        try:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                for _, placement in group:
                    placement.target.copy_(_slice(tensors, placement))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read ({error}); copy it again") from None
    if config.tie_word_embeddings and "lm_head.weight" in stored:
        _check_tied(stored["lm_head.weight"], weights, config, shard)
    return weights


def _slice(tensors: safe_open, placement: Placement) -> Tensor:
    tensor = tensors.get_slice(placement.name)
    return tensor[:, placement.start : placement.stop] if placement.dim else tensor[placement.start : placement.stop]


def _check(stored: Mapping[str, StoredTensor], wanted: list[Placement], directory: Path) -> None:
    for placement in wanted:
        tensor = stored.get(placement.name)
        if tensor is None:
            files = sorted({t.file.name for t in stored.values()})
            raise InputError(f"{directory}: {placement.name} is missing from {', '.join(files)}; check config.json")
        if tensor.shape != placement.shape:
            raise InputError(
                f"{tensor.file}: {placement.name} has shape {list(tensor.shape)}, and config.json asks for "
                f"{list(placement.shape)}; give the config.json that belongs to these weights"
            )
    known = {placement.name for placement in wanted}
    for name, tensor in stored.items():
        # Early checkpoints store the RoPE frequencies, which config.json determines; a tied head is checked later.
        if name not in known and not name.endswith("rotary_emb.inv_freq") and name != "lm_head.weight":
            raise InputError(f"{tensor.file}: {name} is not part of the model that config.json describes")


def _check_tied(head: StoredTensor, weights: Weights, config: ModelConfig, shard: Shard) -> None:
    """A head that is stored although it is tied must equal the embedding: using either would be a guess."""
    placement = Placement(
        "lm_head.weight", (config.vocab_size, config.hidden_size), weights.head[: shard.vocab_rows],
        start=shard.vocab_start,
    )  # fmt: skip
    with safe_open(head.file, framework="pt", device="cpu") as tensors:
        if head.shape == placement.shape:
            stored = _slice(tensors, placement).to(placement.target)
            if torch.equal(stored, placement.target):
                return
    raise InputError(
        f"{head.file}: lm_head.weight differs from model.embed_tokens.weight, and config.json says "
        "tie_word_embeddings true; set it to false, or remove the tensor"
    )


def random(config: ModelConfig, shard: Shard, device: torch.device, seed: int) -> Weights:
    """Weights drawn on `device`: norms one, the rest normal with deviation 0.02.

    The same `seed` gives the same model whatever the number of ranks (on one kind of device): every rank draws whole
    tensors, in blocks of rows, and keeps its part.
    """
    weights = Weights.allocate(config, shard, device)
    generator = torch.Generator(device)
    for placement in placements(weights, config, shard):
        if placement.name.endswith("norm.weight"):
            placement.target.fill_(1)
            continue
        # One hash of both: the CPU's generator looks at the low 32 bits of a seed only.
        generator.manual_seed(zlib.crc32(f"{seed} {placement.name}".encode()))
        rows, *rest = placement.shape
        width = rest[0] if rest else 1
        step = max(1, _RANDOM_BLOCK // width)
        for first in range(0, rows, step):
            shape = (min(step, rows - first), *rest)
            block = torch.empty(shape, dtype=torch.float32, device=device)
            block.normal_(0, _RANDOM_STD, generator=generator)
            if placement.dim:
                placement.target[first : first + step] = block[:, placement.start : placement.stop]
                continue
            low, high = max(first, placement.start), min(first + step, placement.stop)
            if low < high:
                placement.target[low - placement.start : high - placement.start] = block[low - first : high - first]
    return weights
