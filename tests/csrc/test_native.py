"""Finding the library, choosing its instruction set, and doing without it."""

import os
import struct
import subprocess
import sys
from ctypes import c_int32, c_int64, c_void_p
from pathlib import Path

import pytest

from engine.request import TokenKind
from kernels.errors import KernelError
from kernels.native import abi
from kernels.native import library as native
from kernels.thinking_tables import Kind

ROOT = Path(__file__).parents[2]
RUN = "from kernels.native import library as native; print(native.LOADED and native.LEVEL)"


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_reason_is_given_exactly_where_the_library_is_missing():
    assert (native.REASON == "") == native.LOADED


@pytest.mark.skipif(not native.LOADED, reason=native.REASON)
def test_level_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert native.LIBRARY is not None
    best = native.LIBRARY.s1_level()
    for level in ("", *native.LEVELS[: best + 1]):
        monkeypatch.setenv("S1_CPU_LEVEL", level)
        assert native._pick_level(native.LIBRARY) == (level or native.LEVELS[best])
    monkeypatch.setenv("S1_CPU_LEVEL", "sse9")
    with pytest.raises(KernelError, match="S1_CPU_LEVEL is 'sse9'; leave it unset or give one of portable, avx2"):
        native._pick_level(native.LIBRARY)
    if best + 1 < len(native.LEVELS):
        monkeypatch.setenv("S1_CPU_LEVEL", native.LEVELS[-1])
        with pytest.raises(KernelError, match=f"and this processor runs {native.LEVELS[best]} at most; unset it"):
            native._pick_level(native.LIBRARY)
    assert python(RUN, S1_CPU_LEVEL="portable").stdout.strip() == "portable"


def test_operators_without_the_library():
    """As after an install with no compiler: the definitions run, and the reason is there to be shown."""
    code = """
import importlib.util
import torch
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "kernels._cpu" else found(name, *rest)
from kernels.native import library as native
from kernels.linear import linear, pack
from kernels.weights import LinearWeight
w = pack(LinearWeight(torch.ones(3, 2)))
print(native.LOADED, w.packed, linear(torch.ones(1, 2), w).tolist())
print(native.REASON)
"""
    lines = python(code, S1_CPU_LIBRARY="").stdout.splitlines()
    assert lines[0] == "False None [[2.0, 2.0, 2.0]]"
    assert "was not built" in lines[1]


def test_the_header_is_the_declared_one():
    """`python -m kernels.native.abi` makes it; a column or an argument changed in Python alone ends here."""
    assert abi.HEADER.read_text() == abi.header()


def test_a_library_of_another_interface_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Built before a column moved, it would load and read one column for another."""
    source, library = tmp_path / "stale.c", tmp_path / "stale.so"
    source.write_text("unsigned long long s1_interface(void) { return 7; }\nint s1_level(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setenv("S1_CPU_LIBRARY", str(library))
    opened, reason = native._open()
    assert opened is None and "another version" in reason and "pip install" in reason


def test_every_argument_is_declared():
    """ctypes converts by these: a pointer as int32 would be cut in half."""
    assert abi.SIGNATURES["silu_mul"] == [c_void_p, c_void_p, c_int64, c_int64, c_int32, c_int32]
    assert abi.fields("S1Weight")[:2] == [("data", c_void_p), ("bias", c_void_p)]
    assert abi.fields("S1Layer")[1:4] == [("qkv", c_void_p), ("qk_norm", c_void_p), ("output", c_void_p)]
    assert [name for name, _ in abi.fields("S1Decoder")][-3:] == ["eps", "scale", "type"]
    assert [(k.name, k.value) for k in Kind] == [(k.name, k.value) for k in TokenKind]


@pytest.mark.skipif(not native.LOADED, reason=native.REASON)
def test_nothing_of_a_level_runs_when_the_library_is_loaded():
    """A constructor of a static object is compiled for its file's level and runs before one is picked: on a processor
    without AVX-512 the import was its end. What may be there is the toolchain's own: frame_dummy and what asks the
    processor (__cpu_indicator_init), an address each in .init_array."""
    assert native.LIBRARY is not None
    if "asan" in Path("/proc/self/maps").read_text():
        pytest.skip("built with sanitizers, which register every file at load time")
    assert len(init_array(Path(native.LIBRARY._name).read_bytes())) <= 2


def init_array(elf: bytes) -> list[int]:
    """What a 64-bit little-endian ELF file calls when it is loaded (DT_INIT_ARRAY, its size from DT_INIT_ARRAYSZ)."""
    assert elf[:6] == b"\x7fELF\x02\x01"
    (start,), (size, count) = struct.unpack_from("<Q", elf, 32), struct.unpack_from("<HH", elf, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", elf, start + i * size) for i in range(count)]
    offset, length = next((s[2], s[5]) for s in segments if s[0] == 2)  # PT_DYNAMIC
    dynamic = dict(struct.iter_unpack("<QQ", elf[offset : offset + length]))
    return list(range(dynamic.get(27, 0) // 8))
