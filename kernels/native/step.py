"""The C++ twins of the sampler and the thinking machine (`csrc/cpu/sampler.cpp`, `thinking.cpp`), a call each."""

import ctypes
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kernels.native import library as native
from kernels.native.abi import fields
from kernels.sampling_tables import Draws, SamplingNeeds, SamplingTables
from kernels.thinking_tables import MachineTables, Record


class _Machine(ctypes.Structure):
    _fields_ = fields("S1Machine")


_STRUCTS: WeakKeyDictionary[MachineTables, _Machine] = WeakKeyDictionary()


def _machine(t: MachineTables) -> int:
    """Address of the structure of the tables, which lives as long as they do."""
    struct = _STRUCTS.get(t)
    if struct is None:
        ids = t.trigger_last, t.trigger_lead, t.stop_ids, t.history, t.eos_ids
        text = t.traits, *((t.next, t.marks) if t.text else (None, None))
        sizes = t.strings.shape[2], t.trigger_last.shape[1], t.stop_ids.shape[1], t.history.shape[1]
        counts = len(t.eos_ids), len(t.traits)
        struct = _STRUCTS[t] = _Machine(*native.raw(t.state, t.params, t.strings, *ids, *text, *sizes, *counts))
    return ctypes.addressof(struct)


def supports(tables: MachineTables) -> bool:
    """Whether the library may be used and the tables are on the CPU."""
    return native.USED and tables.state.is_cpu


def thinking_step(tables: MachineTables, slots: Tensor, draw: Tensor, masked: Tensor, bad: Tensor) -> Tensor:
    """As `kernels.thinking.thinking_step_reference`."""
    records = torch.empty((len(slots), len(Record)), dtype=torch.int32)
    native.thinking_step(_machine(tables), slots, draw, masked, bad, records, len(slots))
    return records


def sample(
    logits: Tensor,
    tables: SamplingTables,
    machine: MachineTables,
    slots: Tensor,
    vocab: int,
    needs: SamplingNeeds,
    run: Callable[..., None] | None = None,
) -> Draws:
    """As `kernels.sampler.sample_reference`, with penalties, biases and bans already in the contiguous logits.

    `run` is the `sample` of a `native.Operators` at another level than the loaded one.
    """
    rows = len(logits)
    draw, masked = torch.empty((2, rows), dtype=torch.int64).unbind()
    bad = torch.empty(rows, dtype=torch.bool)
    real, sizes = tables.real if needs.noise else None, (*logits.shape, vocab)
    found = draw, masked, bad
    (run or native.sample)(
        _machine(machine), logits, slots, real, tables.whole, *found, *sizes, needs.filters, needs.masked
    )
    return Draws(draw, masked, bad)
