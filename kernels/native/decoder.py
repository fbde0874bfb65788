"""All layers of a decode or prefill step in one native call (`csrc/cpu/decoder.cpp`), on one rank's CPU.

Bit for bit what `engine.model.decoder.Decoder.forward` computes operator by operator, which is its definition. What
it saves is the way between them: on a 40M model a step has 57 operators, each a call from Python that
wakes the other threads.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.native import library as native
from kernels.native.abi import fields
from kernels.paged import page_stride, whole_pages
from kernels.weights import LinearWeight

LOADED = native.LOADED
PARTS = ("norm", "qkv", "append", "attention", "output", "gate_up", "down")
"""What a layer consists of, in order; the last norm counts as `norm`. `S1Part` of csrc/cpu/abi.h."""


@dataclass(frozen=True)
class Layer:
    """Norms [H] (of query and key heads [2, D] or None) and packed products of one layer."""

    input_norm: Tensor
    qkv: LinearWeight
    qk_norm: Tensor | None
    output: LinearWeight
    mlp_norm: Tensor
    gate_up: LinearWeight
    down: LinearWeight

    @property
    def norms(self) -> tuple[Tensor, ...]:
        """Those that it has."""
        return tuple(n for n in (self.input_norm, self.qk_norm, self.mlp_norm) if n is not None)

    @property
    def products(self) -> tuple[LinearWeight, ...]:
        """Its four weights."""
        return self.qkv, self.output, self.gate_up, self.down


class _Layer(ctypes.Structure):
    _fields_ = fields("S1Layer")


class _Decoder(ctypes.Structure):
    _fields_ = fields("S1Decoder")


class _Tokens(ctypes.Structure):
    _fields_ = fields("S1Tokens")


class NativeDecoder:
    """The layers of a model, bound to the pages they write."""

    def __init__(
        self,
        layers: Sequence[Layer],
        norm: Tensor,
        cos_sin: Tensor,
        kv: Sequence[tuple[Tensor, Tensor]],
        num_heads: tuple[int, int],
        eps: float,
        scale: float,
        run: Callable[[int, int], None],
    ) -> None:
        """num_heads: (Hq, Hk); norm [H]; cos_sin [positions, D] float32; kv per layer [num_pages, Hk, page_size, D].

        `run` is `native.decoder`, or that of a `native.Operators` at another level.
        """
        page_size, head_dim = kv[0][0].shape[2:]
        (stride,) = {page_stride(*pair) for pair in kv}
        self._kept = layers, norm, cos_sin, kv  # the structures hold bare addresses
        self._layers = (_Layer * len(layers))()
        for i, (layer, (k_cache, v_cache)) in enumerate(zip(layers, kv, strict=True)):
            qkv, output, gate_up, down = (w.panels.address for w in layer.products)
            attention = layer.input_norm, qkv, layer.qk_norm, output
            self._layers[i] = _Layer(*native.raw(*attention, layer.mlp_norm, gate_up, down, k_cache, v_cache))
        sizes = len(layers), norm.shape[0], layers[0].down.weight.shape[1], *num_heads, head_dim, page_size, stride
        numbers = eps, scale, native.TYPES[norm.dtype]
        self._model = _Decoder(*native.raw(ctypes.addressof(self._layers), cos_sin, norm, *sizes, *numbers))
        self._address, self._run = ctypes.addressof(self._model), run

    @staticmethod
    def supports(layers: Sequence[Layer], norm: Tensor, kv: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether the library is there, every product packed for the norms' dtype, and the pages of that dtype too."""
        if not (LOADED and norm.is_cpu and norm.dtype in native.TYPES):
            return False
        packed = all(native.supports_linear(norm, w) for layer in layers for w in layer.products)
        norms = all(n.dtype is norm.dtype and n.is_contiguous() for layer in layers for n in layer.norms)
        return packed and norms and all(c.dtype is norm.dtype and whole_pages(c) for pair in kv for c in pair)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        slots: Tensor,
        block_tables: Tensor,
        context_lens: Tensor,
        cu_q: Tensor,
        decodes: int,
        seconds: Tensor | None = None,
    ) -> Tensor:
        """x [N, H], overwritten with the layers' sum -> [N, H] after the last norm.

        positions and slots [N] int64; block_tables [R, P], context_lens [R] and cu_q [R - decodes + 1] int32. What each
        of PARTS takes is added to `seconds` [7] float64.
        """
        assert seconds is None or (seconds.dtype is torch.float64 and seconds.shape == (len(PARTS),))
        x, positions, slots = x.contiguous(), positions.contiguous(), slots.contiguous()
        block_tables, context_lens, cu_q = block_tables.contiguous(), context_lens.contiguous(), cu_q.contiguous()
        y = torch.empty_like(x)
        rows, pages = block_tables.shape
        given = positions, slots, block_tables, context_lens, cu_q, seconds
        tokens = _Tokens(*native.raw(x, y, *given, x.shape[0], decodes, rows - decodes, pages))
        self._run(self._address, ctypes.addressof(tokens))
        return y
