"""What a decode step reads of the tables of running sequences: each row's last token, where it stands and its pages."""

from typing import NamedTuple

from torch import Tensor

from kernels import use_triton
from kernels.native import library as native
from kernels.thinking_tables import State


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
    """The definition, and what runs on a GPU, where a captured step has it for some microseconds."""
    slots, places, pages = inputs
    blocks.view(-1)[places] = pages.int()
    last = state[slots, State.LENGTH].long() - 1
    page = blocks[slots, last // page_size].long()
    return DecodeInputs(
        ids=history[slots, last].long(),
        positions=last,
        slot_mapping=page * page_size + last % page_size,
        block_tables=blocks[slots, :width],
        context_lens=(last + 1).int(),
    )


def decode_inputs(
    inputs: Tensor, state: Tensor, history: Tensor, blocks: Tensor, page_size: int, width: int
) -> DecodeInputs:
    """Enter new pages, then gather the rows.

    inputs [3, B] int64: slot of each row; place in the flat block table and page of what is new (several rows may name
    the same place with the same page). state [S, len(State)], history [S, context] and blocks [S, P] int32, by slot;
    `width` <= P columns of the block table are wanted.
    """
    if not use_triton(blocks) and native.supports_decode_inputs(inputs, blocks):
        return DecodeInputs(*native.decode_inputs(inputs, state, history, blocks, page_size, width))
    return decode_inputs_reference(inputs, state, history, blocks, page_size, width)
