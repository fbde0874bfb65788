"""Attention over the paged KV cache: one query per row (decode) and chunks of queries (prefill)."""

from kernels.decode_attention import decode_attention, decode_attention_cost, decode_attention_reference
from kernels.prefill_attention import prefill_attention, prefill_attention_cost, prefill_attention_reference

__all__ = [
    "decode_attention",
    "decode_attention_cost",
    "decode_attention_reference",
    "prefill_attention",
    "prefill_attention_cost",
    "prefill_attention_reference",
]
