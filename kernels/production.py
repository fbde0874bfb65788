"""The configurations that are compiled ahead of time: Qwen2.5's shapes in bf16, pages of 64 tokens, and what tests on a
GPU compile besides.

Shapes come as meta tensors through the same `*_config` functions that the launchers use.
"""

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


def _row_kernels() -> list[Case]:
    bf16, i64 = "*bf16", "*i64"
    norm = {"x_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "sum_ptr": bf16, "eps": "fp32"}
    cases = []
    for hidden in (896, 5120):
        constants = {"HIDDEN": hidden, "LETS_NEXT_START": False, **rms_norm_config(hidden)}
        cases.append(Case(f"rms_norm {hidden}", _rms_norm_kernel, norm, {**constants, "HAS_RESIDUAL": False}))
        added = {**norm, "residual_ptr": bf16}
        constants["HAS_RESIDUAL"] = True
        cases.append(Case(f"rms_norm+add {hidden}", _rms_norm_kernel, added, constants))
        early = {**constants, "LETS_NEXT_START": True}
        cases.append(Case(f"rms_norm+add {hidden} early", _rms_norm_kernel, added, early))
    reduced = {"addresses_ptr": i64, "residual_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "sum_ptr": bf16}
    for ranks in (2, 8):
        constants = {"RANKS": ranks, "HIDDEN": 5120, **all_reduce_norm_config(5120)}
        arguments = {**reduced, "eps": "fp32"}
        cases.append(Case(f"all_reduce_norm 5120 x {ranks}", _all_reduce_norm_kernel, arguments, constants))
    silu = {"FEATURES": 27648, **silu_mul_config()}
    cases.append(Case("silu_mul 27648", _silu_mul_kernel, {"x_ptr": bf16, "y_ptr": bf16}, silu))
    embed = {"ids_ptr": i64, "weight_ptr": bf16, "y_ptr": bf16, "vocab_start": "i32"}
    shape = {"VOCAB": 152064, "HIDDEN": 5120, **embedding_config()}
    cases.append(Case("embedding 152064x5120", _embedding_kernel, embed, shape))
    rope = {
        "qkv_ptr": bf16,
        "cos_sin_ptr": "*fp32",
        "positions_ptr": i64,
        "slots_ptr": i64,
        "q_ptr": bf16,
    }
    for cache in (bf16, "*fp8e4nv"):
        arguments = {**rope, "k_cache_ptr": cache, "v_cache_ptr": cache}
        scales = {"k_scale_ptr": "*fp32", "v_scale_ptr": "*fp32"} if cache != bf16 else {}
        constants = {"NUM_Q": 40, "NUM_KV": 8, "HEAD_DIM": 128, "PAGE_SIZE": PAGE, **rope_append_config(128)}
        constants["QUANTISED"] = bool(scales)
        cases.append(Case(f"rope_append {cache[1:]}", _rope_append_kernel, {**arguments, **scales}, constants))
    return cases


def _attention_kernels() -> list[Case]:
    cases = []
    shapes = (  # name, query heads, KV heads, head_dim, batch
        ("32B", 40, 8, 128, 1),
        ("32B", 40, 8, 128, 64),
        ("32B TP8", 5, 1, 128, 256),
        ("0.5B", 14, 2, 64, 64),
    )
    for name, num_q, num_kv, head_dim, batch in shapes:
        q, cache = _meta(batch, num_q, head_dim), _meta(2, num_kv, PAGE, head_dim)
        for stored in ("*bf16", "*fp8e4nv"):
            scales = {"k_scale_ptr": "*fp32", "v_scale_ptr": "*fp32"} if stored != "*bf16" else {}
            common = {
                "q_ptr": "*bf16",
                "k_cache_ptr": stored,
                "v_cache_ptr": stored,
                "tables_ptr": "*i32",
                "lens_ptr": "*i32",
                "out_ptr": "*bf16",
                "scale_log2": "fp32",
                "table_stride": "i32",
                **scales,
            }
            work = {"partial_ptr": "*fp32", "stats_ptr": "*fp32", "tickets_ptr": "*i32", "batch": "i32"}
            label = f"{name} batch {batch} {stored[1:]}"
            config = {**decode_attention_config(q, cache), "QUANTISED": bool(scales), "LETS_NEXT_START": False}
            rows = int(config["BLOCK_M"])
            cases.append(Case(f"decode {label}", _decode_attention_kernel, {**common, **work}, config, rows))
            if batch == 1:
                config = {**config, "LETS_NEXT_START": True}
                cases.append(Case(f"decode {label} early", _decode_attention_kernel, {**common, **work}, config, rows))
            if batch == 64:
                config = {**prefill_attention_config(q, cache), "QUANTISED": bool(scales)}
                rows = int(config["BLOCK_M"])
                arguments = {**common, "cu_q_ptr": "*i32"}
                cases.append(Case(f"prefill {label}", _prefill_attention_kernel, arguments, config, rows))
    return cases


def _step_kernels() -> list[Case]:
    tables = {
        "real_ptr": "*fp32",
        "whole_ptr": "*i32",
        "bias_ptr": "*fp32",
        "counts_ptr": "*i32",
        "in_prompt_ptr": "*i1",
        "state_ptr": "*i32",
        "params_ptr": "*i32",
        "trigger_last_ptr": "*i32",
        "eos_ids_ptr": "*i32",
        "slots_ptr": "*i64",
        "best_ptr": "*fp32",
        "place_ptr": "*i32",
        "weight_ptr": "*fp32",
        "logits_ptr": "*fp32",
        "vocab": "i32",
        "logits_stride": "i32",
        "table_stride": "i32",
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
    tile_only = ("bias_ptr", "counts_ptr", "in_prompt_ptr", "params_ptr", "table_stride")
    draws = {**{name: kind for name, kind in tables.items() if name not in tile_only}, **row}
    cases = []
    for label, noise, filters in (("greedy", False, False), ("gumbel", True, False), ("filtered", True, True)):
        flags = {"NOISE": noise, "FILTERS": filters, "MASKED": 1, "TRIGGERS": 2, "EOS_IDS": 2}
        extra = {"PENALTIES": filters, "BIAS": filters}
        cases.append(Case(f"sample {label}: tiles", _tile_kernel, tables, {**flags, **extra, **sample_config()}))
        tile = sample_config()["BLOCK"]
        constants = {**flags, "TILE": tile, **draw_config(38, filters)}
        cases.append(Case(f"sample {label}: draw", _draw_kernel, draws, constants))
    machine = {name: "*i32" for name in _thinking_step_kernel.arg_names if name.endswith("_ptr")}
    machine |= {"slots_ptr": "*i64", "draw_ptr": "*i64", "masked_ptr": "*i64", "bad_ptr": "*i1", "ends_line_ptr": "*i1"}
    machine |= {"batch": "i32", "string_len": "i32", "history_stride": "i32"}
    sizes = {"TRIGGERS": 2, "STOPS": 4, "EOS_IDS": 2, **thinking_step_config()}
    for label, lead, opener, loops in (("s1", 0, 0, False), ("all", 2, 3, True)):
        constants = {**sizes, "MAX_LEAD": lead, "MAX_OPENER": opener, "LOOPS": loops}
        cases.append(Case(f"thinking_step {label}", _thinking_step_kernel, machine, constants))
    return cases


def _gemm_kernels() -> list[Case]:
    bf16, flags = "*bf16", ("NORM", "BIAS", "RESIDUAL", "GATED", "MAXIMA", "QUANTISED")
    quantised = {"int8": "*i8", "fp8": "*fp8e4nv"}
    pointers = {"NORM": "norm_ptr", "BIAS": "bias_ptr", "RESIDUAL": "residual_ptr", "MAXIMA": "maxima_ptr"}
    products = (  # name, M, K, what is folded in, split_k
        ("qkv", 7168, 5120, ("NORM", "BIAS"), 1),
        ("o", 5120, 5120, ("RESIDUAL",), 3),
        ("gate_up", 27648, 5120, ("NORM", "GATED"), 1),
        ("down", 5120, 27648, ("RESIDUAL",), 4),
        ("head", 152064, 5120, ("MAXIMA",), 1),
    )
    cases = []
    for name, out, width, folded, split in products:
        arguments = {"x_ptr": bf16, "weight_ptr": bf16, "y_ptr": bf16, "tokens": "i32", "eps": "fp32"}
        arguments |= {pointers[f]: bf16 for f in folded if f in pointers}
        if "MAXIMA" in folded:
            arguments |= {"y_ptr": "*fp32", "maxima_ptr": "*fp32"}
        if split > 1:
            arguments |= {"partial_ptr": "*fp32", "tickets_ptr": "*i32"}
        for tokens in (16, 64):
            constants = small_gemm_config(GemmConfig(split_k=split), tokens, torch.bfloat16)
            shape = {"OUT": out, "IN": width, **{f: f in folded for f in flags}}
            cases.append(Case(f"gemm {name} {tokens}", _small_gemm_kernel, arguments, {**shape, **constants}, 64))
            dependent = small_gemm_config(GemmConfig(split_k=split, prefetch=4), tokens, torch.bfloat16)
            early = f"gemm {name} {tokens} dependent"
            cases.append(Case(early, _small_gemm_kernel, arguments, {**shape, **dependent}, 64))
            for label, codes in quantised.items() if name in ("gate_up", "down") else ():
                plain = small_gemm_config(GemmConfig(), tokens, torch.bfloat16)  # as `kernels.linear` launches it
                given = {
                    "x_ptr": bf16,
                    "y_ptr": bf16,
                    "tokens": "i32",
                    "eps": "fp32",
                    "weight_ptr": codes,
                    "scale_ptr": "*fp32",
                }
                given |= {"residual_ptr": bf16} if "RESIDUAL" in folded else {}
                held = {**shape, **plain, "NORM": False, "QUANTISED": True}
                cases.append(Case(f"gemm {name} {tokens} {label}", _small_gemm_kernel, given, held, 64))
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
    like = known["thinking_step all"]
    wide = {**like.constants, **thinking_step_config(1024)}
    return [*cases, Case("thinking_step 1024 rows", like.kernel, like.arguments, wide)]
