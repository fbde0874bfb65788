"""Reading checkpoints: what is loaded, what is refused and with which words, and how much memory it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import InputError
from engine.model import weights
from engine.model.checkpoint import read_tensors, resolve
from engine.model.config import MAX_POSITIONS, ModelConfig
from engine.model.shard import Shard
from engine.model.weights import Weights
from tests.checkpoints import write_random_checkpoint

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
INDEX = "model.safetensors.index.json"


def load(directory: Path, dtype: str = "auto", rank: int = 0, size: int = 1) -> Weights:
    config = ModelConfig.load(directory, dtype)
    return weights.load(directory, config, Shard.of(config, rank, size), CPU)


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Applies `change` to the tensors of model.safetensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_tensors_land_fused_and_in_the_asked_dtype(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, heads=4, kv_heads=2)
    stored = load_file(directory / "model.safetensors")
    loaded = load(directory, "bfloat16")
    prefix = "model.layers.1."
    for ours, names in (
        (loaded.layers[1].qkv, [f"self_attn.{letter}_proj.weight" for letter in "qkv"]),
        (loaded.layers[1].qkv_bias, [f"self_attn.{letter}_proj.bias" for letter in "qkv"]),
        (loaded.layers[1].gate_up, ["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
        (loaded.layers[1].down, ["mlp.down_proj.weight"]),
    ):
        assert ours is not None and ours.dtype == torch.bfloat16
        assert torch.equal(ours, torch.cat([stored[prefix + name] for name in names]).bfloat16())
    assert torch.equal(loaded.head, stored["lm_head.weight"].bfloat16())


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_files_load_as_float32(stored: torch.dtype, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, dtype=stored)
    assert load(directory).embedding.dtype == stored
    exact = load_file(directory / "model.safetensors")["model.embed_tokens.weight"].float()
    assert torch.equal(load(directory, "float32").embedding, exact)


@pytest.mark.parametrize("index", [True, False])
def test_several_files_with_and_without_index(index: bool, tmp_path: Path) -> None:
    one = load(write_random_checkpoint(tmp_path / "one", layers=3))
    directory = write_random_checkpoint(tmp_path / "many", layers=3, shards=4)
    if not index:
        (directory / INDEX).unlink()
    many = load(directory)
    assert torch.equal(one.embedding, many.embedding)
    for a, b in zip(one.layers, many.layers, strict=True):
        assert torch.equal(a.qkv, b.qkv) and torch.equal(a.down, b.down) and torch.equal(a.mlp_norm, b.mlp_norm)


def test_a_file_is_opened_anew_before_much_of_it_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_random_checkpoint(tmp_path / "one", layers=3)
    config = ModelConfig.load(directory, "auto")
    wanted = list(weights.placements(Weights.allocate(config, Shard.of(config), CPU), config, Shard.of(config)))
    before = load(directory)
    monkeypatch.setattr(weights, "_AT_ONCE", 1000)
    turns = list(weights._in_turn(read_tensors(directory), wanted))
    assert [placement.name for _, placement in turns] == [placement.name for placement in wanted]
    for opening in {at for at, _ in turns}:
        *others, _ = (placement.target.numel() for at, placement in turns if at == opening)
        assert sum(others) < 1000
    after = load(directory)
    assert torch.equal(after.embedding, before.embedding) and torch.equal(after.layers[2].down, before.layers[2].down)


def test_ranks_hold_their_slices(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, heads=4, kv_heads=1, vocab=331, intermediate=96)
    whole, ranks = load(directory), [load(directory, rank=rank, size=2) for rank in range(2)]
    assert torch.equal(torch.cat([r.embedding for r in ranks])[:331], whole.embedding)
    assert not ranks[1].embedding[165:].any(), "the row past the vocabulary is padding"
    for rank, part in enumerate(ranks):
        layer, full = part.layers[0], whole.layers[0]
        q, k, v = full.qkv.split((64, 16, 16))
        assert torch.equal(layer.qkv, torch.cat((q[32 * rank :][:32], k, v))), "the one KV head is on both ranks"
        gate, up = full.gate_up.chunk(2)
        assert torch.equal(layer.gate_up, torch.cat((gate[48 * rank :][:48], up[48 * rank :][:48])))
        assert torch.equal(layer.output, full.output[:, 32 * rank :][:, :32])
        assert torch.equal(layer.down, full.down[:, 48 * rank :][:, :48])


def test_tied_head_is_the_embedding(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, tied=True)
    loaded = load(directory)
    assert loaded.head is loaded.embedding
    rewrite(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert torch.equal(load(directory).head, loaded.embedding)
    rewrite(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    with pytest.raises(InputError, match=r"model.safetensors: lm_head.weight differs from model.embed_tokens.weight"):
        load(directory)


def test_stored_rope_frequencies_are_accepted(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path)
    rewrite(directory, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert len(load(directory).layers) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing from model.safetensors"),
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight is missing from model.safetensors"),
        (
            lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(95, 64)}),
            r"model.safetensors: model.layers.1.mlp.up_proj.weight has shape \[95, 64\], .* asks for \[96, 64\]",
        ),
        (
            lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(64)}),
            "model.safetensors: model.layers.2.input_layernorm.weight is not part of the model",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            "model.safetensors: model.norm.weight is I8; supported are F32, BF16, F16",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    directory = write_random_checkpoint(tmp_path)
    rewrite(directory, change)
    with pytest.raises(InputError, match=message) as caught:
        load(directory)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file_is_named_with_the_tensor(tmp_path: Path) -> None:
    file = write_random_checkpoint(tmp_path) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(InputError, match=rf"model.safetensors is truncated: \S+ ends at byte {len(content)} of "):
        load(tmp_path)
    for short in (100, 4, 0):
        file.write_bytes(content[:short])
        with pytest.raises(InputError, match=rf"model.safetensors is truncated or no safetensors file \({short} bytes"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x05\0\0\0\0\0\0\0{nope", "no readable safetensors header"),
        (b"\x02\0\0\0\0\0\0\0[]", "no readable safetensors header"),
        (b"\xa0\x86\x01\0\0\0\0\0" + b"[" * 100_000, "no readable safetensors header"),
        (b"PK\x03\x04" + b"\xff" * 100, "truncated or no safetensors file"),
    ],
)
def test_files_that_are_no_safetensors(content: bytes, message: str, tmp_path: Path) -> None:
    (write_random_checkpoint(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=f"model.safetensors.*{message}"):
        load(tmp_path)


def entry(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        *(
            ({"a": entry(offsets=offsets)}, "no readable safetensors header for 'a'")
            for offsets in ([0], [0, "4"], [0, 4.5], [-4, 0], [0, True], {"0": 4}, "04", None, [0, 4, 8], [0, 10**400])
        ),
        *(
            ({"a": entry(shape=shape)}, "no readable safetensors header for 'a'")
            for shape in ([-1], ["1"], [1.5], 1, None, {}, [2**63], [1] * 9, [10**400], [[1]])
        ),
        ({"a": entry(dtype=7)}, "no readable safetensors header for 'a'"),
        ({"a": {"dtype": "F32"}}, "no readable safetensors header for 'a'"),
        ({"a": 5, "__metadata__": 5}, "no readable safetensors header for 'a'"),
        ([1], "no readable safetensors header"),
        ({"a": entry(offsets=[0, 2**40])}, "is truncated: a ends at byte "),
        ({"a": entry(offsets=[4, 0])}, "has the bytes 4 to 0: not as many as it takes"),
        ({"a": entry([2**31, 2**31])}, "has the bytes 0 to 4: not as many as it takes"),
        ({"a": entry(), "b": entry()}, "b of shape .* not those behind the tensor before it"),
        ({"a": entry(offsets=[4, 8])}, "not those behind the tensor before it"),
        ({"a": entry(dtype="F8_E4M3")}, "a is F8_E4M3; supported are F32"),
        ({"\x1b[31m\n": entry(dtype="I8")}, r"\\x1b\[31m\\n is I8"),
    ],
)
def test_headers_that_lie(header: object, message: str, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
    with pytest.raises(InputError, match=f"model.safetensors.*{message}") as caught:
        read_tensors(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**26, 10**8, 0])
def test_header_lengths_beyond_reason(length: int, tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{}")
        file.truncate(2 * 10**8)  # sparse
    with pytest.raises(InputError, match=r"model.safetensors is truncated or no safetensors file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\0b", "a/b", "\ud800", "a\nb", 5, None, ["a"], {}])
def test_names_in_an_index_that_are_none_beside_it(name: object, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(InputError, match=rf"{INDEX} lists .*; its files must lie beside it") as caught:
        read_tensors(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "other.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_no_checkpoint(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=f"{name} is a {kind}; give a regular file"):
        read_tensors(tmp_path)


ABSURD = (0, -1, 2**31, 2**53, 2**63, 10**400, 1e308, float("nan"), float("inf"), True, "7", [], {}, 7.5)
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "sliding_window"),
    *("max_window_layers", "layer_types", "rope_scaling", "rope_parameters", "tie_word_embeddings", "dtype"),
    *("factor", "original_max_position_embeddings", "beta_fast", "attention_factor", "mscale", "truncate"),
)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_the_tensors_contradict(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is allocated for them: what passes here is what the headers are as large as."""
    directory = tmp_path_factory.getbasetemp() / "sizes"
    if not directory.is_dir():
        write_random_checkpoint(directory, tied=True)
        config = json.loads((directory / "config.json").read_text())
        (directory / "right.json").write_text(json.dumps({**config, "rope_theta": 1e4}))
    right = json.loads((directory / "right.json").read_text())
    yarn = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
    for value in (*ABSURD, 1, 2, 4, 65, 1024, 2**16, 2**21, "\x1b[31m" * 10**5):
        if SIZES.index(name) >= SIZES.index("factor"):
            changed = {**right, "rope_scaling": {**yarn, name: value}}
        else:
            changed = {**right, name: value, "use_sliding_window": name in ("sliding_window", "layer_types")}
        (directory / "config.json").write_text(json.dumps(changed))
        try:
            config = ModelConfig.load(directory)
            weights.check(directory, config)
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 600, value
            continue
        assert config.context_length <= MAX_POSITIONS
        assert config.rope.cos_sin(64, config.head_dim, CPU).isfinite().all(), value


def test_a_listed_file_that_is_missing(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00003.safetensors is missing"):
        load(directory)


def test_an_index_that_lies(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, shards=2)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    (directory / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model-00001-of-00002.safetensors: model.norm.weight is missing, though"):
        load(directory)
    (directory / INDEX).write_text('{"weight_map": {"model.norm.weight": "../model.safetensors"}}')
    with pytest.raises(InputError, match="must lie beside it"):
        load(directory)
    (directory / INDEX).write_text("{}")
    with pytest.raises(InputError, match="has no readable weight_map"):
        load(directory)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, shards=2)
    (directory / INDEX).unlink()
    save_file({"model.norm.weight": torch.ones(64)}, directory / "copy.safetensors")
    with pytest.raises(InputError, match=r"model.norm.weight is also in copy.safetensors; remove one"):
        load(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path)
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(InputError, match=rf"{name}: pickled weights can run code .* safe_serialization=True"):
        load(directory)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no safetensors file; .* load_format dummy"):
        read_tensors(tmp_path)


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="model 'some/model' is no directory and cannot be fetched") as caught:
        resolve("some/model")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is no directory, nor the form of a hub id; check the path"):
        resolve(str(tmp_path / "absent" / "model"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give its directory"):
        resolve(str(tmp_path / "file"))


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    config = ModelConfig.load(write_random_checkpoint(tmp_path), "bfloat16")
    one, same, other = (weights.random(config, Shard.of(config), CPU, seed) for seed in (1, 1, 2))
    assert torch.equal(one.layers[1].gate_up, same.layers[1].gate_up)
    assert not torch.equal(one.layers[1].gate_up, other.layers[1].gate_up)
    assert not torch.equal(one.layers[0].down, one.layers[1].down)
    assert one.head.dtype == torch.bfloat16 and abs(one.head.float().std() - 0.02) < 0.002
    assert torch.equal(one.norm, torch.ones_like(one.norm))


MEASURE = """
import sys
from pathlib import Path
import torch
from engine.model.decoder import Decoder
from engine.model.config import MAX_POSITIONS, ModelConfig
from engine.ranks.group import Group

def anonymous_peak():
    # RssAnon leaves out the pages of the mapped file itself; sampled by a thread while the load runs.
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024

import threading
torch.set_num_threads(1)
directory = Path(sys.argv[1])
config = ModelConfig.load(directory, "bfloat16")
base, peak, done = anonymous_peak(), 0, threading.Event()

def sample():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_peak())

thread = threading.Thread(target=sample)
thread.start()
decoder = Decoder.load(directory, config, Group.single(torch.device("cpu")), 64)
done.set()
thread.join()
print((max(peak, anonymous_peak()) - base) / (2 * config.num_parameters))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon from /proc")
def test_loading_makes_no_second_copy(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, hidden=768, heads=12, kv_heads=4, intermediate=3072, layers=8)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    # Beyond the weights: one layer of eight while it is packed, and what the libraries allocate.
    assert 0.9 < float(run.stdout) < 1.3, "peak private memory over the weights' own size"
