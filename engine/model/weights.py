"""A rank's weights: their tensors, and filling them from a checkpoint or with random numbers."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import InputError, first_line
from engine.model.adapter import Adapter, merged
from engine.model.checkpoint import StoredTensor, read_tensors
from engine.model.config import ModelConfig
from engine.model.gguf_config import FREQUENCIES
from engine.model.gguf_header import is_gguf
from engine.model.gguf_tensors import GgufTensors
from engine.model.shard import Shard
from kernels import huge_pages
from kernels.quantize import QuantizedMatrix, decode, kv_scales

Matrix = Tensor | QuantizedMatrix
"""A projection [M, K]: of the model's dtype, or codes of 8 bits with a scale per row."""
_AT_ONCE = 1 << 24
"""Elements that are read of a file before it is opened anew: bounds what is mapped to 64 MiB, and a tensor."""
_RANDOM_STD = 0.02
_RANDOM_BLOCK = 1 << 24
"""Elements drawn at a time for random weights: bounds the scratch memory to 64 MiB."""


@dataclass(frozen=True)
class Precision:
    """What is kept in 8 bits; None: the model's dtype."""

    weights: torch.dtype | None = None
    """of the layers' matrices: int8 or float8_e4m3fn; int8 takes the head too"""
    kv: torch.dtype | None = None
    """of keys and values: float8_e4m3fn"""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Hq, Hk and F are the rank's own numbers of heads and MLP columns; D the head's width."""

    input_norm: Tensor
    """[H]"""
    qkv: Matrix
    """[(Hq + 2 Hk) D, H]: query rows, key rows, value rows."""
    qkv_bias: Tensor | None
    """[(Hq + 2 Hk) D]"""
    qk_norm: Tensor | None
    """[2, D]: what every query head is normed with, and every key head"""
    output: Matrix
    """[H, Hq D]"""
    mlp_norm: Tensor
    """[H]"""
    gate_up: Matrix
    """[2 F, H]: gate rows, then up rows."""
    down: Matrix
    """[H, F]"""

    def kv_scales(self, shard: Shard, head_dim: int) -> tuple[Tensor, Tensor]:
        """(k_scale, v_scale) of a float8 cache, each [Hk] float32: see kernels.quantize."""
        kv_rows = shard.num_kv_heads * head_dim
        sizes = (shard.num_heads * head_dim, kv_rows, kv_rows)
        _, key, value = (_dense(part) for part in self.qkv.split(sizes))
        k_bias, v_bias = self.qkv_bias.split(sizes)[1:] if self.qkv_bias is not None else (None, None)
        k_gain = None if self.qk_norm is None else self.qk_norm[1]
        return kv_scales(key, value, k_bias, v_bias, self.input_norm, shard.num_kv_heads, k_gain)


def _dense(matrix: Matrix) -> Tensor:
    """In float32."""
    return decode(matrix.codes, matrix.scale) if isinstance(matrix, QuantizedMatrix) else matrix.float()


@dataclass(frozen=True)
class Weights:
    """Everything a rank holds, on its device, in one dtype; with `codes`, the layers' matrices in 8 bits, and the head
    in int8. A head of float8 would cost logits an error of 2 %, and what it saves is a twentieth of a large model."""

    embedding: Tensor
    """[V, H]: this rank's vocabulary rows; rows past the checkpoint's are zero."""
    layers: list[LayerWeights]
    norm: Tensor
    """[H]"""
    head: Matrix
    """[V, H]; the same tensor as `embedding` where they are tied and it is not in 8 bits."""
    score: Mapping[str, Tensor]
    """A reward model's head by the checkpoint's names, whole on every rank; empty for others."""

    @classmethod
    def allocate(
        cls, config: ModelConfig, shard: Shard, device: torch.device, codes: torch.dtype | None = None
    ) -> "Weights":
        """Uninitialised tensors in `config.dtype`, but for the vocabulary's padding rows, which are zero. `codes`
        (int8, float8_e4m3fn): the type of the layers' matrices and, for int8, the head's; embedding, norms and biases
        keep their own."""

        def empty(*shape: int) -> Tensor:
            return huge_pages.empty(shape, config.dtype, device)

        def matrix(rows: int, cols: int) -> Matrix:
            if codes is None:
                return empty(rows, cols)
            return QuantizedMatrix.empty(rows, cols, codes, config.dtype, device)

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
                qkv=matrix(qkv_rows, hidden),
                qkv_bias=empty(qkv_rows) if config.attention_bias else None,
                qk_norm=empty(2, config.head_dim) if config.qk_norm else None,
                output=matrix(hidden, q_rows),
                mlp_norm=empty(hidden),
                gate_up=matrix(2 * width, hidden),
                down=matrix(hidden, width),
            )
            for _ in range(config.num_layers)
        ]
        head: Matrix = embedding if config.tie_word_embeddings else vocabulary()
        if codes is torch.int8 and config.score is None:
            head = QuantizedMatrix.empty(shard.vocab_size, hidden, codes, config.dtype, device)
            head.codes[shard.vocab_rows :], head.scale[shard.vocab_rows :] = 0, 1
        shapes = config.score.shapes(hidden) if config.score is not None else {}
        score = {name: empty(*shape) for name, shape in shapes.items()}
        return cls(embedding=embedding, layers=layers, norm=empty(hidden), head=head, score=score)


@dataclass(frozen=True)
class Placement:
    """Where a checkpoint's tensor goes: `target` takes the entries from `start` on of its dimension `dim`."""

    name: str
    shape: tuple[int, ...]
    """The whole tensor's, as the checkpoint holds it."""
    target: Matrix
    dim: int = 0
    start: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.target.shape[self.dim]

    @property
    def columns(self) -> slice | None:
        """The columns that are kept, where they are not all."""
        return slice(self.start, self.stop) if self.dim else None


def _quantise_tied_head(weights: Weights, config: ModelConfig, shard: Shard) -> None:
    """A tied head of 8 bits is a matrix of its own, made of the embedding."""
    if config.tie_word_embeddings and isinstance(weights.head, QuantizedMatrix):
        weights.head.fill(weights.embedding[: shard.vocab_rows])


def placements(weights: Weights, config: ModelConfig, shard: Shard) -> Iterator[Placement]:
    """Every tensor of a checkpoint, by Hugging Face's names, and its place in this rank's `weights`."""
    hidden, head_dim = config.hidden_size, config.head_dim
    vocabulary = (config.vocab_size, hidden)
    yield Placement(
        "model.embed_tokens.weight", vocabulary, weights.embedding[: shard.vocab_rows], start=shard.vocab_start
    )
    if not config.tie_word_embeddings:
        head, _ = weights.head.split([shard.vocab_rows, shard.vocab_size - shard.vocab_rows])
        yield Placement("lm_head.weight", vocabulary, head, start=shard.vocab_start)
    yield Placement("model.norm.weight", (hidden,), weights.norm)
    for name, tensor in weights.score.items():
        yield Placement(name, tuple(tensor.shape), tensor)

    q_rows, kv_rows = shard.num_heads * head_dim, shard.num_kv_heads * head_dim
    q_start, kv_start, column = shard.head_start * head_dim, shard.kv_head_start * head_dim, shard.intermediate_start
    projections = (("q", config.q_size, q_start), ("k", config.kv_size, kv_start), ("v", config.kv_size, kv_start))
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}."
        yield Placement(prefix + "input_layernorm.weight", (hidden,), layer.input_norm)
        yield Placement(prefix + "post_attention_layernorm.weight", (hidden,), layer.mlp_norm)
        for (letter, size, start), target in zip(projections, layer.qkv.split((q_rows, kv_rows, kv_rows)), strict=True):
            yield Placement(f"{prefix}self_attn.{letter}_proj.weight", (size, hidden), target, start=start)
        if layer.qkv_bias is not None:
            biases = layer.qkv_bias.split((q_rows, kv_rows, kv_rows))
            for (letter, size, start), bias in zip(projections, biases, strict=True):
                yield Placement(f"{prefix}self_attn.{letter}_proj.bias", (size,), bias, start=start)
        if layer.qk_norm is not None:
            yield Placement(prefix + "self_attn.q_norm.weight", (head_dim,), layer.qk_norm[0])
            yield Placement(prefix + "self_attn.k_norm.weight", (head_dim,), layer.qk_norm[1])
        yield Placement(prefix + "self_attn.o_proj.weight", (hidden, config.q_size), layer.output, 1, q_start)
        half = layer.gate_up.shape[0] // 2
        for name, target in zip(("gate", "up"), layer.gate_up.split((half, half)), strict=True):
            yield Placement(f"{prefix}mlp.{name}_proj.weight", (config.intermediate_size, hidden), target, start=column)
        yield Placement(prefix + "mlp.down_proj.weight", (hidden, config.intermediate_size), layer.down, 1, column)


def load(
    directory: Path,
    config: ModelConfig,
    shard: Shard,
    device: torch.device,
    codes: torch.dtype | None = None,
    adapter: Adapter | None = None,
) -> Weights:
    """This rank's weights from the safetensors in `directory`, or the GGUF file that it is, with what `adapter` adds.

    Each tensor's slice goes from the mapped file straight to its place on `device`, converted to `config.dtype` on
    the way, or quantised one tensor at a time (`codes`): no second copy on the host. Everything is checked against the
    headers before memory is allocated. Raises InputError naming file and tensor.
    """
    stored = check(directory, config, adapter)
    weights = Weights.allocate(config, shard, device, codes)
    for (file, _), group in groupby(_in_turn(stored, placements(weights, config, shard)), key=itemgetter(0)):
        try:
            with open_tensors(file) as tensors:
                for _, placement in group:
                    _fill(placement, tensors, adapter)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read ({first_line(error)}); copy it again") from None
    _quantise_tied_head(weights, config, shard)
    if config.tie_word_embeddings and "lm_head.weight" in stored and config.score is None:
        _check_tied(stored["lm_head.weight"], weights, config, shard)
    return weights


def open_tensors(file: Path) -> safe_open | GgufTensors:
    """A context whose `get_slice(name)` gives what is asked for of a tensor in `file`."""
    return GgufTensors(file) if is_gguf(file) else safe_open(file, framework="pt", device="cpu")


def _in_turn(
    stored: Mapping[str, StoredTensor], wanted: Iterable[Placement]
) -> Iterator[tuple[tuple[Path, int], Placement]]:
    """Placements file by file, each with the file and how often that is opened before: anew for every few tensors,
    since what was read of a mapped file counts as this process's memory until it is closed."""
    for file, group in groupby(sorted(wanted, key=lambda p: stored[p.name].file), key=lambda p: stored[p.name].file):
        read = 0
        for placement in group:
            yield (file, read // _AT_ONCE), placement
            read += math.prod(placement.shape)


def _fill(placement: Placement, tensors: safe_open | GgufTensors, adapter: Adapter | None) -> None:
    target, name = placement.target, placement.name
    if isinstance(target, QuantizedMatrix) and placement.columns is not None:
        target.fill(merged(adapter, name, tensors.get_slice(name)[:]), columns=placement.columns)
        return
    values = merged(adapter, name, _slice(tensors, placement), placement.dim, placement.start)
    if isinstance(target, QuantizedMatrix):
        target.fill(values)
    else:
        target.copy_(values)


def _slice(tensors: safe_open | GgufTensors, placement: Placement) -> Tensor:
    tensor = tensors.get_slice(placement.name)
    return tensor[:, placement.start : placement.stop] if placement.dim else tensor[placement.start : placement.stop]


def check(directory: Path, config: ModelConfig, adapter: Adapter | None = None) -> dict[str, StoredTensor]:
    """The tensors in `directory`, by the files' headers alone. Raises InputError, naming file and tensor, unless they
    are those that `config` asks for, and `adapter` changes some of them."""
    stored, shard = read_tensors(directory), Shard.of(config)
    said = "its metadata" if is_gguf(directory) else "config.json"
    wanted = list(placements(Weights.allocate(config, shard, torch.device("meta")), config, shard))
    for placement in wanted:
        tensor = stored.get(placement.name)
        if tensor is None:
            files = sorted({t.file.name for t in stored.values()})
            raise InputError(f"{directory}: {placement.name} is missing from {', '.join(files)}; check {said}")
        if tensor.shape != placement.shape:
            raise InputError(
                f"{tensor.file}: {placement.name} has shape {list(tensor.shape)}, and {said} asks for "
                f"{list(placement.shape)}; give the one that belongs to these weights"
            )
    if adapter is not None:
        adapter.check({placement.name: placement.shape for placement in wanted})
    known = {placement.name for placement in wanted}
    for name, tensor in stored.items():
        # Early checkpoints store the RoPE frequencies, which config.json determines; a tied head is checked later.
        if name not in known and not name.endswith(("rotary_emb.inv_freq", FREQUENCIES)) and name != "lm_head.weight":
            raise InputError(f"{tensor.file}: {name} is not part of the model that {said} describes")
    return stored


def _check_tied(head: StoredTensor, weights: Weights, config: ModelConfig, shard: Shard) -> None:
    """A head that is stored although it is tied must equal the embedding: using either would be a guess."""
    target, shape = weights.embedding[: shard.vocab_rows], (config.vocab_size, config.hidden_size)
    placement = Placement("lm_head.weight", shape, target, start=shard.vocab_start)
    with open_tensors(head.file) as tensors:
        if head.shape == shape and torch.equal(_slice(tensors, placement).to(target), target):
            return
    raise InputError(
        f"{head.file}: lm_head.weight differs from model.embed_tokens.weight, and config.json says "
        "tie_word_embeddings true; set it to false, or remove the tensor"
    )


def random(
    config: ModelConfig, shard: Shard, device: torch.device, seed: int, codes: torch.dtype | None = None
) -> Weights:
    """Weights drawn on `device`: norms one, the rest normal with deviation 0.02.

    The same `seed` gives the same model whatever the number of ranks (on one kind of device): every rank draws whole
    tensors, in blocks of rows, and keeps its part.
    """
    weights = Weights.allocate(config, shard, device, codes)
    generator = torch.Generator(device)
    for placement in placements(weights, config, shard):
        target = placement.target
        if isinstance(target, Tensor) and placement.name.endswith("norm.weight"):
            target.fill_(1)
            continue
        # One hash of both: the CPU's generator looks at the low 32 bits of a seed only.
        generator.manual_seed(zlib.crc32(f"{seed} {placement.name}".encode()))
        rows, *rest = placement.shape
        step = max(1, _RANDOM_BLOCK // math.prod(rest))
        for first in range(0, rows, step):
            block = torch.empty(min(step, rows - first), *rest, dtype=torch.float32, device=device)
            block.normal_(0, _RANDOM_STD, generator=generator)
            if placement.dim:
                part, at = block, first
            else:
                low, high = max(first, placement.start), min(first + step, placement.stop)
                part, at = block[low - first : max(low, high) - first], low - placement.start
            if not len(part):
                continue
            if isinstance(target, QuantizedMatrix):
                target.fill(part, at, placement.columns)
            else:
                target[at : at + len(part)] = part if placement.columns is None else part[:, placement.columns]
    _quantise_tied_head(weights, config, shard)
    return weights
