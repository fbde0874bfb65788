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
        struct = _STRUCTS[t] = _Machine(
            t.state.data_ptr(),
            t.params.data_ptr(),
            t.strings.data_ptr(),
            t.trigger_last.data_ptr(),
            t.trigger_lead.data_ptr(),
            t.stop_ids.data_ptr(),
            t.history.data_ptr(),
            t.eos_ids.data_ptr(),
            t.traits.data_ptr(),
            *(table.data_ptr() if t.text and table is not None else None for table in (t.next, t.marks)),
            t.strings.shape[2],
            t.trigger_last.shape[1],
            t.stop_ids.shape[1],
            t.history.shape[1],
            len(t.eos_ids),
            len(t.traits),
        )
    return ctypes.addressof(struct)


def supports(tables: MachineTables) -> bool:
    """Whether the library may be used and the tables are on the CPU."""
    return native.USED and tables.state.is_cpu


def thinking_step(tables: MachineTables, slots: Tensor, draw: Tensor, masked: Tensor, bad: Tensor) -> Tensor:
    """As `kernels.thinking.thinking_step_reference`."""
    records = torch.empty((len(slots), len(Record)), dtype=torch.int32)
    native.thinking_step(
        _machine(tables),
        slots.data_ptr(),
        draw.data_ptr(),
        masked.data_ptr(),
        bad.data_ptr(),
        records.data_ptr(),
        len(slots),
    )
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
    rows, columns = logits.shape
    draw, masked = torch.empty((2, rows), dtype=torch.int64).unbind()
    bad = torch.empty(rows, dtype=torch.bool)
    (run or native.sample)(
        _machine(machine),
        logits.data_ptr(),
        slots.data_ptr(),
        tables.real.data_ptr() if needs.noise else None,
        tables.whole.data_ptr(),
        draw.data_ptr(),
        masked.data_ptr(),
        bad.data_ptr(),
        rows,
        columns,
        vocab,
        needs.filters,
        needs.masked,
    )
    return Draws(draw, masked, bad)
