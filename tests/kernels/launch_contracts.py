"""What every Triton kernel takes: type and shape of each pointer and the grid, checked on recorded launches.

A shape is written in words: names of the kernel's constants and numbers, expressions of them, and lower-case names that
stand for whatever size comes first. Tensors are contiguous unless the text begins with "~": then rows may lie further
apart, and `needs` says by which argument the kernel is told.
"""

from dataclasses import dataclass
from typing import Any

import torch

from kernels.dry_run import Launch
from kernels.language import cdiv
from kernels.sampler import Real, Whole
from kernels.thinking import Param, Record, State, Text

DTYPES = {
    "i32": (torch.int32,),
    "i64": (torch.int64,),
    "f32": (torch.float32,),
    "bool": (torch.bool,),
    "u8": (torch.uint8,),
    "x": (torch.float32, torch.bfloat16, torch.float16),  # activations: one type in a launch
    "w": (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn),
    "kv": (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn),
    "y": (torch.float32, torch.bfloat16, torch.float16),
}
SIZES = {
    "PARAMS": len(Param),
    "STATE": len(State),
    "TEXTS": len(Text),
    "RECORD": len(Record),
    "REAL": len(Real),
    "WHOLE": len(Whole),
    "cdiv": cdiv,
    "FLOAT16": torch.float16,
}


@dataclass(frozen=True)
class Contract:
    """`grid` and `pointers` as described above; `needs`: expressions that hold; `None` is allowed for what `optional`
    names."""

    grid: str
    pointers: dict[str, str]
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_MACHINE = {
    "state_ptr": "i32 slots STATE",
    "params_ptr": "i32 slots PARAMS",
    "trigger_last_ptr": "i32 slots TRIGGERS",
    "eos_ids_ptr": "i32 EOS_IDS",
    "slots_ptr": "i64 n",
}
_SAMPLER = {
    "logits_ptr": "~f32 n columns",
    "real_ptr": "f32 slots REAL",
    "whole_ptr": "i32 slots WHOLE",
    "best_ptr": "f32 n 2 2 t",
    "place_ptr": "i32 n 2 2 t",
    "weight_ptr": "f32 n 2 t",
    "state_ptr": _MACHINE["state_ptr"],
    "trigger_last_ptr": _MACHINE["trigger_last_ptr"],
    "eos_ids_ptr": _MACHINE["eos_ids_ptr"],
    "slots_ptr": _MACHINE["slots_ptr"],
}
_PAGES = {
    "k_cache_ptr": "kv pages NUM_KV PAGE_SIZE HEAD_DIM",
    "v_cache_ptr": "kv pages NUM_KV PAGE_SIZE HEAD_DIM",
    "k_scale_ptr": "f32 NUM_KV",
    "v_scale_ptr": "f32 NUM_KV",
}

CONTRACTS = {
    "_embedding_kernel": Contract(
        "n cdiv(HIDDEN,BLOCK)", {"ids_ptr": "i64 n", "weight_ptr": "x VOCAB HIDDEN", "y_ptr": "x n HIDDEN"}
    ),
    "_rms_norm_kernel": Contract(
        "n",
        {
            "x_ptr": "x n HIDDEN",
            "addresses_ptr": "i64 RANKS",
            "residual_ptr": "x n HIDDEN",
            "weight_ptr": "x HIDDEN",
            "y_ptr": "x n HIDDEN",
            "sum_ptr": "x n HIDDEN",
        },
        ("BLOCK >= HIDDEN", "(RANKS == 0) == (x_ptr is not None) == (addresses_ptr is None)"),
        ("x_ptr", "addresses_ptr", "residual_ptr"),
    ),
    "_rope_append_kernel": Contract(
        "n cdiv(NUM_Q+2*NUM_KV,BLOCK_HEADS)",
        {
            "qkv_ptr": "x n (NUM_Q+2*NUM_KV)*HEAD_DIM",
            "cos_sin_ptr": "f32 positions HEAD_DIM",
            "positions_ptr": "i64 n",
            "slots_ptr": "i64 n",
            "q_ptr": "x n NUM_Q HEAD_DIM",
            "qk_norm_ptr": "x 2 HEAD_DIM",
            **_PAGES,
        },
        ("2*BLOCK_HALF >= HEAD_DIM",),
        ("k_scale_ptr", "v_scale_ptr", "qk_norm_ptr"),
    ),
    "_decode_attention_kernel": Contract(
        "programs",
        {
            "q_ptr": "x n NUM_KV*GROUP HEAD_DIM",
            "out_ptr": "x n NUM_KV*GROUP HEAD_DIM",
            "tables_ptr": "~i32 n width",
            "lens_ptr": "i32 n",
            "partial_ptr": "f32 2*programs BLOCK_M HEAD_DIM",
            "stats_ptr": "f32 2*programs 2 BLOCK_M",
            "tickets_ptr": "i32 items",
            **_PAGES,
        },
        ("batch == n", "BLOCK_B >= n", "items >= n*NUM_KV", "BLOCK_M >= GROUP", "table_stride == tables_ptr.stride(0)"),
        ("k_scale_ptr", "v_scale_ptr"),
    ),
    "_prefill_attention_kernel": Contract(
        "blocks NUM_KV*GROUP rows",
        {
            "q_ptr": "x n NUM_KV*GROUP HEAD_DIM",
            "out_ptr": "x n NUM_KV*GROUP HEAD_DIM",
            "tables_ptr": "~i32 rows width",
            "lens_ptr": "i32 rows",
            "cu_q_ptr": "i32 rows+1",
            **_PAGES,
        },
        ("table_stride == tables_ptr.stride(0)",),
        ("k_scale_ptr", "v_scale_ptr"),
    ),
    "_silu_mul_kernel": Contract("n cdiv(FEATURES,BLOCK)", {"x_ptr": "x n 2*FEATURES", "y_ptr": "x n FEATURES"}),
    "_decode_inputs_kernel": Contract(
        "n",
        {
            "inputs_ptr": "~i64 3 n",
            "state_ptr": _MACHINE["state_ptr"],
            "history_ptr": "i32 slots history_stride",
            "blocks_ptr": "i32 slots pages",
            "ids_ptr": "i64 n",
            "positions_ptr": "i64 n",
            "slots_ptr": "i64 n",
            "tables_ptr": "i32 n width",
            "lens_ptr": "i32 n",
        },
        ("batch == n", "BLOCK_B >= n", "width <= pages", "inputs_stride == inputs_ptr.stride(0)"),
    ),
    "_small_gemm_kernel": Contract(
        "cdiv(OUT,BLOCK_OUT) SPLIT_K",
        {
            "x_ptr": "x n IN",
            "weight_ptr": "w OUT*(1+GATED) IN",
            "scale_ptr": "f32 OUT*(1+GATED)",
            "squares_ptr": "f32 n PARTS",
            "bias_ptr": "x OUT*(1+GATED)",
            "residual_ptr": "x n OUT",
            "gain_ptr": "x OUT",
            "y_ptr": "y n OUT",
            "scaled_ptr": "x n OUT",
            "sums_ptr": "f32 n cdiv(OUT,BLOCK_OUT)",
            "partial_ptr": "f32 SPLIT_K 1+GATED n OUT",
            "tickets_ptr": "i32 items",
        },
        (
            "tokens == n",
            "BLOCK_T >= n",
            "BLOCK_PARTS >= PARTS",
            "QUANTISED == (scale_ptr is not None)",
            "BIAS == (bias_ptr is not None)",
            "SCALES == (gain_ptr is not None) == (scaled_ptr is not None) == (sums_ptr is not None)",
            "(SPLIT_K > 1) == (partial_ptr is not None) == (tickets_ptr is not None)",
            "tickets_ptr is None or items >= cdiv(OUT,BLOCK_OUT)",
            "not SCALES or x_ptr.dtype != FLOAT16",
        ),
        (
            *("scale_ptr", "squares_ptr", "bias_ptr", "residual_ptr", "gain_ptr", "scaled_ptr", "sums_ptr"),
            *("partial_ptr", "tickets_ptr"),
        ),
    ),
    "_tile_kernel": Contract(
        "n t",
        {
            **_SAMPLER,
            "params_ptr": _MACHINE["params_ptr"],
            "bias_ptr": "f32 slots columns",
            "counts_ptr": "i32 slots columns",
            "in_prompt_ptr": "bool slots columns",
        },
        ("vocab <= columns", "t == cdiv(vocab,BLOCK)", "logits_stride == logits_ptr.stride(0)"),
        ("bias_ptr", "counts_ptr", "in_prompt_ptr"),
    ),
    "_draw_kernel": Contract(
        "n",
        {
            **_SAMPLER,
            "values_ptr": "f32 n work_stride",
            "ids_ptr": "i32 n work_stride",
            "draw_ptr": "i64 n",
            "masked_ptr": "i64 n",
            "bad_ptr": "bool n",
        },
        ("tiles == t", "BLOCK_T >= t", "work_stride == columns"),
        ("values_ptr", "ids_ptr"),
    ),
    "_thinking_step_kernel": Contract(
        "cdiv(n,BLOCK)",
        {
            **_MACHINE,
            "strings_ptr": "i32 slots TEXTS string_len",
            "trigger_lead_ptr": "i32 slots TRIGGERS",
            "stop_ids_ptr": "i32 slots STOPS",
            "history_ptr": "i32 slots history_stride",
            "traits_ptr": "u8 vocabulary",
            "next_ptr": "i16 rows vocabulary",
            "marks_ptr": "i32 slots history_stride",
            "draw_ptr": "i64 n",
            "masked_ptr": "i64 n",
            "bad_ptr": "bool n",
            "record_ptr": "i32 n RECORD",
        },
        ("batch == n", "vocab == vocabulary"),
        ("next_ptr", "marks_ptr"),
    ),
}


def check(launch: Launch) -> None:
    """Raises AssertionError naming kernel, argument and what is wrong."""
    contract = CONTRACTS[launch.kernel]
    names: dict[str, Any] = SIZES | launch.arguments
    types: dict[str, torch.dtype] = {}
    sizes = contract.grid.split()
    assert launch.grid == (*launch.grid[: len(sizes)], *(1 for _ in launch.grid[len(sizes) :])), launch
    for dim, size in zip(sizes, launch.grid, strict=False):
        if dim.isidentifier():
            names.setdefault(dim, size)
    tensors = {name: value for name, value in launch.arguments.items() if isinstance(value, torch.Tensor)}
    assert tensors.keys() <= contract.pointers.keys(), f"{launch.kernel}: {tensors.keys() - contract.pointers.keys()}"
    for name, text in contract.pointers.items():
        tensor = launch.arguments[name]
        where = f"{launch.kernel}: {name}"
        if tensor is None:
            assert name in contract.optional, f"{where} is missing"
            continue
        kind, *dims = text.removeprefix("~").split()
        assert tensor.dtype in DTYPES[kind], f"{where} is {tensor.dtype}"
        assert types.setdefault(kind, tensor.dtype) == tensor.dtype, f"{where} is {tensor.dtype}, others {types[kind]}"
        assert tensor.dim() == len(dims), f"{where} is {list(tensor.shape)}, not [{', '.join(dims)}]"
        for dim, size in zip(dims, tensor.shape, strict=True):
            _same(dim, size, names, f"{where} is {list(tensor.shape)}, not [{', '.join(dims)}]")
        whole = tensor.stride()[-1] == 1 if text.startswith("~") else tensor.is_contiguous()
        assert whole or tensor.numel() == 0, f"{where} has strides {tensor.stride()}"
    for dim, size in zip(sizes, launch.grid, strict=False):
        _same(dim, size, names, f"{launch.kernel}: the grid is {launch.grid}, not ({contract.grid})")
    for need in contract.needs:
        assert eval(need, {}, names), f"{launch.kernel}: {need} does not hold: {_shown(need, names)}"


def _same(text: str, size: int, names: dict[str, Any], message: str) -> None:
    if text.isidentifier() and text not in names:
        names[text] = size
    value = eval(text, {}, names)
    assert value == size, f"{message}: {text} is {value}"


def _shown(need: str, names: dict[str, Any]) -> dict[str, Any]:
    return {name: names[name] for name in names if isinstance(names[name], int) and name in need}
