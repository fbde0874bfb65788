"""Ahead-of-time compilation of the Triton kernels for sm_90 on any machine, and what the machine code says.

`triton.compile` needs no GPU; ptxas, cuobjdump and nvdisasm come with Triton. Tests assert on `Compiled`, and
`python -m bench.aot` writes the table of all production cases.
"""

import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels.errors import KernelError
from kernels.language import ASTSource, GPUTarget, require_triton, triton

LAUNCH_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "launch_pdl")

_PATTERNS = {
    **{name: rf"\b{re.escape(name)}\b" for name in ("HGMMA", "HMMA", "LDGSTS", "UTMALDG", "LDL", "STL", "LDG.E.128")},
    "LDGSTS.128": r"\bLDGSTS\.E(\.\w+)*\.128\b",
    "division of 64 bits": r"\bCALL\S* .*_(div|rem)_[su]64",
}
"""What is counted in a disassembly."""

SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory one block may use on sm_90 (CUDA C++ Programming Guide, technical specifications)."""


@dataclass(frozen=True)
class Case:
    """One kernel in one production configuration.

    `arguments` gives every runtime argument's type in Triton's notation (`*bf16`, `i32`, `fp32`); an argument left out
    is None. `constants` gives the constexprs, num_warps and num_stages. `dot_rows` is the M side of the kernel's
    `tl.dot` tile, 0 where it has none: 64 rows or more must become HGMMA (wgmma), fewer HMMA (mma.sync).
    """

    name: str
    kernel: Any
    arguments: dict[str, str]
    constants: dict[str, Any]
    dot_rows: int = 0


@dataclass(frozen=True)
class Compiled:
    """What ptxas and the disassembly say: registers per thread, bytes of stack (spills) and of shared memory, how often
    the instructions of interest occur, and how many there are in all, which is what compiling takes its time for."""

    name: str
    registers: int
    stack: int
    shared: int
    num_warps: int
    instructions: dict[str, int] = field(default_factory=dict)
    length: int = 0
    """Instructions of the kernel."""
    compile_s: float = 0.0
    """Seconds, on whatever compiled it: a record, not a promise."""

    @property
    def warps_per_sm(self) -> int:
        """Warps resident on one multiprocessor of sm_90: 65,536 registers, 228 KB shared, at most 64 warps."""
        by_registers = 65536 // (max(self.registers, 1) * 32 * self.num_warps)
        by_shared = (228 * 1024) // max(self.shared + 1024, 1)
        return min(by_registers, by_shared, 64 // self.num_warps) * self.num_warps


def _tool(name: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise KernelError(f"{path} does not exist; this Triton build brings no {name}")
    return str(path)


def compile_case(case: Case) -> Compiled:
    """Compile for sm_90, then read the resource usage and the instructions from the machine code."""
    start = time.perf_counter()
    binary = binary_of(case)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(binary.asm["cubin"])
        usage = subprocess.run([_tool("cuobjdump"), "-res-usage", cubin], capture_output=True, text=True, check=True)
        listing = subprocess.run([_tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage.stdout)}
    counts = {name: len(re.findall(pattern, listing.stdout)) for name, pattern in _PATTERNS.items()}
    return Compiled(
        case.name,
        found["REG"],
        found["STACK"] + found["LOCAL"],
        binary.metadata.shared,
        case.constants.get("num_warps", 4),
        counts,
        len(re.findall(r"/\*[0-9a-f]{4,}\*/", listing.stdout)),
        seconds,
    )


def binary_of(case: Case) -> Any:
    """Triton's compiled kernel for sm_90; `asm` has its "ptx" and "cubin"."""
    require_triton()
    names = case.kernel.arg_names
    options = {name: case.constants[name] for name in LAUNCH_OPTIONS if name in case.constants}
    constants = {name: case.constants.get(name) for name in names if name not in case.arguments}
    signature = {name: case.arguments.get(name, "constexpr") for name in names}
    # What the launcher's specialisation finds for torch allocations: pointers are aligned to 16 bytes.
    varying = {parameter.name for parameter in case.kernel.params if parameter.do_not_specialize_on_alignment}
    pointers = [name for name, kind in case.arguments.items() if kind[0] == "*" and name not in varying]
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    source = ASTSource(case.kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
