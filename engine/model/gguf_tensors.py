"""The tensors of a GGUF file, dequantised where they are asked for."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError, first_line
from engine.model.gguf_header import BLOCKS, GgufTensor, of_every_layer, read_header

_PLAIN = {"F32": np.float32, "F16": np.float16}
_AT_ONCE = 1 << 17
"""Elements that are dequantised at a time: more would leave the processor's caches."""


class GgufTensors:
    """The tensors of an open GGUF file by Hugging Face's names, as safetensors' `safe_open` gives them; a context."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self._path, self._tensors, self._heads = path, header.tensors, {}
        if header.values.get("general.architecture") == "llama":
            heads = header.values.get("llama.attention.head_count", 0)
            kv_heads = of_every_layer(header.values.get("llama.attention.head_count_kv", heads))
            self._heads = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}

    def __enter__(self) -> "GgufTensors":
        self._file = self._path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get_slice(self, name: str) -> "GgufSlice":
        """What gives float32 tensors for `[rows]` and `[rows, columns]`."""
        heads = next((heads for part, heads in self._heads.items() if f".{part}." in name), None)
        return GgufSlice(self, self._tensors[name], heads)

    def read(self, tensor: GgufTensor, first: int, rows: int) -> np.ndarray:
        """[rows, columns] float32: so many rows from `first` on."""
        width = tensor.size // tensor.rows
        self._file.seek(tensor.at + first * width)
        read = self._file.read(rows * width)
        if len(read) < rows * width:
            raise InputError(f"{self._path} is cut off; fetch it again")
        data = np.frombuffer(read, np.uint8).reshape(rows, width)
        if tensor.dtype in _PLAIN:
            return data.view(_PLAIN[tensor.dtype]).astype(np.float32, copy=False)
        if tensor.dtype == "BF16":
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        try:
            from gguf.constants import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise InputError(
                f"{self._path}: the package gguf, which reads {tensor.dtype}, is missing ({first_line(error)}); "
                "install it with `pip install gguf`"
            ) from None
        with np.errstate(all="ignore"):  # a scale may be infinite: the checkpoint's own matter
            # As one long row: the package goes through sixteen at a time.
            values = dequantize(data.reshape(1, -1), GGMLQuantizationType(BLOCKS[tensor.dtype][0]))
        return values.reshape(rows, -1)


class GgufSlice:
    """A tensor that is dequantised where it is asked for, some rows at a time."""

    def __init__(self, tensors: GgufTensors, tensor: GgufTensor, heads: int | None) -> None:
        self._tensors, self._tensor, self._heads = tensors, tensor, heads

    def __getitem__(self, index: slice | tuple[slice, slice]) -> Tensor:
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        one = len(self._tensor.shape) == 1
        if one:
            rows, columns = slice(None), rows
        start, stop, _ = rows.indices(self._tensor.rows)
        num_columns = self._tensor.shape[-1]
        # numpy alone: a parallel region of torch's for every piece would cost more than the piece
        found = np.empty((stop - start, len(range(num_columns)[columns])), np.float32)
        step = max(1, _AT_ONCE // num_columns)
        for first in range(start, stop, step):
            part = self._tensors.read(self._tensor, first, min(step, stop - first))
            found[first - start : first - start + step] = part[:, columns]
        if self._heads and not one:
            # ggml rotates neighbours, Hugging Face halves: within each head its rows lie interleaved.
            pairs = self._tensor.rows // self._heads // 2
            found = found.reshape(-1, pairs, 2, found.shape[1]).swapaxes(1, 2).reshape(found.shape)
        return torch.from_numpy(found[0] if one else found)
