"""The tests as a lesser processor runs them: `python -m tests.levels [pytest arguments]`, once for each level of the
native library below this processor's best. The best is what the suite itself runs at."""

import os
import subprocess
import sys
from pathlib import Path

from kernels.native import library as native

ROOT = Path(__file__).parents[1]
FORCED = {
    level: {"S1_CPU_LEVEL": level, "ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_CBWR": mkl}
    for level, aten, onednn, mkl in (
        ("portable", "default", "SSE41", "COMPATIBLE"),
        ("avx2", "avx2", "AVX2", "AVX2"),
        ("avx512", "avx512", "AVX512_CORE_VNNI", "AVX512"),  # without bf16
    )
}
"""Environment by level: all that picks instructions by itself, our library and torch with its oneDNN and MKL."""
RUNS = {
    "avx2": "any x86-64 from Intel Haswell or AMD Zen runs it",
    "avx512": "Intel Xeons from Skylake-SP and AMD from Zen 4 run it",
    "avx512_bf16": "Intel Xeons from Sapphire Rapids and AMD from Zen 4 run it",
}


def missing(level: str) -> str:
    """Why `level` cannot run here and which machine would run it; "" where it can."""
    if native.LIBRARY is None:
        return native.REASON
    best = native.LIBRARY.s1_level()
    if native.LEVELS.index(level) <= best:
        return ""
    return f"{level} is beyond this processor ({native.LEVELS[best]}); {RUNS[level]}"


def run(level: str, arguments: list[str], capture_output: bool = False) -> "subprocess.CompletedProcess[str]":
    """pytest in a process of its own with everything held down to `level`."""
    environment = {**os.environ, **FORCED[level], "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=capture_output)


def main(arguments: list[str]) -> int:
    """The exit status: 0 where the tests pass at every level."""
    failed = []
    for level in native.LEVELS:
        why = missing(level) or ("" if level in FORCED and level != native.LEVEL else "the suite itself runs at it")
        print(f"== {level}: {why or 'forced'}", flush=True)
        if not why and run(level, arguments).returncode:
            failed.append(level)
    print(f"== failed at {', '.join(failed)}" if failed else "== passed at every level below the best")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
