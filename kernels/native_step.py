"""The C++ twins of the thinking machine and of greedy sampling (`csrc/cpu/thinking.cpp`): one call each per step."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels import native

if TYPE_CHECKING:
    from kernels.thinking import MachineTables

LOADED = native.LOADED
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class _Machine(ctypes.Structure):
    """`Machine` of csrc/cpu/thinking.cpp."""

    _fields_ = [(f"pointer{i}", _POINTER) for i in range(9)] + [(f"size{i}", _SIZE) for i in range(5)]


def _machine(tables: MachineTables) -> _Machine:
    t = tables
    pointers = (
        t.state,
        t.params,
        t.strings,
        t.trigger_last,
        t.trigger_lead,
        t.stop_ids,
        t.history,
        t.eos_ids,
        t.ends_line,
    )
    widths = (t.strings.shape[2], t.trigger_last.shape[1], t.stop_ids.shape[1], t.history.shape[1], len(t.eos_ids))
    return _Machine(*(p.data_ptr() for p in pointers), *widths)


def supports(tables: MachineTables) -> bool:
    """Whether the library is there and the tables are on the CPU."""
    return LOADED and tables.state.is_cpu


def thinking_step(tables: MachineTables, slots: Tensor, draw: Tensor, masked: Tensor, bad: Tensor) -> Tensor:
    """As `kernels.thinking.thinking_step_reference`."""
    records = torch.empty((len(slots), 7), dtype=torch.int32)
    _thinking_step(
        ctypes.addressof(machine := _machine(tables)), slots.data_ptr(), draw.data_ptr(), masked.data_ptr(),
        bad.data_ptr(), records.data_ptr(), len(slots),
    )  # fmt: skip
    del machine  # kept alive until here
    return records


def greedy(
    logits: Tensor, tables: MachineTables, slots: Tensor, vocab: int, masked: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """logits [B, V] float32, contiguous -> (draw, masked, bad) as `kernels.sampler.sample_reference` without noise."""
    rows, columns = logits.shape
    draws = torch.empty((2, rows), dtype=torch.int64)
    bad = torch.empty(rows, dtype=torch.bool)
    machine = _machine(tables)
    _greedy(
        ctypes.addressof(machine), logits.data_ptr(), slots.data_ptr(), draws[0].data_ptr(), draws[1].data_ptr(),
        bad.data_ptr(), rows, columns, vocab, masked,
    )  # fmt: skip
    return draws[0], draws[1], bad


if native.LIBRARY is not None:
    _thinking_step = getattr(native.LIBRARY, f"s1_{native.LEVEL}_thinking_step")
    _thinking_step.argtypes, _thinking_step.restype = [_POINTER] * 6 + [_SIZE], None
    _greedy = getattr(native.LIBRARY, f"s1_{native.LEVEL}_greedy")
    _greedy.argtypes, _greedy.restype = [_POINTER] * 6 + [_SIZE] * 3 + [_INT], None
