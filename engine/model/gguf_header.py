"""What the header of a GGUF file says: metadata by key, and where each tensor lies.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader keeps an array object for
every token and trusts all counts: three seconds for a vocabulary of 50,000, and no bound for a bad file.
"""

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import InputError, refuse, shown
from engine.input_file import open_regular

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's letter for each type of value."""
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_COUNT, _MOST_ITEMS, _MOST_STRING, _MOST_NAME = 1 << 16, 1 << 21, 1 << 22, 256
"""Keys, or tensors; values of all lists; bytes of a string, and of a name: each beyond that of any known file."""
_MOST_BYTES = 1 << 26
"""Of the header. The largest vocabularies take a sixth of it."""
_MOST_DIMENSIONS = 4
BLOCKS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
"""The types that are read: number, elements of a block, its bytes."""
_LAYER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LENGTH = struct.Struct("<Q").unpack
_TYPES = {number: name for name, (number, _, _) in BLOCKS.items()}


def is_gguf(path: Path) -> bool:
    """Whether this is meant as a GGUF file, by its name; a folder is none."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the file holds it."""

    dtype: str
    """One of BLOCKS."""
    shape: tuple[int, ...]
    """As Hugging Face counts: rows, then columns."""
    at: int
    """Its first byte in the file."""

    @property
    def rows(self) -> int:
        """Of a matrix; a vector is one."""
        return prod(self.shape[:-1])

    @property
    def size(self) -> int:
        """Bytes."""
        _, elements, width = BLOCKS[self.dtype]
        return prod(self.shape) // elements * width


@dataclass(frozen=True)
class Header:
    """`values`: whole numbers, floats, bools, strings and lists of these; `tensors` by Hugging Face's names, where it
    has one."""

    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path, texts: bool = False) -> Header:
    """The header of the GGUF file `path`; without `texts`, lists of strings (the vocabulary) are skipped and empty.

    Raises InputError, naming the file and the fault, where it is cut off, damaged, or holds types that are not read.
    """
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            if not texts:
                return _without_texts(path, found.st_size, found.st_mtime_ns)
            return _Reader(path, file, found.st_size, texts).header()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


@lru_cache(maxsize=4)  # configuration, check and weights ask for it, one after the other
def _without_texts(path: Path, size: int, changed: int) -> Header:
    with open_regular(path) as file:
        return _Reader(path, file, size, texts=False).header()


def of_every_layer(value: Any) -> Any:
    """One number where all layers have the same."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


class _Reader:
    """Every length is held against what is left of the file before anything is read or allocated."""

    def __init__(self, path: Path, file: BinaryIO, size: int, texts: bool) -> None:
        self._path, self._file, self._size, self._texts = path, file, size, texts
        self._read, self._items = 0, 0

    def header(self) -> Header:
        magic = self._file.read(4)
        refuse(
            (magic == b"vers", f"{self._path} is a Git LFS pointer, not the weights; run `git lfs pull`"),
            (magic != b"GGUF", f"{self._path} is no GGUF file: it begins with {shown(magic)}; fetch it again"),
        )
        version = self._one("I")
        if version not in _VERSIONS:
            swapped = version & 0xFFFF == 0
            why = "for big-endian machines" if swapped else f"of version {version}; read are {_VERSIONS}"
            raise InputError(f"{self._path} is a GGUF file {why}; convert the model again")
        num_tensors = self._count("Q", "tensors", _MOST_COUNT)
        values: dict[str, Any] = {}
        for _ in range(self._count("Q", "metadata keys", _MOST_COUNT)):
            key = self._text("a metadata key", _MOST_NAME)
            if key in values:
                raise self._damaged(f"has {shown(key)} twice")
            values[key] = self._value(key, self._one("I"))
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"has general.alignment {shown(alignment)}, which is no power of two")
        told = [self._tensor() for _ in range(num_tensors)]
        start = -(-self._file.tell() // alignment) * alignment
        tensors = {name: GgufTensor(dtype, shape, start + at) for name, dtype, shape, at in told}
        if len(tensors) < num_tensors:
            raise self._damaged("has two tensors of one name")
        self._check_places(tensors)
        return Header(values, tensors)

    def _tensor(self) -> tuple[str, str, tuple[int, ...], int]:
        name = _hugging_face_name(self._text("a tensor's name", _MOST_NAME))
        dimensions = self._count("I", f"dimensions of {shown(name)}", _MOST_DIMENSIONS)
        shape = tuple(reversed([self._one("Q") for _ in range(dimensions)]))
        number, at = self._one("I"), self._one("Q")
        if number not in _TYPES:
            raise InputError(
                f"{self._path}: {shown(name)} is {_type_name(number)}; read are {', '.join(BLOCKS)}. Convert the model "
                "to one of them"
            )
        dtype = _TYPES[number]
        columns = shape[-1] if shape else 0
        if not shape or 0 in shape or columns % BLOCKS[dtype][1]:
            raise self._damaged(f"gives {shown(name)} the shape {shown(list(shape))}, which {dtype} cannot have")
        return name, dtype, shape, at

    def _check_places(self, tensors: Mapping[str, GgufTensor]) -> None:
        placed = sorted(tensors.items(), key=lambda item: item[1].at)
        for (name, tensor), (other, behind) in pairwise(placed):
            if tensor.at + tensor.size > behind.at:
                raise self._damaged(f"has {shown(name)} and {shown(other)} in the same place")
        for name, tensor in placed:
            if tensor.at + tensor.size > self._size:
                raise InputError(
                    f"{self._path} is cut off: {shown(name)} ends at byte {tensor.at + tensor.size:,} of "
                    f"{self._size:,}; fetch it again"
                )

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._text(shown(key), _MOST_STRING)
        if kind != _ARRAY:
            return self._one(self._letter(key, kind))
        of = self._one("I")
        count = self._count("Q", f"values of {shown(key)}", _MOST_ITEMS - self._items)
        self._items += count
        if of != _STRING:
            letter = f"<{count}{self._letter(key, of)}"
            return [*struct.unpack(letter, self._bytes(struct.calcsize(letter)))]
        if self._texts:
            return [self._text("a string", _MOST_STRING) for _ in range(count)]
        for _ in range(count):
            self._string("a string", _MOST_STRING)
        return []

    def _letter(self, key: str, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._damaged(f"gives {shown(key)} the unknown type {kind}")
        return _SCALARS[kind]

    def _text(self, what: str, most: int) -> str:
        data = self._string(what, most)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._damaged(f"has bytes for {what} that are no UTF-8: {shown(data)}") from None

    def _string(self, what: str, most: int) -> bytes:
        size = _LENGTH(self._bytes(8))[0]
        if size > most:  # vocabularies have a hundred thousand of them: nothing else is done for each
            raise self._promises(size, f"bytes of {what}", most)
        return self._bytes(size)

    def _count(self, letter: str, what: str, most: int) -> int:
        count = self._one(letter)
        if count > most:
            raise self._promises(count, what, most)
        return count

    def _promises(self, count: int, what: str, most: int) -> InputError:
        return self._damaged(f"promises {count:,} {what}; at most {most:,} are read")

    def _one(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._bytes(struct.calcsize(f"<{letter}")))[0]

    def _bytes(self, count: int) -> bytes:
        self._read += count
        if self._read > _MOST_BYTES:
            raise self._damaged(f"has a header of more than {_MOST_BYTES:,} bytes")
        data = self._file.read(count)
        if len(data) < count:
            raise InputError(f"{self._path} is cut off in its header ({self._size:,} bytes); fetch it again")
        return data

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self._path} {how}; fetch it again")


def _hugging_face_name(name: str) -> str:
    """What Hugging Face calls a tensor of these architectures; the name itself for others."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found or found[2] not in _LAYER_NAMES:
        return name
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{_LAYER_NAMES[found[2]]}.{found[3]}"


def _type_name(number: int) -> str:
    """What ggml calls a type of tensors."""
    from gguf.constants import GGMLQuantizationType

    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        return f"of the unknown type {number}"
