"""What `engine.doctor` finds: the machine, what fits, which kernels run; and how a person is told."""

import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from engine.build import available_bytes, check_config, resolve_device
from engine.capabilities import fit, predicted, routes
from engine.config import EngineConfig
from engine.model.checkpoint import resolve
from engine.model.config import ModelConfig
from engine.text.tokenizer import Tokenizer
from kernels.language import triton
from kernels.limits import UNKNOWN
from kernels.native import library as native


def machine() -> dict[str, Any]:
    """Processor, memory, GPUs and versions."""
    page = os.sysconf("SC_PAGE_SIZE")
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    cards = [
        (torch.cuda.get_device_properties(i), *torch.cuda.mem_get_info(i)) for i in range(torch.cuda.device_count())
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * page,
        "free_bytes": available_bytes(),
        "gpus": [
            {
                "name": card.name,
                "capability": f"sm_{card.major}{card.minor}",
                "memory_bytes": total,
                "free_bytes": free,
            }
            for card, free, total in cards
        ],
        "native_library": native.LEVEL if native.LOADED else native.REASON,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": None if triton is None else triton.__version__,
    }


def examine(config: EngineConfig) -> dict[str, Any]:
    """Everything, as plain values. Raises InputError for a configuration that the engine would refuse."""
    directory = resolve(config.model)
    check_config(config, directory, Tokenizer.load(directory))
    model = ModelConfig.load(directory, config.dtype, config.device)
    device, ranks = torch.device(resolve_device(config.device)), config.tensor_parallel_size
    room = fit(config, model, device, ranks)
    limits = predicted(config, model, device, ranks)
    context = min(1024, max(1, room.context))
    batches = [] if limits.device is UNKNOWN else [b for b in (1, 8, 64) if b <= max(1, room.tokens // context)]
    return {
        "machine": machine(),
        "model": {
            "path": config.model,
            "parameters": model.num_parameters,
            "dtype": str(model.dtype)[6:],
            "quantization": config.quantization,
            "kv_cache_dtype": config.kv_cache_dtype,
        },
        "device": str(device),
        "ranks": ranks,
        "fits": asdict(room) | {"tokens": room.tokens},
        "limit": {
            "of": limits.device.name,
            "bytes_per_step": limits.streamed_bytes,
            "context": context,
            "step_seconds": {batch: limits.step_seconds(batch, context) for batch in batches},
        },
        "kernels": [asdict(route) for route in routes(config, model.dtype, device, model, ranks)],
    }


def show(found: dict[str, Any]) -> None:
    """For a person."""
    host, model, room, limit = found["machine"], found["model"], found["fits"], found["limit"]
    gib = 2**30
    steps = ", ".join(
        f"{seconds * 1e3:.3g} ms at batch {batch} ({batch / seconds:,.0f} tok/s)"
        for batch, seconds in limit["step_seconds"].items()
    )
    cards = [
        f"{c['name']} ({c['capability']}), {c['free_bytes'] / gib:.1f} of {c['memory_bytes'] / gib:.1f} GiB free"
        for c in host["gpus"]
    ]
    rows = [
        ("processor", f"{host['cpu']}, {host['cores']} cores, {host['threads']} threads"),
        ("memory", f"{host['free_bytes'] / gib:.1f} of {host['memory_bytes'] / gib:.1f} GiB free"),
        *(("GPU", card) for card in cards or ["none"]),
        (
            "software",
            f"Python {host['python']}, torch {host['torch']} "
            f"({'CUDA ' + host['cuda'] if host['cuda'] else 'CPU build'}), Triton {host['triton'] or 'none'}",
        ),
        ("native CPU library", host["native_library"]),
        (
            "model",
            f"{Path(model['path']).name}: {model['parameters'] / 1e6:,.1f} M parameters; {model['dtype']}, "
            f"quantization {model['quantization']}, KV cache {model['kv_cache_dtype']}",
        ),
        (
            "ranks",
            f"{found['ranks']} on {found['device']}, {room['weight_bytes'] / 2**20:,.1f} MiB of weights each",
        ),
        (
            "pages",
            f"{room['pages']:,} of {room['page_size']} tokens: {room['tokens']:,} tokens of "
            f"{room['kv_bytes_per_token'] / 1024:.4g} KiB",
        ),
        ("context", f"{room['context']:,} tokens; {room['sequences']:,} sequences of that length at once"),
        (
            "least time of a step",
            f"{steps}, context {limit['context']:,}; {limit['of']}"
            if steps
            else "not told: the GPU's rates are not known, or the CPU's caches hold the model",
        ),
        *((r["operator"], f"{'slow: ' if r['slow'] else ''}{r['runs']}: {r['why']}") for r in found["kernels"]),
    ]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
