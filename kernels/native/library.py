"""The C++ twins of the operators for CPU tensors (`csrc/cpu`), bound with ctypes.

`LOADED` tells whether the library is there, `REASON` why not, `LEVEL` the instruction set it runs at. `S1_CPU_LEVEL`
(portable, avx2, avx512 or avx512_bf16) forces a level; without it the best one the processor has is taken.
`S1_CPU_LIBRARY` names another build of the library, one with sanitizers for instance. Threads
follow `torch.get_num_threads()`; no result depends on their number.
"""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from kernels import REFERENCE, huge_pages
from kernels.errors import FAULTS, KernelError
from kernels.native.abi import INTERFACE, SIGNATURES, fields
from kernels.paged import page_stride, whole_pages
from kernels.weights import LinearWeight, PackedWeight

LEVELS = ("portable", "avx2", "avx512", "avx512_bf16")
PANEL = 32
"""Weight rows per packed panel: `csrc/cpu/linear.cpp`."""

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
FLOATS = (torch.float32, torch.bfloat16)
"""Dtypes of activations."""
_PLAIN, _SILU_MUL, _HEAD = 0, 1, 2


class _Weight(ctypes.Structure):
    _fields_ = fields("S1Weight")


def raw(*values: Any) -> Iterator[Any]:
    """The values as the library takes them: addresses of tensors, which must live as long as it reads them."""
    return (value.data_ptr() if isinstance(value, torch.Tensor) else value for value in values)


class Operators:
    """The library at one level. Methods take what the public operators in `kernels` take, checked by `supports_*`."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        self.level = level
        self._native = SimpleNamespace()
        for name, signature in SIGNATURES.items():
            function = getattr(library, f"s1_{level}_{name}")
            function.argtypes, function.restype = signature, None
            setattr(self._native, name, lambda *values, function=function: function(*raw(*values)))

    def pack(self, w: LinearWeight, in_place: bool = False) -> LinearWeight:
        """`w`, a matrix of floats or of int8 codes, with its packed copy, for activations of its dtype. `in_place`: the
        matrix, which then holds nothing else, becomes it where it fills whole panels."""
        rows, cols = w.weight.shape
        outputs, source = -(-rows // PANEL) * PANEL, w.weight.contiguous()
        if in_place and rows == outputs and cols % 2 == 0 and source.data_ptr() % huge_pages.LINE == 0:
            data = source.view(-1)
        else:  # some layouts hold pairs of columns
            data = huge_pages.empty((outputs * (cols + cols % 2),), w.weight.dtype)
        bias, scale = (None if v is None else F.pad(v.float(), (0, outputs - rows)) for v in (w.bias, w.scale))
        struct = _Weight(*raw(data, bias, scale, rows, cols, TYPES[w.weight.dtype]))
        address = ctypes.addressof(struct)
        self._native.pack(address, source, torch.get_num_threads())
        return replace(w, packed=PackedWeight(data, bias, scale, w.dtype or w.weight.dtype, struct, address))

    def _product(
        self, x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None, y: torch.Tensor, epilogue: int
    ) -> torch.Tensor:
        x = x.contiguous()
        if residual is not None:
            residual = residual.contiguous()
        threads = torch.get_num_threads()
        self._native.linear(w.panels.address, x, residual, y, x.shape[0], TYPES[x.dtype], epilogue, threads)
        return y

    def linear(self, x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, K] -> x W^T + bias + residual, [N, M]."""
        return self._product(x, w, residual, x.new_empty((x.shape[0], len(w.weight))), _PLAIN)

    def linear_silu_mul(self, x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
        """x [N, H], rows gate | up [2F, H] -> silu(gate) * up, [N, F]."""
        features = len(gate_up.weight) // 2
        if features % PANEL:
            return self.silu_mul(self.linear(x, gate_up))
        return self._product(x, gate_up, None, x.new_empty((x.shape[0], features)), _SILU_MUL)

    def head(self, x: torch.Tensor, w: LinearWeight, out: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, H] -> logits [N, V] in float32, not rounded to x's dtype on the way; `out` is where they go."""
        y = torch.empty((x.shape[0], len(w.weight)), dtype=torch.float32) if out is None else out
        return self._product(x, w, None, y, _HEAD)

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x [N, H] -> (norm, x + residual or x)."""
        x, residual = x.contiguous(), None if residual is None else residual.contiguous()
        y, total = torch.empty_like(x), x if residual is None else torch.empty_like(x)
        kind, threads = TYPES[x.dtype], torch.get_num_threads()
        self._native.rms_norm(x, residual, weight, y, total, *x.shape, eps, kind, threads)
        return y, total

    def rope_append(
        self,
        qkv: torch.Tensor,
        cos_sin: torch.Tensor,
        positions: torch.Tensor,
        slot_mapping: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        num_heads: tuple[int, int],
        qk_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """qkv [N, (Hq + 2 Hk) D] -> q [N, Hq, D], normed by qk_norm [2, D] and rotated; K and V go to their slots."""
        page_size, head_dim = k_cache.shape[2:]
        n = qkv.shape[0]
        qkv, cos_sin = qkv.contiguous(), cos_sin.contiguous()
        positions, slot_mapping = positions.contiguous(), slot_mapping.contiguous()
        q = qkv.new_empty((n, num_heads[0], head_dim))
        sizes = n, *num_heads, head_dim, page_size, page_stride(k_cache, v_cache)
        how = qk_norm, eps, TYPES[qkv.dtype], torch.get_num_threads()
        self._native.rope_append(qkv, cos_sin, positions, slot_mapping, q, k_cache, v_cache, *sizes, *how)
        return q

    def decode_attention(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_tables: torch.Tensor,
        context_lens: torch.Tensor,
        scale: float,
        max_context: int,
    ) -> torch.Tensor:
        """q [B, Hq, D] -> [B, Hq, D]. `max_context` is not needed: each row's own length is read."""
        return self._attend(q, k_cache, v_cache, block_tables, context_lens, None, scale)

    def prefill_attention(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_tables: torch.Tensor,
        context_lens: torch.Tensor,
        cu_q: torch.Tensor,
        max_q: int,
        scale: float,
        max_context: int,
    ) -> torch.Tensor:
        """q [N, Hq, D], rows cu_q -> [N, Hq, D]; a query has the bits that decode_attention would give it."""
        return self._attend(q, k_cache, v_cache, block_tables, context_lens, cu_q.contiguous(), scale)

    def _attend(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_tables: torch.Tensor,
        context_lens: torch.Tensor,
        cu_q: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        q, block_tables, context_lens = q.contiguous(), block_tables.contiguous(), context_lens.contiguous()
        out = torch.empty_like(q)
        num_kv, page_size, head_dim = k_cache.shape[1:]
        sizes = *block_tables.shape, q.shape[1], num_kv, head_dim, page_size, page_stride(k_cache, v_cache)
        how = scale, TYPES[q.dtype], torch.get_num_threads()
        self._native.attention(q, k_cache, v_cache, block_tables, context_lens, cu_q, out, *sizes, *how)
        return out

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, 2F] -> silu(x[:, :F]) * x[:, F:], [N, F]."""
        x = x.contiguous()
        n, features = x.shape[0], x.shape[1] // 2
        y = x.new_empty((n, features))
        self._native.silu_mul(x, y, n, features, TYPES[x.dtype], torch.get_num_threads())
        return y

    def embedding(self, ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
        """ids [N] -> rows [N, H], zeros for ids outside vocab_start .. vocab_start + V - 1."""
        ids = ids.contiguous()
        rows, columns = weight.shape
        y = weight.new_empty((ids.shape[0], columns))
        width = columns * weight.element_size()
        self._native.embedding(ids, weight, y, ids.shape[0], rows, width, vocab_start)
        return y

    def embedding_of_panels(self, ids: torch.Tensor, w: LinearWeight, vocab_start: int = 0) -> torch.Tensor:
        """The same of the packed [V, H], of floats."""
        ids, panels = ids.contiguous(), w.panels
        y = panels.data.new_empty((ids.shape[0], w.weight.shape[1]))
        self._native.embedding_of_panels(ids, panels.address, y, ids.shape[0], vocab_start)
        return y

    def decode_inputs(
        self,
        inputs: torch.Tensor,
        state: torch.Tensor,
        history: torch.Tensor,
        blocks: torch.Tensor,
        page_size: int,
        width: int,
    ) -> tuple[torch.Tensor, ...]:
        """As `kernels.decode_inputs.decode_inputs_reference`; the tables are contiguous."""
        n = inputs.shape[1]
        rows = torch.empty(3, n, dtype=torch.int64)
        tables, lens = torch.empty(n, width, dtype=torch.int32), torch.empty(n, dtype=torch.int32)
        inside = state, history, history.shape[1], blocks, blocks.shape[1], page_size, width
        self._native.decode_inputs(inputs, inputs.stride(0), *inside, rows, tables, lens, n)
        return *rows.unbind(), tables, lens

    def decoder(self, model: int, tokens: int) -> None:
        """All layers of a step: addresses of an `S1Decoder` and an `S1Tokens`, which `kernels.native.decoder` makes."""
        self._native.decoder(model, tokens, torch.get_num_threads())

    def sample(self, *arguments: Any) -> None:
        """Draws for every row: the arguments of `s1_<level>_sample` but the threads, from `kernels.native.step`."""
        self._native.sample(*arguments, torch.get_num_threads())

    def thinking_step(self, *arguments: Any) -> None:
        """One transition for every row: the arguments of `s1_<level>_thinking_step`, from `kernels.native.step`."""
        self._native.thinking_step(*arguments)

    def read(self, data: torch.Tensor) -> float:
        """Read all of a contiguous tensor and return a meaningless sum: what the memory gives, for benchmarks."""
        total = ctypes.c_float()
        self._native.read(data, data.nbytes, ctypes.addressof(total), torch.get_num_threads())
        return total.value


def _open() -> tuple[ctypes.CDLL | None, str]:
    """The library beside this file (or where an editable install put it), or why there is none."""
    spec = importlib.util.find_spec("kernels._cpu")
    path = os.environ.get("S1_CPU_LIBRARY") or (spec and spec.origin)
    if not path:
        if Path(__file__).parents[2].joinpath("pyproject.toml").exists():
            why = "for this source tree; `pip install -e .` does it where a C++ compiler is"
        else:
            why = "(no C++ compiler at install time)"
        return None, f"the native CPU library was not built {why}; torch runs instead"
    try:
        library = ctypes.CDLL(path)
        library.s1_interface.restype = ctypes.c_uint64
        found = library.s1_interface()
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded ({error}); reinstall with `pip install -e .`"
    if found != INTERFACE:
        return None, f"{path} was built for another version of this package; reinstall with `pip install -e .`"
    return library, ""


def _pick_level(library: ctypes.CDLL) -> str:
    wanted = os.environ.get("S1_CPU_LEVEL", "")
    if wanted and (wanted not in LEVELS or not hasattr(library, f"s1_{wanted}_linear")):
        raise KernelError(f"S1_CPU_LEVEL is {wanted[:80]!r}; leave it unset or give one of {', '.join(LEVELS)}")
    best = library.s1_level()
    if wanted and LEVELS.index(wanted) > best:
        raise KernelError(f"S1_CPU_LEVEL is {wanted!r} and this processor runs {LEVELS[best]} at most; unset it")
    return wanted or LEVELS[best]


LIBRARY, REASON = _open()
LOADED = LIBRARY is not None
if os.environ.get("S1_CPU_LIBRARY") and not LOADED:
    FAULTS.append(f"S1_CPU_LIBRARY: {REASON}")

if LIBRARY is not None:
    try:
        LEVEL = _pick_level(LIBRARY)
    except KernelError as error:
        FAULTS.append(str(error))
        LEVEL = LEVELS[LIBRARY.s1_level()]
    _operators = Operators(LIBRARY, LEVEL)
    pack, linear = _operators.pack, _operators.linear
    linear_silu_mul, head = _operators.linear_silu_mul, _operators.head
    rms_norm, rope_append = _operators.rms_norm, _operators.rope_append
    decode_attention, prefill_attention = _operators.decode_attention, _operators.prefill_attention
    embedding, embedding_of_panels = _operators.embedding, _operators.embedding_of_panels
    silu_mul, decode_inputs = _operators.silu_mul, _operators.decode_inputs
    decoder, read = _operators.decoder, _operators.read
    sample, thinking_step = _operators.sample, _operators.thinking_step


USED = LOADED and not REFERENCE
"""Whether operators on CPU tensors go to the library. Where not, no `supports_*` answers True."""


def supports_pack(weight: torch.Tensor) -> bool:
    """Whether `pack` takes a weight: a matrix of float32 or bfloat16 on the CPU."""
    return USED and weight.dim() == 2 and weight.dtype in FLOATS and weight.is_cpu


def supports_linear(x: torch.Tensor, w: LinearWeight) -> bool:
    """Whether the weight is packed, and for activations of x's dtype."""
    return USED and w.packed is not None and x.dtype is w.packed.dtype


def supports_rows(x: torch.Tensor) -> bool:
    """Whether x is float32 or bfloat16 on the CPU."""
    return USED and x.dtype in FLOATS and x.is_cpu


def supports_pages(x: torch.Tensor, k_cache: torch.Tensor) -> bool:
    """Whether queries or rows of QKV and the cache are both float32, or both bfloat16, on the CPU, and each page
    contiguous."""
    return supports_rows(x) and k_cache.dtype is x.dtype and whole_pages(k_cache)


def supports_embedding(ids: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether ids are int64 and the rows contiguous on the CPU; any dtype of rows."""
    return USED and ids.dtype is torch.int64 and weight.is_cpu and weight.is_contiguous()


def supports_decode_inputs(inputs: torch.Tensor, blocks: torch.Tensor) -> bool:
    """Whether the tables are on the CPU and each row of the inputs is contiguous."""
    return USED and blocks.is_cpu and inputs.stride(1) == 1
