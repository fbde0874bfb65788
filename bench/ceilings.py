"""`python -m bench.ceilings`: what the machine can do; every benchmark measures it in the run that it judges by it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from bench import processes, record, stand_in, timing
from bench.command import Resumed, Threaded, check, command
from kernels import huge_pages, limits
from kernels.native import library as native

_UNITS = {"copy_GBps": 1e9, "read_GBps": 1e9, "matmul_TFLOPs": 1e12, "fp8_TFLOPs": 1e12, "memory_GB": 1e9}
"""What records call each ceiling, in their order."""


@dataclass(frozen=True)
class Ceilings:
    """bytes/s and FLOP/s. A copy moves each byte twice (read and written), and both count. None: cannot run here.

    `flops` is of bf16 products; on a CPU of float32 ones where they are faster, as without bf16 instructions.
    """

    copy: float
    read: float
    flops: float
    fp8_flops: float | None
    memory: float
    """bytes of the device; of the machine for a CPU"""

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Self:
        """From those of a record."""
        return cls(*(figures[key] and figures[key] * unit for key, unit in _UNITS.items()))

    def figures(self) -> dict[str, float | None]:
        """As records tell them."""
        return {key: value and value / unit for value, (key, unit) in zip(astuple(self), _UNITS.items(), strict=True)}

    def limits_of(self, device: torch.device) -> limits.Device:
        """For `kernels.limits`: a GPU is judged by its copy bandwidth; a CPU by reads, which is what decoding does and
        which a copy's write-allocate traffic would understate."""
        gpu = device.type == "cuda"
        return limits.Device(device.type, self.copy if gpu else self.read, self.flops, self.memory, gpu=gpu)


FILE = "S1_CEILINGS"
"""Environment variable: a file of records, whose newest ceilings of a GPU are taken instead of measured again."""


def measure(device: torch.device) -> Ceilings:
    """The ceilings of now. A GPU's are measured in a process of their own: its buffers and CUDA context would take some
    gigabytes from what is to be judged."""
    if device.type != "cuda":
        return measure_here(device)
    if found := Resumed(output=Path(os.environ.get(FILE, "")), resume=True).known("ceilings", device):
        return Ceilings.of(found[-1].figures)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "ceilings.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "bench.ceilings", "--device", str(device), "--output", str(output)],
            cwd=record.ROOT,
            capture_output=True,
            text=True,
            preexec_fn=processes.ends_with_its_parent,
        )
        check(done.returncode != 0 and f"bench.ceilings failed: {done.stderr.strip()[-500:]}")
        return Ceilings.of(record.read(output)[-1].figures)


def measure_here(device: torch.device, buffer_bytes: int | None = None, matmul_size: int | None = None) -> Ceilings:
    """Measure `device` in this process, with a buffer far above its caches (CPU: 512 MiB, GPU: 4 GiB) and square
    products."""
    if stand_in.card() is not None:
        device, buffer_bytes, matmul_size = stand_in.device(device), 2**26, 256
    copy, read = _bandwidths(device, buffer_bytes)
    if device.type == "cuda":
        size, memory = matmul_size or 8192, torch.cuda.get_device_properties(device).total_memory
        fp8 = _matmul(device, size, torch.float8_e4m3fn) if torch.cuda.get_device_capability(device) >= (8, 9) else None
        return Ceilings(copy, read, _matmul(device, size, torch.bfloat16), fp8, memory)
    size, memory = matmul_size or 1024, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    flops = _matmul(device, size, torch.float32)
    if _matmul(device, size // 4, torch.bfloat16) > flops / 4:  # without units for it each product takes seconds
        flops = max(flops, _matmul(device, size, torch.bfloat16))
    return Ceilings(copy, read, flops, None, memory)


def later(before: Ceilings, device: torch.device) -> Ceilings:
    """`before` with the bandwidths of now. What a processor shares with its neighbours drifts by tens of percent within
    minutes, so a CPU figure is judged by what was measured beside it."""
    copy, read = _bandwidths(device)
    return replace(before, copy=copy, read=read)


def _bandwidths(device: torch.device, buffer_bytes: int | None = None) -> tuple[float, float]:
    """(copy, read) in bytes/s: one half onto the other, and all of it."""
    half = (buffer_bytes or (2**32 if device.type == "cuda" else 2**29)) // 16
    buffer = huge_pages.empty((2 * half,), torch.int64, device).fill_(1)
    copy = 2 * 8 * half / timing.repeat(partial(buffer[half:].copy_, buffer[:half]), device, cold=False).best
    reads = (torch.sum, native.read) if native.LOADED and device.type == "cpu" else (torch.sum,)
    return copy, max(16 * half / timing.repeat(partial(reader, buffer), device, cold=False).best for reader in reads)


def _matmul(device: torch.device, size: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = partial(torch.matmul, a, b)
    if dtype == torch.float8_e4m3fn:
        one = torch.ones((), device=device)
        product = partial(torch._scaled_mm, a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    return 2 * size**3 / timing.repeat(product, device, cold=False).median


def main(options: Threaded) -> None:
    """Measure, print, append."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found = measure_here(device)
    fp8 = "" if found.fp8_flops is None else f", fp8 {found.fp8_flops / 1e12:.4g} TFLOP/s"
    print(
        f"{record.device_name(device)}: copy {found.copy / 1e9:,.4g} GB/s, read {found.read / 1e9:,.4g} GB/s, "
        f"matmul {found.flops / 1e12:.4g} TFLOP/s{fp8}"
    )
    record.Machine.read(device).write(options.output, "ceilings", {}, found.figures())


if __name__ == "__main__":
    command(Threaded, main)
