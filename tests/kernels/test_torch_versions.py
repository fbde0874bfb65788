"""Calls that differ between versions of torch, bound to the signatures that those versions have."""

import inspect

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

from kernels.torch_versions import varlen_options


def varlen_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    """As in torch 2.11.0."""


def varlen_2_13(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    """As in torch 2.13.0."""


@pytest.mark.parametrize("function", [varlen_2_11, varlen_2_13, varlen_attn], ids=["2.11", "2.13", "installed"])
@pytest.mark.parametrize("grouped", [False, True])
def test_varlen_attention_is_called_as_every_version_wants_it(function, grouped):
    bound = inspect.signature(function).bind(*range(7), **varlen_options(function, grouped))
    assert bound.arguments["window_size"] == (-1, 0), "causal"
    asks = "enable_gqa" in inspect.signature(function).parameters
    assert bound.arguments.get("enable_gqa", False) == (grouped and asks)


def test_the_installed_version_has_one_of_the_signatures():
    """Another one belongs here, beside those that are tried."""
    known = [set(inspect.signature(function).parameters) for function in (varlen_2_11, varlen_2_13)]
    assert set(inspect.signature(varlen_attn).parameters) in known, torch.__version__
