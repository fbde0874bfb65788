"""The files that other engines run are made of the same dequantised weights."""

from pathlib import Path

import pytest
import torch

from bench.decode import weights_of
from engine.errors import InputError
from engine.model.gguf_config import config_values
from engine.model.gguf_header import read_header
from engine.model.gguf_tensors import GgufTensors
from engine.text.gguf_tokenizer import GgufTokenizer
from models import smollm2

ROUNDING = {"F16": (2.0**-11, 2.0**-25), "Q8_0": ((0.5 + 127 * 2.0**-11) / 127, 127 * 2.0**-25)}
"""Of a value, or of the largest in its block, half a step; there the scale is rounded to 16 bits too. And what is
lost at the lower end of 16 bits."""


@pytest.mark.parametrize("kind", ["Q8_0", pytest.param("F16", marks=pytest.mark.slow)])
def test_another_gguf_file(model: Path, tmp_path: Path, kind: str) -> None:
    share, least = ROUNDING[kind]
    written = smollm2.write_gguf(model, kind, tmp_path / "new" / "model.gguf")
    assert GgufTokenizer.load(written) == GgufTokenizer.load(model) and config_values(written) == config_values(model)
    assert weights_of(written) == kind
    with GgufTensors(model) as before, GgufTensors(written) as after:
        assert read_header(written).tensors.keys() == read_header(model).tensors.keys()
        for name, tensor in read_header(written).tensors.items():
            assert tensor.dtype == (kind if len(tensor.shape) == 2 else "F32"), name
            if ".0." in name or ".29." in name or "layers" not in name:
                exact, found = before.get_slice(name)[:], after.get_slice(name)[:]
                sizes = exact.abs() if kind == "F16" else exact.view(-1, 32).abs().amax(1, keepdim=True)
                off = (found - exact).view(sizes.shape[0], -1).abs()
                assert bool((off <= share * sizes.view(off.shape[0], -1) + least).all()), name
                assert len(exact.shape) == 2 or torch.equal(exact, found)
    with pytest.raises(InputError, match="is there already"):
        smollm2.write_gguf(model, kind, written)
    assert [file.name for file in written.parent.iterdir()] == [written.name]
