"""The configurations that are compiled ahead of time: Qwen2.5's shapes in bf16, pages of 64 tokens, and what tests on a
GPU compile besides.

Shapes come as meta tensors through the same `*_config` functions that the launchers use.
"""

from dataclasses import replace
from itertools import product

import torch

from kernels.aot import Case
from kernels.decode_attention import _decode_attention_kernel, decode_attention_config
from kernels.decode_inputs import _decode_inputs_kernel, decode_inputs_config
from kernels.embedding import _embedding_kernel, embedding_config
from kernels.prefill_attention import _prefill_attention_kernel, prefill_attention_config
from kernels.rms_norm import _rms_norm_kernel, rms_norm_config
from kernels.rope_append import _rope_append_kernel, rope_append_config
from kernels.sampler_triton import _draw_kernel, _tile_kernel, draw_config, sample_config
from kernels.silu_mul import _silu_mul_kernel, silu_mul_config
from kernels.small_gemm import GemmConfig, _small_gemm_kernel, default_config, small_gemm_config
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
            {"HIDDEN": hidden, "RANKS": 0, "HAS_RESIDUAL": added, **rms_norm_config(hidden, follows)},
        )
        for hidden in (896, 5120)
        for name, added, follows in (
            ("rms_norm {}", False, False),
            ("rms_norm+add {}", True, False),
            ("rms_norm {} dependent", False, True),
            ("rms_norm+add {} dependent", True, True),
        )
    ]
    reduced = {"addresses_ptr": i64, "residual_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "sum_ptr": bf16}
    reductions = [
        Case(
            f"all_reduce_norm 5120 x {ranks}",
            _rms_norm_kernel,
            {**reduced, "eps": "fp32"},
            {"RANKS": ranks, "HIDDEN": 5120, "HAS_RESIDUAL": True, **rms_norm_config(5120)},
        )
        for ranks in (2, 8)
    ]
    features = {"FEATURES": 27648, **silu_mul_config()}
    silu = Case("silu_mul 27648", _silu_mul_kernel, {"x_ptr": bf16, "y_ptr": bf16}, features)
    embed = Case(
        "embedding 152064x5120",
        _embedding_kernel,
        {"ids_ptr": i64, "weight_ptr": bf16, "y_ptr": bf16, "vocab_start": "i32"},
        {"VOCAB": 152064, "HIDDEN": 5120, **embedding_config()},
    )
    rope = {"qkv_ptr": bf16, "cos_sin_ptr": "*fp32", "positions_ptr": i64, "slots_ptr": i64, "q_ptr": bf16}
    heads = {"NUM_KV": 8, "HEAD_DIM": 128, "PAGE_SIZE": PAGE}
    appends = [
        Case(
            f"rope_append {cache[1:]}{' normed' if normed else ''}{' dependent' if follows else ''}",
            _rope_append_kernel,
            {**rope, "eps": "fp32", "k_cache_ptr": cache, "v_cache_ptr": cache, **_scales(cache)}
            | ({"qk_norm_ptr": bf16} if normed else {}),
            {**heads, "NUM_Q": 64 if normed else 40, "QUANTISED": cache != bf16, "NORMED": normed}  # Qwen3 and Qwen2.5
            | rope_append_config(128, follows),
        )
        for cache, normed, follows in (*product((bf16, "*fp8e4nv"), (False, True), (False,)), (bf16, False, True))
    ]
    return [*norms, *reductions, silu, embed, *appends]


def _attention_kernels() -> list[Case]:
    cases = []
    shapes = (  # model, query heads, KV heads, head_dim, batch
        ("32B", 40, 8, 128, 1),
        ("32B", 40, 8, 128, 64),
        ("32B TP8", 5, 1, 128, 256),
        ("0.5B", 14, 2, 64, 64),
        ("Qwen3-32B", 64, 8, 128, 64),
    )
    work = {"partial_ptr": "*fp32", "stats_ptr": "*fp32", "tickets_ptr": "*i32", "batch": "i32"}
    for (model, num_q, num_kv, head_dim, batch), stored in product(shapes, ("*bf16", "*fp8e4nv")):
        q, kind = _meta(batch, num_q, head_dim), torch.bfloat16 if stored == "*bf16" else torch.float8_e4m3fn
        cache = _meta(2, num_kv, PAGE, head_dim, dtype=kind)
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
        for follows in (False, True) if batch == 1 else (False,):
            name = f"decode {label} dependent" if follows else f"decode {label}"
            constants = {**decode_attention_config(q, cache, follows), "QUANTISED": quantised}
            rows = int(constants["BLOCK_M"])
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
    i64 = dict.fromkeys(("inputs_ptr", "ids_ptr", "positions_ptr", "slots_ptr"), "*i64")
    i32 = dict.fromkeys(("state_ptr", "history_ptr", "blocks_ptr", "tables_ptr", "lens_ptr"), "*i32")
    numbers = dict.fromkeys(("batch", "inputs_stride", "history_stride", "pages", "width"), "i32")
    constants = {"PAGE_SIZE": PAGE, **decode_inputs_config(64)}
    cases.append(Case("decode_inputs", _decode_inputs_kernel, {**i64, **i32, **numbers}, constants))
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
    bf16 = "*bf16"
    flags = ("BIAS", "RESIDUAL", "SCALES", "GATED", "QUANTISED")
    common = {"x_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "tokens": "i32", "eps": "fp32"}
    normed = {"squares_ptr": "*fp32"}
    left = {"residual_ptr": bf16, "gain_ptr": bf16, "scaled_ptr": bf16, "sums_ptr": "*fp32"}
    products = (  # name, M (of gate and up), K, what is folded in, sums of squares of x, arguments besides
        ("qkv", 7168, 5120, ("BIAS",), 80, {**normed, "bias_ptr": bf16}),
        ("o", 5120, 5120, ("RESIDUAL", "SCALES"), 0, left),
        ("gate_up", 55296, 5120, ("GATED",), 80, normed),
        ("down", 5120, 27648, ("RESIDUAL", "SCALES"), 0, left),
        ("head", 152064, 5120, (), 0, {"y_ptr": "*fp32"}),
    )
    cases = []
    for (name, out, width, folded, parts, besides), tokens in product(products, (16, 64)):
        gated = "GATED" in folded
        shape = {"OUT": out // 2 if gated else out, "IN": width, **{flag: flag in folded for flag in flags}}
        for suffix, codes in ("", bf16), (" int8", "*i8"), (" fp8", "*fp8e4nv"):
            config = default_config((out, width), tokens, 1 if suffix else 2, gated)
            arguments = {**common, **besides, "weight_ptr": codes}
            arguments |= {"scale_ptr": "*fp32"} if suffix else {}
            arguments |= {"partial_ptr": "*fp32", "tickets_ptr": "*i32"} if config.split_k > 1 else {}
            for prefetch in (0, 4) if suffix in ("", " int8") and name != "head" else (0,):
                constants = small_gemm_config(replace(config, prefetch=prefetch), tokens, torch.bfloat16, parts)
                constants |= {**shape, "QUANTISED": bool(suffix)}
                label = f"gemm {name} {tokens}{suffix}{' dependent' if prefetch else ''}"
                cases.append(Case(label, _small_gemm_kernel, arguments, constants, config.block_out))
    return cases


def production_cases() -> list[Case]:
    """Every kernel in every configuration that a Qwen2.5 model on Hopper launches."""
    return _row_kernels() + _attention_kernels() + _gemm_kernels() + _step_kernels()


def checking_cases() -> list[Case]:
    """The largest kernels of tests alone: float32, whose products are unrolled, and a block of the machine for 1,024
    rows. They must not take long to compile."""
    known = {case.name: case for case in production_cases()}
    q, cache = (_meta(*shape, dtype=torch.float32) for shape in ((64, 40, 128), (2, 8, PAGE, 128)))
    configs = {
        "decode 32B batch 64 bf16": {**decode_attention_config(q, cache), "QUANTISED": False},
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
