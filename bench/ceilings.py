"""What the machine can do, measured in the run that is judged by it: copy and read bandwidth, matrix products."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import torch

from bench.timing import repeat
from kernels.limits import Device


@dataclass(frozen=True)
class Ceilings:
    """bytes/s and FLOP/s. A copy moves each byte twice (read and written), and both count. None: cannot run here."""

    copy: float
    read: float
    bf16_flops: float
    fp8_flops: float | None = None

    def limits_of(self, device: torch.device) -> Device:
        """For `kernels.limits`: a GPU is judged by its copy bandwidth; a CPU by reads, which is what decoding does and
        which a copy's write-allocate traffic would understate."""
        bandwidth = self.copy if device.type == "cuda" else self.read
        return Device(device.type, bandwidth, self.bf16_flops, memory_bytes(device))


def memory_bytes(device: torch.device) -> int:
    """All of the device's memory; for the CPU the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(device: torch.device, buffer_bytes: int | None = None, matmul_size: int | None = None) -> Ceilings:
    """Measure `device` with buffers far above its caches (CPU: 512 MiB, GPU: 2 GiB) and square bf16 products."""
    cuda = device.type == "cuda"
    count = (buffer_bytes or (2**31 if cuda else 2**29)) // 8
    source = torch.zeros(count, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    copy = 2 * 8 * count / repeat(partial(target.copy_, source), device, cold=False).best
    read = 8 * count / repeat(partial(torch.sum, source), device, cold=False).best
    del source, target
    size = matmul_size or (8192 if cuda else 1024)
    return Ceilings(copy, read, _matmul(device, size, torch.bfloat16), _fp8_matmul(device, size) if cuda else None)


def _matmul(device: torch.device, size: int, dtype: torch.dtype) -> float:
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / repeat(lambda: a @ b, device, cold=False).median


def _fp8_matmul(device: torch.device, size: int) -> float | None:
    if torch.cuda.get_device_capability(device) < (8, 9):
        return None
    a = torch.randn(size, size, device=device).to(torch.float8_e4m3fn)
    b = torch.randn(size, size, device=device).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)
    seconds = repeat(
        lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), device, cold=False
    ).median
    return 2 * size**3 / seconds
