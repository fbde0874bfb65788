"""The configurations that are compiled ahead of time: Qwen2.5's shapes in bf16, pages of 64 tokens, and what tests on a
GPU compile besides.

Shapes come as meta tensors through the same `*_config` functions that the launchers use.
"""

from dataclasses import replace
from itertools import product

import torch

from kernels.all_reduce_norm import _all_reduce_norm_kernel, all_reduce_norm_config
from kernels.aot import Case
from kernels.decode_attention import _decode_attention_kernel, decode_attention_config
from kernels.embedding import _embedding_kernel, embedding_config
from kernels.prefill_attention import _prefill_attention_kernel, prefill_attention_config
from kernels.rms_norm import _rms_norm_kernel, rms_norm_config
from kernels.rope_append import _rope_append_kernel, rope_append_config
from kernels.sampler_triton import _draw_kernel, _tile_kernel, draw_config, sample_config
from kernels.silu_mul import _silu_mul_kernel, silu_mul_config
from kernels.small_gemm import GemmConfig, _small_gemm_kernel, small_gemm_config
from kernels.thinking_triton import _thinking_step_kernel, thinking_step_config

PAGE = 64


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _scales(stored: str) -> dict[str, str]:
    """Arguments that a cache of this type has besides."""
    return {} if stored == "*bf16" else {"k_scale_ptr": "*fp32", "v_scale_ptr": "*fp32"}


def _row_kernels() -> list[Case]:
    bf16, i64 = "*bf16", "*i64"
    norm = {"x_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "sum_ptr": bf16, "eps": "fp32"}
    norms = [
        Case(
            name.format(hidden),
            _rms_norm_kernel,
            {**norm, "residual_ptr": bf16} if added else norm,
            {"HIDDEN": hidden, "HAS_RESIDUAL": added, "LETS_NEXT_START": early, **rms_norm_config(hidden)},
        )
        for hidden in (896, 5120)
        for name, added, early in (
            ("rms_norm {}", False, False),
            ("rms_norm+add {}", True, False),
            ("rms_norm+add {} early", True, True),
        )
    ]
    reduced = {"addresses_ptr": i64, "residual_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "sum_ptr": bf16}
    reductions = [
        Case(
            f"all_reduce_norm 5120 x {ranks}",
            _all_reduce_norm_kernel,
            {**reduced, "eps": "fp32"},
            {"RANKS": ranks, "HIDDEN": 5120, **all_reduce_norm_config(5120)},
        )
        for ranks in (2, 8)
    ]
    silu = Case(
        "silu_mul 27648",
        _silu_mul_kernel,
        {"x_ptr": bf16, "y_ptr": bf16},
        {"FEATURES": 27648, **silu_mul_config()},
    )
    embed = Case(
        "embedding 152064x5120",
        _embedding_kernel,
        {"ids_ptr": i64, "weight_ptr": bf16, "y_ptr": bf16, "vocab_start": "i32"},
        {"VOCAB": 152064, "HIDDEN": 5120, **embedding_config()},
    )
    rope = {
        "qkv_ptr": bf16,
        "cos_sin_ptr": "*fp32",
        "positions_ptr": i64,
        "slots_ptr": i64,
        "q_ptr": bf16,
        "eps": "fp32",
    }
    heads = {"NUM_KV": 8, "HEAD_DIM": 128, "PAGE_SIZE": PAGE, **rope_append_config(128)}
    appends = [
        Case(
            f"rope_append {cache[1:]}{' normed' if normed else ''}",
            _rope_append_kernel,
            {**rope, "k_cache_ptr": cache, "v_cache_ptr": cache, **_scales(cache)}
            | ({"qk_norm_ptr": bf16} if normed else {}),
            {**heads, "NUM_Q": 64 if normed else 40, "QUANTISED": cache != bf16, "NORMED": normed},  # Qwen3 and Qwen2.5
        )
        for cache in (bf16, "*fp8e4nv")
        for normed in (False, True)
    ]
    return [*norms, *reductions, silu, embed, *appends]


def _attention_kernels() -> list[Case]:
    cases = []
    shapes = (  # model, query heads, KV heads, head_dim, batch
        ("32B", 40, 8, 128, 1),
        ("32B", 40, 8, 128, 64),
        ("32B TP8", 5, 1, 128, 256),
        ("0.5B", 14, 2, 64, 64),
    )
    work = {"partial_ptr": "*fp32", "stats_ptr": "*fp32", "tickets_ptr": "*i32", "batch": "i32"}
    for (model, num_q, num_kv, head_dim, batch), stored in product(shapes, ("*bf16", "*fp8e4nv")):
        q, cache = _meta(batch, num_q, head_dim), _meta(2, num_kv, PAGE, head_dim)
        common = {
            "q_ptr": "*bf16",
            "k_cache_ptr": stored,
            "v_cache_ptr": stored,
            "tables_ptr": "*i32",
            "lens_ptr": "*i32",
            "out_ptr": "*bf16",
            "scale_log2": "fp32",
            "table_stride": "i32",
            **_scales(stored),
        }
        label, quantised = f"{model} batch {batch} {stored[1:]}", stored != "*bf16"
        decode = decode_attention_config(q, cache)
        for early in (False, True) if batch == 1 else (False,):
            name = f"decode {label} early" if early else f"decode {label}"
            constants = {**decode, "QUANTISED": quantised, "LETS_NEXT_START": early}
            rows = int(decode["BLOCK_M"])
            cases.append(Case(name, _decode_attention_kernel, {**common, **work}, constants, rows))
        if batch == 64:
            prefill = prefill_attention_config(q, cache)
            constants, rows = {**prefill, "QUANTISED": quantised}, int(prefill["BLOCK_M"])
            arguments = {**common, "cu_q_ptr": "*i32"}
            cases.append(Case(f"prefill {label}", _prefill_attention_kernel, arguments, constants, rows))
    return cases


def _step_kernels() -> list[Case]:
    tile_only = {"bias_ptr": "*fp32", "counts_ptr": "*i32", "in_prompt_ptr": "*i1", "params_ptr": "*i32"}
    shared = {
        "real_ptr": "*fp32",
        "whole_ptr": "*i32",
        "state_ptr": "*i32",
        "trigger_last_ptr": "*i32",
        "eos_ids_ptr": "*i32",
        "slots_ptr": "*i64",
        "best_ptr": "*fp32",
        "place_ptr": "*i32",
        "weight_ptr": "*fp32",
        "logits_ptr": "*fp32",
        "vocab": "i32",
        "logits_stride": "i32",
    }
    row = {
        "values_ptr": "*fp32",
        "ids_ptr": "*i32",
        "draw_ptr": "*i64",
        "masked_ptr": "*i64",
        "bad_ptr": "*i1",
        "near": "fp32",
        "tiles": "i32",
        "work_stride": "i32",
    }
    tile = sample_config()
    cases = []
    for label, noise, filters in (("greedy", False, False), ("gumbel", True, False), ("filtered", True, True)):
        flags = {"NOISE": noise, "FILTERS": filters, "MASKED": 1, "TRIGGERS": 2, "EOS_IDS": 2}
        tiles = {**flags, "PENALTIES": filters, "BIAS": filters, **tile}
        draw = {**flags, "TILE": tile["BLOCK"], **draw_config(38, filters)}
        cases += [
            Case(f"sample {label}: tiles", _tile_kernel, {**shared, **tile_only, "table_stride": "i32"}, tiles),
            Case(f"sample {label}: draw", _draw_kernel, {**shared, **row}, draw),
        ]
    machine = {
        **{name: "*i32" for name in _thinking_step_kernel.arg_names if name.endswith("_ptr")},
        "slots_ptr": "*i64",
        "draw_ptr": "*i64",
        "masked_ptr": "*i64",
        "bad_ptr": "*i1",
        "traits_ptr": "*u8",
        "next_ptr": "*i16",
        "batch": "i32",
        "string_len": "i32",
        "history_stride": "i32",
        "vocab": "i32",
    }
    sizes = {"TRIGGERS": 2, "STOPS": 4, "EOS_IDS": 2, **thinking_step_config()}
    for label, lead, opener, loops in (("s1", 0, 0, False), ("all", 2, 3, True)):
        constants = {**sizes, "MAX_LEAD": lead, "MAX_OPENER": opener, "LOOPS": loops, "TEXT": loops}
        cases.append(Case(f"thinking_step {label}", _thinking_step_kernel, machine, constants))
    return cases


def _gemm_kernels() -> list[Case]:
    bf16, flags = "*bf16", ("NORM", "BIAS", "RESIDUAL", "GATED", "MAXIMA", "QUANTISED")
    common = {"x_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "tokens": "i32", "eps": "fp32"}
    norm, bias, residual = {"norm_ptr": bf16}, {"bias_ptr": bf16}, {"residual_ptr": bf16}
    maxima, parts = {"y_ptr": "*fp32", "maxima_ptr": "*fp32"}, {"partial_ptr": "*fp32", "tickets_ptr": "*i32"}
    products = (  # name, M, K, what is folded in, split_k, arguments besides
        ("qkv", 7168, 5120, ("NORM", "BIAS"), 1, {**norm, **bias}),
        ("o", 5120, 5120, ("RESIDUAL",), 3, {**residual, **parts}),
        ("gate_up", 27648, 5120, ("NORM", "GATED"), 1, norm),
        ("down", 5120, 27648, ("RESIDUAL",), 4, {**residual, **parts}),
        ("head", 152064, 5120, ("MAXIMA",), 1, maxima),
    )
    coded = {"gate_up": {}, "down": residual}  # as `kernels.linear` launches weights of 8 bits
    cases = []
    for (name, out, width, folded, split, besides), tokens in product(products, (16, 64)):
        label, shape = f"gemm {name} {tokens}", {"OUT": out, "IN": width, **{f: f in folded for f in flags}}
        plain, ours, dependent = (
            small_gemm_config(config, tokens, torch.bfloat16)
            for config in (GemmConfig(), GemmConfig(split_k=split), GemmConfig(split_k=split, prefetch=4))
        )
        arguments = {**common, **besides}
        cases += [
            Case(label, _small_gemm_kernel, arguments, {**shape, **ours}, 64),
            Case(f"{label} dependent", _small_gemm_kernel, arguments, {**shape, **dependent}, 64),
        ]
        constants = {**shape, **plain, "NORM": False, "QUANTISED": True}
        for suffix, codes in (("int8", "*i8"), ("fp8", "*fp8e4nv")) if name in coded else ():
            arguments = {**common, **coded[name], "weight_ptr": codes, "scale_ptr": "*fp32"}
            cases.append(Case(f"{label} {suffix}", _small_gemm_kernel, arguments, constants, 64))
    return cases


def production_cases() -> list[Case]:
    """Every kernel in every configuration that a Qwen2.5 model on Hopper launches."""
    return _row_kernels() + _attention_kernels() + _gemm_kernels() + _step_kernels()


def checking_cases() -> list[Case]:
    """The largest kernels of tests alone: float32, whose products are unrolled, and a block of the machine for 1,024
    rows. They must not take long to compile."""
    known = {case.name: case for case in production_cases()}
    q, cache = (_meta(*shape, dtype=torch.float32) for shape in ((64, 40, 128), (2, 8, PAGE, 128)))
    rows = {"QUANTISED": False, "LETS_NEXT_START": False}
    configs = {
        "decode 32B batch 64 bf16": {**decode_attention_config(q, cache), **rows},
        "prefill 32B batch 64 bf16": {**prefill_attention_config(q, cache), "QUANTISED": False},
        "gemm gate_up 64": small_gemm_config(GemmConfig(block_in=64), 64, torch.float32),
    }
    cases = []
    for name, config in configs.items():
        like = known[name]
        arguments = {key: kind.replace("bf16", "fp32") for key, kind in like.arguments.items()}
        constants = {**like.constants, **config}
        cases.append(Case(f"{name.removesuffix(' bf16')} float32", like.kernel, arguments, constants))
    machine = known["thinking_step all"]
    wide = {**machine.constants, **thinking_step_config(1024)}
    return [*cases, replace(machine, name="thinking_step 1024 rows", constants=wide)]
