"""The safetensors files of a Hugging Face directory: where each tensor is, and its shape."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from engine.errors import InputError, first_line, refuse
from engine.json_file import read_object
from engine.model.embedded import EMBEDDED, NAMES

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = ("F32", "BF16", "F16")
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "merges.txt"]


def resolve(model: str) -> Path:
    """The local directory of `model`: itself where it is one, else that of s1-nano by its name, else the snapshot of
    that hub id (fetched if need be)."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model in NAMES and EMBEDDED.is_dir():
        return EMBEDDED
    if path.exists():
        raise InputError(f"model {model!r} is a file; give its directory")
    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except HFValidationError:
        raise InputError(f"model {model!r} is no directory, nor the form of a hub id; check the path") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"model {model!r} is no directory and cannot be fetched as a hub id "
            f"({first_line(error)}); check the name, or download it and give the directory"
        ) from None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: the file that holds it, its element type as the file names it, its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in `directory`, by name, from the files' headers alone.

    `model.safetensors`, else the files that `model.safetensors.index.json` lists, else all `*.safetensors`.
    Raises InputError, naming file and tensor, where files are missing, pickled, truncated or contradict each other.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    listed: Mapping[str, str] = {}
    if single.is_file():
        files = [single]
    elif index.is_file():
        listed = _read_index(index)
        files = [directory / name for name in sorted(set(listed.values()))]
    else:
        files = sorted(directory.glob("*.safetensors"))
    if not files:
        _refuse_pickled(directory)
        raise InputError(f"{directory} holds no safetensors file; give a checkpoint directory, or load_format dummy")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _read_header(file).items():
            if name in tensors:
                raise InputError(f"{file}: {name} is also in {tensors[name].file.name}; remove one of the files")
            tensors[name] = tensor
    for name, file_name in listed.items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise InputError(f"{directory / file_name}: {name} is missing, though {index.name} lists it; copy it again")
    return tensors


def _read_index(index: Path) -> Mapping[str, str]:
    try:
        listed = read_object(index)["weight_map"]
        wrong = next((name for name in listed.values() if Path(name).name != name), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} has no readable weight_map ({error!r}); copy it again") from None
    if wrong is not None:
        raise InputError(f"{index} lists {wrong!r}; its files must lie beside it")
    return listed


def _refuse_pickled(directory: Path) -> None:
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise InputError(
            f"{directory / pickled[0]}: pickled weights can run code and are not read; convert them with transformers: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)"
        )


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """https://huggingface.co/docs/safetensors: header length (8 bytes), JSON header, then the tensors' bytes."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            text = stream.read(length) if 0 < length <= _MAX_HEADER_BYTES else b""
    except FileNotFoundError:
        raise InputError(f"{file} is missing; copy it into the checkpoint directory") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error})") from None
    refuse(
        (start == b"version ", f"{file} is a Git LFS pointer, not the weights; run `git lfs pull`"),
        (
            not text or len(text) < length,
            f"{file} is truncated or no safetensors file ({size} bytes); copy it again",
        ),
    )
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        found = {
            name: (StoredTensor(file, entry["dtype"], tuple(entry["shape"])), entry["data_offsets"][1])
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"{file} has no readable safetensors header ({error!r}); copy it again") from None
    for name, (tensor, end) in sorted(found.items(), key=lambda item: item[1][1]):
        last = 8 + length + end
        refuse(
            (last > size, f"{file} is truncated: {name} ends at byte {last} of {size}; copy it again"),
            (tensor.dtype not in _FLOATS, f"{file}: {name} is {tensor.dtype}; supported are {', '.join(_FLOATS)}"),
        )
    return {name: tensor for name, (tensor, _) in found.items()}
