"""A checkpoint: a directory in the Hugging Face layout, or a GGUF file. Where each tensor is, and its shape."""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec

from engine.errors import InputError, first_line, plain, refuse, shown
from engine.input_file import open_regular
from engine.json_file import read_object
from engine.model.embedded import EMBEDDED, NAMES
from engine.model.gguf_header import is_gguf, read_header

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes of an element."""
_MAX_HEADER_BYTES = 1 << 25
"""A tensor takes about 100 of them. The format's own limit is three times that, and so many entries take gigabytes."""
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "merges.txt"]


def resolve(model: str) -> Path:
    """The local directory of `model`, or its GGUF file: itself where it is one, else s1-nano's by its name, else the
    snapshot of that hub id (fetched if need be)."""
    named = plain(repr(str(model)), 300)
    try:
        path = Path(model).expanduser()
        if path.is_dir() or (is_gguf(path) and path.exists()):
            return path
        if path.exists() or is_gguf(path):
            raise InputError(
                f"model {named} is {'a file' if path.exists() else 'missing'}; give its directory, or a .gguf file"
            )
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise InputError(f"model {named} is no directory ({first_line(error)}); check the path") from None
    if model in NAMES and EMBEDDED.is_dir():
        return EMBEDDED
    # Only here, where its second of imports buys something.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except HFValidationError:
        raise InputError(f"model {named} is no directory, nor the form of a hub id; check the path") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"model {named} is no directory and cannot be fetched as a hub id "
            f"({first_line(error)}); check the name, or download it and give the directory"
        ) from None


def text_folder(model: Path) -> Path | None:
    """Where the tokenizer.json of `model` lies and the JSON files that go with it: the directory that it is, or the one
    around a GGUF file; None where that has no tokenizer.json, and the file says all."""
    if not is_gguf(model):
        return model
    return model.parent if os.path.lexists(model.parent / "tokenizer.json") else None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: the file that holds it, its element type as the file names it, its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in `directory`, by name, from the files' headers alone.

    Those of the GGUF file that `directory` is, else `model.safetensors`, else the files that
    `model.safetensors.index.json` lists, else all `*.safetensors`.
    Raises InputError, naming file and tensor, where files are missing, pickled, truncated or contradict each other.
    """
    if is_gguf(directory):
        header = read_header(directory)
        return {name: StoredTensor(directory, tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()}
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    listed: Mapping[str, str] = {}
    if os.path.lexists(single):
        files = [single]
    elif os.path.lexists(index):
        listed = _read_index(index)
        files = [directory / name for name in sorted(set(listed.values()))]
    else:
        files = sorted(directory.glob("*.safetensors"))
    if not files:
        _refuse_pickled(directory)
        raise InputError(f"{directory} holds no safetensors file; give a checkpoint directory, or load_format dummy")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in safetensors_header(file).items():
            if name in tensors:
                raise InputError(f"{file}: {name} is also in {tensors[name].file.name}; remove one of the files")
            tensors[name] = tensor
    for name, file_name in listed.items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise InputError(f"{directory / file_name}: {name} is missing, though {index.name} lists it; copy it again")
    return tensors


def _read_index(index: Path) -> Mapping[str, str]:
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict):
        raise InputError(f"{index} has no readable weight_map; copy it again")
    for name in listed.values():
        if not isinstance(name, str) or not name.isprintable() or Path(name).name != name:
            raise InputError(f"{index} lists {shown(name)}; its files must lie beside it")
    return listed


def _refuse_pickled(directory: Path) -> None:
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise InputError(
            f"{directory / pickled[0]}: pickled weights can run code and are not read; convert them with transformers: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)"
        )


_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct):
    """A tensor in a header."""

    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


def safetensors_header(file: Path) -> dict[str, StoredTensor]:
    """https://huggingface.co/docs/safetensors: header length (8 bytes), JSON header, then the tensors' bytes."""
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            text = stream.read(length) if 0 < length <= _MAX_HEADER_BYTES else b""
    except FileNotFoundError:
        raise InputError(f"{file} is missing; copy it into the checkpoint directory") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    refuse(
        (start == b"version ", f"{file} is a Git LFS pointer, not the weights; run `git lfs pull`"),
        (
            not text or len(text) < length,
            f"{file} is truncated or no safetensors file ({size} bytes); copy it again",
        ),
    )
    name = ""
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries: dict[str, _Entry] = {}
        for name, value in raw.items():
            entries[name] = msgspec.json.decode(value, type=_Entry)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        of = f" for {shown(name)}" if name else ""
        raise InputError(
            f"{file} has no readable safetensors header{of} ({first_line(error)}); copy it again"
        ) from None
    _check_header(file, entries, 8 + length, size)
    return {name: StoredTensor(file, entry.dtype, tuple(entry.shape)) for name, entry in entries.items()}


def _check_header(file: Path, entries: Mapping[str, _Entry], start: int, size: int) -> None:
    """Raises InputError unless the tensors lie one behind the other from byte `start` of the file's `size`, each as
    long as its shape asks for: a header must not promise more than the file holds."""
    behind = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        (begin, end), width = entry.data_offsets, _FLOATS.get(entry.dtype)
        if start + end > size:
            raise InputError(f"{file} is truncated: {name} ends at byte {start + end} of {size}; copy it again")
        if width is None:
            raise InputError(f"{file}: {name} is {entry.dtype}; supported are {', '.join(_FLOATS)}")
        if begin != behind or end - begin != prod(entry.shape) * width:
            raise InputError(
                f"{file}: {name} of shape {shown(entry.shape)} has the bytes {begin} to {end}: not as many as it takes "
                "or not those behind the tensor before it; copy it again"
            )
        behind = end
