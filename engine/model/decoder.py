"""The decoder over a paged KV cache: Qwen2 (arXiv 2412.15115) and the architectures of `engine.model.config`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import InputError
from engine.model import weights as weights_io
from engine.model.adapter import read_adapter
from engine.model.batch import READ_AT_ONCE, AttentionMeta
from engine.model.config import ModelConfig
from engine.model.score_head import label_scores, scores
from engine.model.shard import Shard
from engine.model.weights import LayerWeights, Matrix, Precision, Weights
from engine.ranks.group import Group
from engine.timeline import Timeline
from kernels import REFERENCE
from kernels.attention import decode_attention, prefill_attention
from kernels.embedding import embedding
from kernels.gemm_choices import Product
from kernels.linear import head, linear, linear_norm, linear_silu_mul, pack
from kernels.native import library as native_cpu
from kernels.native.decoder import Layer, NativeDecoder
from kernels.paged import new_pages
from kernels.rope_append import rope_append
from kernels.small_gemm import Scaled
from kernels.weights import LinearWeight

KVCache = Sequence[tuple[Tensor, Tensor]]
"""Per layer, keys and values: each [num_pages, Hk, page_size, D]."""


def _layer(weights: LayerWeights) -> Layer:
    """One layer's weights in the form the operators take; see LayerWeights for shapes."""
    return Layer(
        input_norm=weights.input_norm,
        qkv=_packed(weights.qkv, weights.qkv_bias),
        qk_norm=weights.qk_norm,
        output=_packed(weights.output),
        mlp_norm=weights.mlp_norm,
        gate_up=_packed(weights.gate_up),
        down=_packed(weights.down),
    )


def _packed(matrix: Matrix, bias: Tensor | None = None) -> LinearWeight:
    """In the operator's own layout where it has one, and in the matrix's memory where it can be; of the matrix itself,
    which nothing reads then, only the shape is kept."""
    packed = pack(LinearWeight.of(matrix, bias), in_place=True)
    return packed if packed.packed is None else replace(packed, weight=packed.weight.to("meta"))


class Decoder:
    """A rank's part of the model. H is the hidden size, Hq and Hk the rank's query and KV heads, D a head's width."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        group: Group,
        max_positions: int,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """`max_positions` bounds the positions that `forward` can take: the rows of the RoPE table. `kv_dtype`: that of
        the cache where it is not the model's (float8).

        Takes `weights` over and leaves it without layers, so that each is freed as soon as it is packed.
        """
        self.config, self.group = config, group
        self.shard = Shard.of(config, group.rank, group.size)
        self.scale = config.head_dim**-0.5
        self.cos_sin = config.rope.cos_sin(max_positions, config.head_dim, group.device)
        self.kv_dtype = kv_dtype or config.dtype
        self.kv_scales: list[tuple[Tensor, Tensor] | tuple[None, None]] = [
            (None, None) if kv_dtype is None else layer.kv_scales(self.shard, config.head_dim)
            for layer in weights.layers
        ]
        self.layers = tuple(_layer(weights.layers.pop(0)) for _ in range(config.num_layers))
        self.norm = weights.norm
        self.head = _packed(weights.head)
        tied = weights.head is weights.embedding and self.head.packed is not None
        self.embedding: Tensor | LinearWeight = self.head if tied else weights.embedding
        names = config.score.names if config.score is not None else ()
        score = [(weights.score[f"{name}.weight"], weights.score.get(f"{name}.bias")) for name in names]
        self.score_layers = [_packed(*layer) for layer in score[:-1]]
        self.score_layers += [LinearWeight.of(*layer) for layer in score[-1:]]
        self._native: tuple[KVCache, NativeDecoder | None] | None = None
        self._room = torch.empty(0, self.shard.vocab_size)  # for logits

    @classmethod
    def load(
        cls,
        directory: Path,
        config: ModelConfig,
        group: Group,
        max_positions: int,
        load_format: str = "auto",
        seed: int = 0,
        precision: Precision | None = None,
        timeline: Timeline | None = None,
        adapter: str | None = None,
    ) -> "Decoder":
        """Every rank calls it. Where any of them cannot load, all raise the same InputError."""
        error, weights, precision = None, None, precision or Precision()
        try:
            shard = Shard.of(config, group.rank, group.size)
            if load_format == "dummy":
                weights = weights_io.random(config, shard, group.device, seed, precision.weights)
            else:
                weights = weights_io.load(
                    directory, config, shard, group.device, precision.weights, read_adapter(adapter)
                )
        except InputError as caught:
            error = caught
        except torch.OutOfMemoryError:
            gib = config.num_parameters * config.dtype.itemsize / group.size / 2**30
            error = InputError(f"{gib:.1f} GiB of weights do not fit on {group.device}; raise tensor_parallel_size")
        group.agree(error)
        assert weights is not None  # agree() has raised otherwise
        timeline = timeline or Timeline()
        timeline.lap("weights", config.num_parameters * config.dtype.itemsize // group.size)
        decoder = cls(config, weights, group, max_positions, precision.kv)
        timeline.lap("packing")
        return decoder

    def kv_shape(self, num_pages: int, page_size: int) -> tuple[int, int, int, int]:
        """Shape of one layer's key (or value) cache on this rank: [num_pages, Hk, page_size, D]."""
        return num_pages, self.shard.num_kv_heads, page_size, self.config.head_dim

    def new_kv_cache(self, num_pages: int, page_size: int) -> list[tuple[Tensor, Tensor]]:
        """A zeroed cache for every layer."""
        shape = self.kv_shape(num_pages, page_size)
        return new_pages(self.config.num_layers, shape, self.kv_dtype, self.group.device)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one token takes on this rank."""
        return 2 * self.config.num_layers * self.shard.num_kv_heads * self.config.head_dim * self.kv_dtype.itemsize

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, meta: AttentionMeta, kv: KVCache) -> Tensor:
        """One step: ids and positions [N] int64, decodes first -> hidden [N, H] after the last norm.

        Writes the tokens' keys and values into `kv` where `meta.slot_mapping` says.
        """
        native = self._native_for(kv)
        if native is not None:
            return native.forward(
                embedding(ids, self.embedding),
                positions,
                meta.slot_mapping,
                meta.block_tables,
                meta.context_lens,
                meta.cu_q,
                meta.num_decodes,
            )
        embedded = embedding(ids, self.embedding, self.shard.vocab_start)
        y: Tensor | Scaled
        y, h = self.group.all_reduce_norm(embedded, self.layers[0].input_norm, self.config.rms_norm_eps, None)
        for layer, behind, scales, (k_cache, v_cache) in zip(
            self.layers, (*self.layers[1:], None), self.kv_scales, kv, strict=True
        ):
            attended = self._attention(linear(y, layer.qkv), positions, meta, k_cache, v_cache, scales, layer.qk_norm)
            y, h = self._add_norm(attended, layer.output, h, layer.mlp_norm, (layer.gate_up, Product.GATED))
            norm, then = (self.norm, None) if behind is None else (behind.input_norm, (behind.qkv, Product.PLAIN))
            y, h = self._add_norm(linear_silu_mul(y, layer.gate_up), layer.down, h, norm, then)
        assert isinstance(y, Tensor), "no product is behind the last norm"
        return y

    def _add_norm(
        self, x: Tensor, w: LinearWeight, h: Tensor, norm: Tensor, then: tuple[LinearWeight, Product] | None
    ) -> tuple[Tensor | Scaled, Tensor]:
        """h + x W^T over all ranks, normed and as it is: the product `then` takes what is normed."""
        if self.group.size == 1:
            return linear_norm(x, w, h, norm, self.config.rms_norm_eps, then)
        return self.group.all_reduce_norm(linear(x, w), norm, self.config.rms_norm_eps, h)

    def _native_for(self, kv: KVCache) -> NativeDecoder | None:
        """The layers as one native call, where one rank on the CPU has all it needs; made once for a cache."""
        if self._native is None or self._native[0] is not kv:
            native = None
            if self.group.size == 1 and not REFERENCE and NativeDecoder.supports(self.layers, self.norm, kv):
                native = NativeDecoder(
                    self.layers,
                    self.norm,
                    self.cos_sin,
                    kv,
                    (self.shard.num_heads, self.shard.num_kv_heads),
                    self.config.rms_norm_eps,
                    self.scale,
                    native_cpu.decoder,
                )
            self._native = kv, native
        return self._native[1]

    def _attention(
        self,
        qkv: Tensor,
        positions: Tensor,
        meta: AttentionMeta,
        k_cache: Tensor,
        v_cache: Tensor,
        scales: tuple[Tensor, Tensor] | tuple[None, None],
        qk_norm: Tensor | None,
    ) -> Tensor:
        """qkv [N, (Hq + 2 Hk) D] -> [N, Hq D]; scales [Hk] float32 of a float8 cache's keys and values; qk_norm [2, D]
        of query and key heads."""
        heads = self.shard.num_heads, self.shard.num_kv_heads
        eps, slots = self.config.rms_norm_eps, meta.slot_mapping
        k_scale, v_scale = scales
        q = rope_append(qkv, self.cos_sin, positions, slots, k_cache, v_cache, heads, k_scale, v_scale, qk_norm, eps)
        decodes, parts = meta.num_decodes, []
        if decodes:
            parts.append(
                decode_attention(
                    q[:decodes],
                    k_cache,
                    v_cache,
                    meta.block_tables[:decodes],
                    meta.context_lens[:decodes],
                    self.scale,
                    meta.max_context,
                    *scales,
                )
            )
        if decodes < len(q):
            parts.append(
                prefill_attention(
                    q[decodes:],
                    k_cache,
                    v_cache,
                    meta.block_tables[decodes:],
                    meta.context_lens[decodes:],
                    meta.cu_q,
                    meta.max_q,
                    self.scale,
                    meta.max_context,
                    *scales,
                )
            )
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, H] -> [B, vocab_size] float32, the same on every rank; padded vocabulary rows included. On the CPU
        they are good until the next call."""
        if hidden.is_cpu and len(self._room) < len(hidden):
            self._room = torch.empty(len(hidden), self.shard.vocab_size)
        gathered = self.group.all_gather_last_dim(head(hidden, self.head, self._room))
        return gathered[:, : self.config.vocab_size]

    @torch.inference_mode()
    def scores(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """hidden [R, H] -> [R] float32, the same on every rank: by the reward model's head, or, for a language model,
        the probability of the first of each row's `labels` [R, L] (token ids, padded with -1) among them."""
        if self.config.score is not None:
            return scores(self.config.score, self.score_layers, hidden)
        parts = zip(hidden.split(READ_AT_ONCE), labels.split(READ_AT_ONCE), strict=True)
        return torch.cat([label_scores(self.logits(rows), ids) for rows, ids in parts])
