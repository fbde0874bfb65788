"""What a decode step reads of the tables of running sequences: each row's last token, where it stands and its pages."""

from typing import NamedTuple

import torch
from torch import Tensor

import kernels.thinking_tables as machine
from kernels import use_triton
from kernels.language import jit_varying, launch, next_power_of_2, require_triton, tl
from kernels.native import library as native


class DecodeInputs(NamedTuple):
    """The tensors of a step of B rows, one token each."""

    ids: Tensor
    """[B] int64: the last token of each"""
    positions: Tensor
    """[B] int64: its position"""
    slot_mapping: Tensor
    """[B] int64: page * page_size + offset that its key and value go to"""
    block_tables: Tensor
    """[B, width] int32: the pages of each"""
    context_lens: Tensor
    """[B] int32: tokens of each"""


def decode_inputs_reference(
    inputs: Tensor, state: Tensor, history: Tensor, blocks: Tensor, page_size: int, width: int
) -> DecodeInputs:
    """The definition."""
    slots, places, pages = inputs
    blocks.view(-1)[places] = pages.int()
    last = state[slots, machine.State.LENGTH].long() - 1
    page = blocks[slots, last // page_size].long()
    return DecodeInputs(
        ids=history[slots, last].long(),
        positions=last,
        slot_mapping=page * page_size + last % page_size,
        block_tables=blocks[slots, :width],
        context_lens=(last + 1).int(),
    )


@jit_varying("batch", "inputs_stride", "history_stride", "width", "pages")
def _decode_inputs_kernel(
    inputs_ptr,
    state_ptr,
    history_ptr,
    blocks_ptr,
    ids_ptr,
    positions_ptr,
    slots_ptr,
    tables_ptr,
    lens_ptr,
    batch,
    inputs_stride,
    history_stride,
    pages,
    width,
    PAGE_SIZE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row. Its own new page goes into the table for the steps to come; what this step reads of the
    table it corrects by all new pages, as other programs may not have written theirs."""
    row, rows = tl.program_id(0), tl.arange(0, BLOCK_B)
    slot = tl.load(inputs_ptr + row)
    new, page = tl.load(inputs_ptr + inputs_stride + row), tl.load(inputs_ptr + 2 * inputs_stride + row)
    tl.store(blocks_ptr + new, page.to(tl.int32))
    begin = slot * pages
    places = tl.load(inputs_ptr + inputs_stride + rows, mask=rows < batch, other=-1) - begin
    fresh = tl.load(inputs_ptr + 2 * inputs_stride + rows, mask=rows < batch, other=0).to(tl.int32)

    last = tl.load(state_ptr + slot * len(machine.State) + machine.State.LENGTH).to(tl.int64) - 1
    at = last // PAGE_SIZE
    page = tl.load(blocks_ptr + begin + at)
    entered = tl.max(tl.where(places == at, fresh, -1), 0)
    page = tl.where(entered < 0, page, entered).to(tl.int64)
    tl.store(ids_ptr + row, tl.load(history_ptr + slot * history_stride + last).to(tl.int64))
    tl.store(positions_ptr + row, last)
    tl.store(slots_ptr + row, page * PAGE_SIZE + last % PAGE_SIZE)
    tl.store(lens_ptr + row, (last + 1).to(tl.int32))

    table = tables_ptr + row.to(tl.int64) * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        tl.store(table + column, tl.load(blocks_ptr + begin + column, mask=column < width), mask=column < width)
    tl.debug_barrier()  # the row is copied before its new pages are entered
    tl.store(table + places, fresh, mask=(places >= 0) & (places < width))


def decode_inputs_config(batch: int) -> dict[str, int | bool]:
    """One warp; 256 places of the table at once. Few sizes of a batch: each is a kernel to compile."""
    return {"BLOCK_B": max(256, next_power_of_2(batch)), "BLOCK": 256, **launch(num_warps=1)}


def decode_inputs_triton(
    inputs: Tensor, state: Tensor, history: Tensor, blocks: Tensor, page_size: int, width: int
) -> DecodeInputs:
    """The launcher."""
    require_triton()
    batch, device = inputs.shape[1], blocks.device
    ids, positions, slots = (torch.empty(batch, dtype=torch.int64, device=device) for _ in range(3))  # each aligned
    tables = torch.empty(batch, width, dtype=torch.int32, device=device)
    found = DecodeInputs(ids, positions, slots, tables, torch.empty(batch, dtype=torch.int32, device=device))
    if batch:
        _decode_inputs_kernel[(batch,)](
            inputs,
            state,
            history,
            blocks,
            *found,
            batch,
            inputs.stride(0),
            history.stride(0),
            blocks.shape[1],
            width,
            PAGE_SIZE=page_size,
            **decode_inputs_config(batch),
        )
    return found


def decode_inputs(
    inputs: Tensor, state: Tensor, history: Tensor, blocks: Tensor, page_size: int, width: int
) -> DecodeInputs:
    """Enter new pages, then gather the rows.

    inputs [3, B] int64: slot of each row; place in the flat block table, slot * P + index, and page of what is new, for
    whichever row (several may name the same place with the same page: the dummy's, where nothing is new). state
    [S, len(State)], history [S, context] and blocks [S, P] int32, by slot; `width` <= P columns of it are wanted.
    """
    if use_triton(blocks):
        return decode_inputs_triton(inputs, state, history, blocks, page_size, width)
    if native.supports_decode_inputs(inputs, blocks):
        return DecodeInputs(*native.decode_inputs(inputs, state, history, blocks, page_size, width))
    return decode_inputs_reference(inputs, state, history, blocks, page_size, width)


def decode_inputs_cost(batch: int, width: int) -> tuple[int, int]:
    """(bytes, flops): every row's part of the table read and written, the new pages once more by each row."""
    return batch * (2 * width * 4 + 16 * batch + 80), 0
