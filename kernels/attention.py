"""Attention over the paged KV cache: one query per row (decode) and chunks of queries (prefill).

Pages are written by `kernels.rope_append`, read here, and copied whole (`kernels.copy_pages`). What lies where inside a
page is theirs: as the definitions have it, but for bfloat16 on processors whose products come in pairs
(csrc/cpu/paged.h).
"""

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
