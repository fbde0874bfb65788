"""What a configuration means on this machine: which kernels run and why, what fits, and the least time of a step.

`python -m engine.doctor` prints all of it, the engine's start what matters: the pool, the limit, and every slow path.
"""

import os
import timeit
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.build import free_bytes, model_length, pages_that_fit
from engine.config import EngineConfig
from engine.model.config import ModelConfig
from engine.model.shard import Shard
from engine.step.graphs import BUCKETS
from kernels import REFERENCE
from kernels.gemm_choices import FOLDED, Product, read_choices, table_in_use
from kernels.language import triton
from kernels.limits import UNKNOWN, Device, Limits, known_device, summary
from kernels.native import library as native
from kernels.quantize import FLOAT8
from kernels.small_gemm import MOST_TOKENS

_CACHE_SIZE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
_READ_BYTES, _LEAST_CACHE = 256 << 20, 32 << 20


@dataclass(frozen=True)
class Route:
    """What runs an operator, and why. `slow`: there is a faster way, and `why` names it."""

    operator: str
    runs: str
    why: str
    slow: bool = False


@dataclass(frozen=True)
class Fit:
    """What memory holds of one model. Tokens and sequences are of the KV cache."""

    weight_bytes: int
    """per rank"""
    kv_bytes_per_token: int
    """per rank"""
    pages: int
    page_size: int
    context: int
    """most tokens of one request"""
    sequences: int
    """of that many tokens, at once"""

    @property
    def tokens(self) -> int:
        return self.pages * self.page_size


def routes(
    config: EngineConfig, dtype: torch.dtype, device: torch.device, model: ModelConfig | None = None, ranks: int = 1
) -> list[Route]:
    """Which implementation runs what, for a model of `dtype` on `device`; of a given `model` each product, too."""
    if REFERENCE:
        return [
            Route(
                "all", "torch definitions", "S1_KERNELS=reference asks for the torch definitions; unset it", slow=True
            )
        ]
    if device.type != "cuda":
        return _cpu_routes(config, dtype)
    return _cuda_routes(config, device) + (_products(config, device, model, ranks) if model is not None else [])


def _cpu_routes(config: EngineConfig, dtype: torch.dtype) -> list[Route]:
    if not native.LOADED:
        return [Route("all", "torch definitions", native.REASON, slow=True)]
    library = f"native library, {native.LEVEL}"
    found = []
    if "S1_GEMM_TABLE" in os.environ:
        found.append(Route("S1_GEMM_TABLE", "nothing", "it chooses products on a GPU; this is a CPU"))
    if native.LEVEL == "portable":
        found.append(Route("all", library, "the processor has no AVX2, or S1_CPU_LEVEL says so", slow=True))
    if dtype is torch.float16:
        why = "the native library takes float32 and bfloat16; give --dtype bfloat16"
        return [*found, Route("layers and head", "torch definitions", why, slow=True)]
    products = {
        "none": Route("products", library, "weights are packed once, after loading"),
        "int8": Route("products", f"{library}, int8 weights", "codes are widened in registers"),
        "fp8": Route(
            "products",
            library,
            "there are no float8 products for CPUs: weights are rounded to float8 and kept in the model's dtype, "
            "so nothing is faster or smaller; give --quantization int8",
            slow=True,
        ),
    }
    attention = {
        "auto": Route("attention", library, "float32 and bfloat16 caches"),
        "fp8": Route(
            "attention",
            "torch definitions",
            "there is no native attention over a float8 cache; leave --kv-cache-dtype at auto on a CPU",
            slow=True,
        ),
    }
    draws = Route("draws and thinking machine", library, "one call for all rows")
    return [*found, products[config.quantization], attention[config.kv_cache_dtype], draws]


_TO_MEASURE = "python -m bench.gemm --output gemm.jsonl --table kernels/gemm_choices.json"


def _cuda_routes(config: EngineConfig, device: torch.device) -> list[Route]:
    name = torch.cuda.get_device_name(device)
    if triton is None:
        return [Route("all", "nothing", "CUDA needs Triton, and it is not installed; pip install triton", slow=True)]
    kernels, (major, minor) = f"Triton {triton.__version__}", torch.cuda.get_device_capability(device)
    table = table_in_use()
    measured = sum(choice.device == name for choice in read_choices(table))
    narrow, captured, most_rows = config.quantization != "none", config.step_graphs != "off", BUCKETS[-1]
    possible = (
        (True, Route("attention, norms, draws, thinking machine", kernels, f"{name} (sm_{major}{minor})")),
        (
            (major, minor) != (9, 0),
            Route(
                "tiles",
                kernels,
                "tile sizes were chosen for sm_90 (H100, H200); other GPUs run them as they are",
                slow=True,
            ),
        ),
        (
            measured > 0,
            Route("products", f"cuBLAS and {kernels}", f"{measured} rows of the table are for this GPU"),
        ),
        (
            measured == 0 and table not in FOLDED and config.quantization != "int8",
            Route(
                "head" if narrow else "products",
                "cuBLAS",
                "S1_GEMM_TABLE=plain" if table == "plain" else f"no shape was measured on this GPU: {_TO_MEASURE}",
            ),
        ),
        (
            table == "dependent" and (major, minor) < (9, 0),
            Route("dependent launches", "folded layers", "dependent ones need sm_90", slow=True),
        ),
        (
            table in FOLDED,
            Route(
                "layers' products",
                kernels,
                f"S1_GEMM_TABLE={table}: up to {MOST_TOKENS} rows, tiles that were not measured",
            ),
        ),
        (
            narrow,
            Route(f"{config.quantization} products", kernels, f"up to {MOST_TOKENS} tokens, widened in registers"),
        ),
        (
            narrow and config.max_num_seqs > MOST_TOKENS,
            Route(
                f"{config.quantization} products beyond {MOST_TOKENS} tokens",
                "cuBLAS",
                f"they widen whole matrices first, no faster than 16 bits; --max-num-seqs {MOST_TOKENS} avoids it",
                slow=True,
            ),
        ),
        (not captured, Route("decode steps", "operator by operator", "--step-graphs off", slow=True)),
        (captured, Route("decode steps", "CUDA graphs", f"padded to {len(BUCKETS)} sizes up to {most_rows} rows")),
        (
            captured and config.max_num_seqs > most_rows,
            Route(
                "larger decode steps",
                "operator by operator",
                f"steps of more than {most_rows} rows are not captured; lower --max-num-seqs",
                slow=True,
            ),
        ),
    )
    return [route for applies, route in possible if applies]


def _products(config: EngineConfig, device: torch.device, model: ModelConfig, ranks: int) -> list[Route]:
    """A line for each product of the model that the table in use has rows for."""
    shard, name = Shard.of(model, 0, ranks), torch.cuda.get_device_name(device)
    hidden, features, width = model.hidden_size, shard.intermediate_size, shard.num_heads * model.head_dim
    shapes = (
        ("qkv", Product.PLAIN, width + 2 * shard.num_kv_heads * model.head_dim, hidden),
        ("o", Product.PLAIN, hidden, width),
        ("gate_up", Product.GATED, 2 * features, hidden),
        ("down", Product.PLAIN, hidden, features),
        ("head", Product.HEAD, shard.vocab_size, hidden),
    )
    codes = {"none": model.dtype, "int8": torch.int8, "fp8": FLOAT8}[config.quantization]
    found = []
    for product, kind, out, inner in shapes:
        stored = model.dtype if product == "head" and config.quantization == "fp8" else codes
        key = name, kind, str(stored)[6:], out, inner
        rows = [row for row in read_choices(table_in_use()) if row.holds(key, row.tokens)]
        if rows:
            rival, rest = "cuBLAS", "cuBLAS"
            if stored.itemsize == 1:
                rival, rest = "default tiles", "ours, default tiles"
            why = [f"{r.least} to {r.tokens} rows ours, {r.ours_us:.1f} us, {rival} {r.rival_us:.1f}" for r in rows]
            why.append(f"the rest {rest}")
            found.append(Route(f"{product}, {out:,} x {inner:,}", "as measured on this GPU", "; ".join(why)))
    return found


def limits_of(config: EngineConfig, model: ModelConfig, device: Device, ranks: int) -> Limits:
    """The limits of the model as it is configured."""
    size = model.dtype.itemsize
    return Limits(
        shape=model,
        device=device,
        tensor_parallel_size=ranks,
        weight_bytes=size if config.quantization == "none" else 1,
        kv_bytes=1 if config.kv_cache_dtype == "fp8" else size,
        head_bytes=1 if config.quantization == "int8" else size,
    )


def fit(config: EngineConfig, model: ModelConfig, device: torch.device, ranks: int) -> Fit:
    """What would fit beside the weights in the memory that is free now. Raises InputError as the engine would."""
    limits = limits_of(config, model, UNKNOWN, ranks)
    weights = int(limits.resident_bytes / ranks)
    heads = Shard.of(model, 0, ranks).num_kv_heads
    kv_bytes = 2 * model.num_layers * heads * model.head_dim * int(limits.kv_bytes)
    size, length = config.page_size, model_length(config, model)
    left = max(0, free_bytes(device, ranks) - weights)
    pages = pages_that_fit(config, left, device.type, kv_bytes * size, length, size)
    context = min(length, pages * size)
    sequences = min(config.max_num_seqs, pages // max(1, -(-context // size))) if pages else 0
    return Fit(weights, kv_bytes, pages, size, context, sequences)


def limiting_device(device: torch.device, step_bytes: float) -> Device:
    """What bounds a step that reads `step_bytes`: published rates of a known GPU; of a CPU, how fast it reads memory
    now (a tenth of a second). `UNKNOWN` for other GPUs, and for a model that a CPU's caches hold."""
    if device.type == "cuda":
        return known_device(torch.cuda.get_device_name(device)) or UNKNOWN
    if not native.LOADED or step_bytes < max(_cache_bytes(), _LEAST_CACHE):
        return UNKNOWN
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    buffer = torch.zeros(max(_READ_BYTES, 2 * _cache_bytes()), dtype=torch.int8)
    rate = len(buffer) / min(timeit.repeat(lambda: native.read(buffer), number=1, repeat=3))
    name = f"this CPU, which reads {rate / 1e9:.3g} GB/s now"
    return Device(name, rate, float("inf"), float(memory), gpu=False)


def _cache_bytes() -> int:
    """The last cache's size; 0 where the system does not tell."""
    text = _CACHE_SIZE.read_text().strip() if _CACHE_SIZE.exists() else ""
    return int(text[:-1]) << 10 if text.endswith("K") and text[:-1].isdigit() else 0


def start_lines(
    config: EngineConfig, model: ModelConfig, device: torch.device, ranks: int, pool_tokens: int
) -> list[str]:
    """What is told when an engine starts: one line with the pool and, on a GPU of known rates, the limit, and one for
    each slow path. How fast a CPU reads memory is not measured for it: that takes a second, and a buffer as large as a
    small model."""
    known = known_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    limits = limits_of(config, model, known or UNKNOWN, ranks)
    slow = [route for route in routes(config, model.dtype, device) if route.slow]
    return [summary(limits, pool_tokens), *(f"slow: {route.operator} by {route.runs}: {route.why}" for route in slow)]


def predicted(config: EngineConfig, model: ModelConfig, device: torch.device, ranks: int) -> Limits:
    """The limits on this very device."""
    streamed = limits_of(config, model, UNKNOWN, ranks).streamed_bytes
    return limits_of(config, model, limiting_device(device, streamed), ranks)
