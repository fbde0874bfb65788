"""Target: a GGUF file."""

import struct
from functools import cache

from gguf import GGUFReader
from hypothesis import strategies as st

from tests.fuzz import checkpoint
from tests.fuzz.contract import promise
from tests.fuzz.model_files import use_tokenizer
from tests.fuzz.target import Target
from tests.fuzz.values import cut
from tests.gguf_files import write_gguf

_NUMBERS = tuple(
    struct.pack("<Q", number)
    for number in (0, 1, 2, 7, 8, 9, 255, 1 << 16, 1 << 21, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1)
)
_FLOATS = tuple(struct.pack("<f", number) for number in (0.0, -1.0, 1e30, float("inf"), float("nan")))
Case = tuple[tuple[tuple[int, bytes], ...], tuple[tuple[str, int, int], ...]]
"""Bytes that are written over others, each from the start of one of the header's parts on; then cuts of the file."""


@cache
def _file() -> tuple[bytes, list[int]]:
    """A good one, and where the parts of its header begin: lengths, types, numbers."""
    path = checkpoint.scratch() / "good.gguf"
    write_gguf(path, checkpoint.folder(), kind="F16", more={"qwen2.rope.scaling.type": "none"})
    reader = GGUFReader(str(path))
    places = [8, 16]
    for field in [*reader.fields.values(), *(tensor.field for tensor in reader.tensors)]:
        at = field.offset
        for part in field.parts[:40]:
            places.append(at)
            at += part.nbytes
    return path.read_bytes(), places


def _run(case: Case) -> None:
    data, places = bytearray(_file()[0]), _file()[1]
    for number, value in case[0]:
        at = places[number % len(places)]
        data[at : at + len(value)] = value
    path = checkpoint.scratch() / "bad.gguf"
    path.write_bytes(cut(bytes(data), case[1]))
    promise(use_tokenizer, path)


_cuts = st.tuples(st.sampled_from(("end", "flip", "drop", "zero")), st.integers(0, 10_000), st.integers(1, 255))
TARGETS = (
    Target(
        "GGUF file",
        st.tuples(
            st.lists(st.tuples(st.integers(0, 4000), st.sampled_from(_NUMBERS + _FLOATS)), max_size=3).map(tuple),
            st.lists(_cuts, max_size=2).map(tuple),
        ),
        _run,
        quick=20,
    ),
)
