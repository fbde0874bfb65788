"""GGUF files: the same model as the folder that they were made of, and one line for those that are none."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from engine import Engine, SamplingParams
from engine.errors import InputError
from engine.model import weights
from engine.model.checkpoint import read_tensors, resolve
from engine.model.config import ModelConfig
from engine.model.fingerprint import fingerprint
from engine.model.generation_config import default_params
from engine.model.gguf_header import BLOCKS, read_header
from engine.model.gguf_tensors import GgufTensors
from engine.model.rope import Rope
from engine.model.shard import Shard
from engine.text.tokenizer import Tokenizer
from kernels.native import library
from tests.checkpoints import write_random_checkpoint
from tests.gguf_files import write_gguf
from train.config import Model
from train.huggingface import find_config

SHAPE = {"hidden": 64, "heads": 4, "kv_heads": 2, "intermediate": 96, "max_positions": 512}
KINDS = {
    "llama": ("LlamaForCausalLM", {"tied": True}),
    "mistral": ("MistralForCausalLM", {"head_dim": 32}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32, "tied": True}),
}
TEXTS = (
    "I'll say: it's 12345 + 67 = ?\n\n  def f(x):\n\treturn x ** 2  ",
    "Größe naïve 你好世界 🙂👩‍👩‍👧 e\u0301",
    "\r\n\r\n A\u00a0b",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the same as a file that lies alone."""
    folder = write_random_checkpoint(tmp_path_factory.mktemp("hf") / "tiny", architecture="LlamaForCausalLM", **SHAPE)
    return folder, write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", folder)


def all_weights(model: Path, shard: tuple[int, int] = (0, 1)) -> list[torch.Tensor]:
    config = ModelConfig.load(model, "float32")
    loaded = weights.load(model, config, Shard.of(config, *shard), torch.device("cpu"))
    return [
        loaded.embedding,
        loaded.norm,
        loaded.head,
        *(tensor for layer in loaded.layers for tensor in vars(layer).values() if tensor is not None),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_folder(kind, tmp_path):
    """Names, shapes, heads put back in order, biases and norms; whole, and the second rank's half."""
    architecture, more = KINDS[kind]
    folder = write_random_checkpoint(tmp_path / "hf", architecture=architecture, **SHAPE, **more)
    file = write_gguf(tmp_path / f"{kind}.gguf", folder)
    one, other = ModelConfig.load(folder, "float32"), ModelConfig.load(file, "float32")
    assert one == ModelConfig(**{**vars(other), "rms_norm_eps": pytest.approx(one.rms_norm_eps)})
    for shard in ((0, 1), (1, 2)):
        for a, b in zip(all_weights(folder, shard), all_weights(file, shard), strict=True):
            assert torch.equal(a, b)


def test_the_engine_says_the_same(llama):
    folder, file = llama
    said = []
    for model in (folder, file):
        with Engine(model, device="cpu", dtype="float32", max_num_seqs=2, kv_cache_tokens=512) as engine:
            prompts = ["How many r in raspberry?", {"messages": [{"role": "user", "content": "1+1?"}]}]
            outputs = engine.generate(prompts, SamplingParams(max_tokens=12, thinking_format="s1"))
            said.append([output.outputs[0].token_ids for output in outputs])
    assert said[0] == said[1]


def test_dtype_auto_is_what_the_processor_computes(llama, monkeypatch):
    for level, dtype in (("avx512", torch.float32), ("avx512_bf16", torch.bfloat16)):
        monkeypatch.setattr(library, "LEVEL", level, raising=False)  # a build without it has none
        monkeypatch.setattr(library, "LOADED", True)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        assert ModelConfig.load(llama[1]).dtype is dtype
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert ModelConfig.load(llama[1], device="cpu").dtype is dtype, "a card that is not asked for"
        for supported, on_card in ((False, torch.float32), (True, torch.bfloat16)):
            monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, s=supported: s)
            assert ModelConfig.load(llama[1]).dtype is ModelConfig.load(llama[1], device="cuda:0").dtype is on_card


def test_llama3s_scaling_is_told_by_its_frequencies(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    shape = {**SHAPE, "max_positions": 131_072, "theta": 500_000.0}
    folder = write_random_checkpoint(tmp_path / "hf", architecture="LlamaForCausalLM", rope_scaling=scaling, **shape)
    rope = ModelConfig.load(folder).rope
    factors = (Rope(theta=500_000.0).inverse_frequencies(16) / rope.inverse_frequencies(16)).numpy()
    assert (
        ModelConfig.load(write_gguf(tmp_path / "a.gguf", folder, tensors={"rope_freqs.weight": factors})).rope == rope
    )
    assert len(all_weights(tmp_path / "a.gguf")) > 3
    file = write_gguf(tmp_path / "b.gguf", folder, tensors={"rope_freqs.weight": factors**2})
    with pytest.raises(InputError, match=r"rope_freqs.weight is not Llama 3's"):
        ModelConfig.load(file)


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", {}), ("yarn", {"attention_factor": 1.5 * (1 + 0.1 * np.log(4))})]
)
def test_scaling_in_the_metadata(kind, expected, tmp_path):
    folder = write_random_checkpoint(tmp_path / "hf", **SHAPE)
    keys = {"type": kind, "factor": 4.0, "original_context_length": 128}
    keys["attn_factor"] = 1.5 if kind == "yarn" else 1.0
    file = write_gguf(tmp_path / "a.gguf", folder, more={f"qwen2.rope.scaling.{k}": v for k, v in keys.items()})
    rope = ModelConfig.load(file).rope
    assert (rope.kind, rope.factor) == (kind, 4.0)
    if kind == "yarn":
        assert rope.original_max_position_embeddings == 128
        assert rope.attention_scale == pytest.approx(expected["attention_factor"])


# Types of tensors. Blocks are packed here from their definition in ggml-common.h and the reference dequantize_row_*.

Packed = tuple[bytes, list[float]]


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def nibbles(low: list[int], high: list[int]) -> bytes:
    return bytes(a | b << 4 for a, b in zip(low, high, strict=True))


def pack_q4(rng: np.random.Generator, offset: bool, fifth: bool) -> Packed:
    """32 numbers d q + m: d, (m), (the fifth bits), then the first half in low nibbles and the second in high ones."""
    q = [int(x) for x in rng.integers(0, 32 if fifth else 16, 32)]
    d, m = 0.375, -1.25
    low = [x & 15 for x in q]
    bits = struct.pack("<I", sum((x >> 4) << i for i, x in enumerate(q))) if fifth else b""
    packed = half(d) + (half(m) if offset else b"") + bits + nibbles(low[:16], low[16:])
    return packed, [d * x + m if offset else d * (x - (16 if fifth else 8)) for x in q]


def pack_q8_0(rng: np.random.Generator) -> Packed:
    q = [int(x) for x in rng.integers(-128, 128, 32)]
    return half(0.5) + struct.pack("<32b", *q), [0.5 * x for x in q]


def pack_k(rng: np.random.Generator, fifth: bool) -> Packed:
    """Q4_K, Q5_K: 8 groups of 32, each d s q - dmin m; s and m have six bits, of which 12 bytes hold eight each."""
    d, dmin = 0.25, 0.125
    scales, mins = ([int(x) for x in rng.integers(0, 64, 8)] for _ in "sm")
    q = [[int(x) for x in rng.integers(0, 32 if fifth else 16, 32)] for _ in range(8)]
    twelve = [scales[i] | (scales[i + 4] >> 4) << 6 for i in range(4)]
    twelve += [mins[i] | (mins[i + 4] >> 4) << 6 for i in range(4)]
    twelve += [(scales[i + 4] & 15) | (mins[i + 4] & 15) << 4 for i in range(4)]
    high = bytes(sum((q[g][i] >> 4) << g for g in range(8)) for i in range(32)) if fifth else b""
    low = b"".join(nibbles([x & 15 for x in q[g]], [x & 15 for x in q[g + 1]]) for g in (0, 2, 4, 6))
    values = [d * scales[g] * x - dmin * mins[g] for g in range(8) for x in q[g]]
    return half(d) + half(dmin) + bytes(twelve) + high + low, values


def pack_q6_k(rng: np.random.Generator) -> Packed:
    """16 groups of 16, each d s (q - 32): low four bits, high two bits, scales of eight bits, d."""
    q = [int(x) for x in rng.integers(0, 64, 256)]
    scales = [int(x) for x in rng.integers(-128, 128, 16)]
    low, high = bytearray(128), bytearray(64)
    for half_ in range(2):
        for i in range(32):
            a, b, c, e = (q[128 * half_ + 32 * k + i] for k in range(4))
            low[64 * half_ + i] = (a & 15) | (c & 15) << 4
            low[64 * half_ + 32 + i] = (b & 15) | (e & 15) << 4
            high[32 * half_ + i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6
    values = [0.25 * scales[i // 16] * (x - 32) for i, x in enumerate(q)]
    return bytes(low) + bytes(high) + struct.pack("<16b", *scales) + half(0.25), values


def pack_plain(rng: np.random.Generator, kind: str) -> Packed:
    values = [float(x) / 8 for x in rng.integers(-99, 99, 32)]
    halves = torch.tensor(values).bfloat16().view(torch.int16).tolist()
    codes = {
        "F32": struct.pack("<32f", *values),
        "F16": struct.pack("<32e", *values),
        "BF16": struct.pack("<32h", *halves),
    }
    return codes[kind], torch.tensor(values).bfloat16().tolist() if kind == "BF16" else values


PACK: dict[str, Callable[[np.random.Generator], Packed]] = {
    "F32": lambda rng: pack_plain(rng, "F32"),
    "F16": lambda rng: pack_plain(rng, "F16"),
    "BF16": lambda rng: pack_plain(rng, "BF16"),
    "Q4_0": lambda rng: pack_q4(rng, offset=False, fifth=False),
    "Q4_1": lambda rng: pack_q4(rng, offset=True, fifth=False),
    "Q5_0": lambda rng: pack_q4(rng, offset=False, fifth=True),
    "Q5_1": lambda rng: pack_q4(rng, offset=True, fifth=True),
    "Q8_0": pack_q8_0,
    "Q4_K": lambda rng: pack_k(rng, fifth=False),
    "Q5_K": lambda rng: pack_k(rng, fifth=True),
    "Q6_K": pack_q6_k,
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_packed_by_hand(kind, tmp_path):
    """And the package's own dequantiser says the same: this engine must call it rightly."""
    rng, rows, across = np.random.default_rng(7), 6, 3
    blocks = [PACK[kind](rng) for _ in range(rows * across)]
    data = np.frombuffer(b"".join(packed for packed, _ in blocks), np.uint8).reshape(rows, -1)
    exact = np.array([value for _, values in blocks for value in values], np.float32).reshape(rows, -1)
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "qwen2")
    writer.add_tensor("token_embd.weight", data, raw_dtype=gguf.GGMLQuantizationType[kind])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with GgufTensors(tmp_path / "a.gguf") as tensors:
        found = tensors.get_slice("model.embed_tokens.weight")
        assert np.array_equal(found[:].numpy(), exact)
        assert np.array_equal(found[2:5].numpy(), exact[2:5])
        assert np.array_equal(found[:, 7:19].numpy(), exact[:, 7:19])
    if kind != "BF16":
        assert np.array_equal(gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]), exact)


# The tokenizer.


def test_the_tokenizer_inside_is_that_of_the_folder(llama):
    folder, file = llama
    one, other = Tokenizer.load(folder), Tokenizer.load(file)
    for text in TEXTS:
        assert one.encode(text) == other.encode(text)
        assert other.decode(other.encode(text)) == text
    messages = [{"role": "user", "content": TEXTS[0]}]
    assert one.render(messages) == other.render(messages)
    assert other.eos_token_ids and set(other.eos_token_ids) <= set(one.eos_token_ids)
    assert one.size == other.size and one.special_id("<|im_start|>") == other.special_id("<|im_start|>")
    assert other.names == ("tiny", "tiny")


def test_a_tokenizer_beside_the_file_comes_first(llama, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(llama[1].read_bytes())
    alone = Tokenizer.load(file), fingerprint(file)
    (tmp_path / "tokenizer.json").write_bytes((llama[0] / "tokenizer.json").read_bytes())
    assert Tokenizer.load(file).eos_token_ids == () != alone[0].eos_token_ids
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3, "do_sample": true, "top_k": 7}')
    assert Tokenizer.load(file).eos_token_ids == (3,)
    assert default_params(file, "auto").top_k == 7
    assert fingerprint(file) != alone[1]
    settings, model = json.loads((llama[0] / "tokenizer.json").read_text()), ModelConfig.load(file)
    settings["added_tokens"] += [
        {**settings["added_tokens"][-1], "id": i, "content": f"<{i}>"}
        for i in range(Tokenizer.load(file).size, model.vocab_size + 1)
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"/m\.gguf: vocab_size is \d+ and the tokenizer has"):
        Engine(file, device="cpu")


def test_defaults_inside(llama, tmp_path):
    more = {"general.sampling.temp": 0.5, "general.sampling.top_k": 20}
    file = write_gguf(tmp_path / "a.gguf", llama[0], more=more)
    assert default_params(file, "auto") == SamplingParams(temperature=0.5, top_k=20)
    assert default_params(file, "none") == default_params(llama[1], "auto") == SamplingParams()


def test_the_fingerprint_covers_the_file(llama, tmp_path):
    copy = tmp_path / llama[1].name
    data = bytearray(llama[1].read_bytes())
    copy.write_bytes(data)
    assert fingerprint(copy) == fingerprint(llama[1])
    data[-9] ^= 1
    copy.write_bytes(data)
    assert fingerprint(copy) != fingerprint(llama[1])


# Files that are none.


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"general.architecture": "gemma"}, "general.architecture is 'gemma'; supported are llama, qwen2, qwen3"),
        ({"general.type": "adapter"}, "give the file of a whole model"),
        ({"split.count": 3}, "one of 3 parts; merge them"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        (
            {"llama.block_count": 3},
            "model.layers.2.input_layernorm.weight is missing from bad.gguf; check its metadata",
        ),
        (
            {"llama.feed_forward_length": 97},
            "mlp.gate_proj.weight has shape [96, 64], and its metadata asks for [97, 64]",
        ),
        ({"llama.embedding_length": "wide"}, "hidden_size is 'wide'"),
        ({"llama.expert_count": 8}, "expert_count is 8"),
        ({"llama.attention.sliding_window": 64}, "sliding_window is 64; only full attention"),
        ({"llama.attention.value_length": 8}, "keys and values differ in width"),
        ({"llama.rope.dimension_count": 8}, "only whole heads are rotated"),
        ({"llama.rope.scaling.attn_factor": 1.5}, "attn_factor is 1.5 with scaling none"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.attn_factor": "much"}, "attn_factor is 'much'"),
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ({"llama.attention.head_count_kv": [2, 4]}, "num_key_value_heads is [2, 4]"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'; only 'gpt2'"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'; read are"),
        ({"tokenizer.ggml.merges": ["abc"]}, "merges has 'abc'"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "token_type is not one number for each of 2 tokens"),
        ({"tokenizer.ggml.eos_token_id": 99_999}, "token id 99999 does not exist"),
        ({"general.alignment": 33}, "no power of two"),
    ],
)
def test_metadata_that_cannot_be_used(llama, tmp_path, more, said):
    file = write_gguf(tmp_path / "bad.gguf", llama[0])
    values = {**read_header(file, texts=True).values, **more}
    rewrite(file, values)
    with pytest.raises(InputError) as caught:
        Engine(file, device="cpu", kv_cache_tokens=64)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def rewrite(file: Path, values: dict) -> None:
    """The header with these values and the tensors as they were."""
    reader = gguf.GGUFReader(str(file))
    tensors = [(t.name, np.array(t.data), t.tensor_type) for t in reader.tensors]
    writer = gguf.GGUFWriter(str(file.with_suffix(".new")), "llama")
    for key, value in values.items():
        if key != "general.architecture" and value is not None:
            {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}.get(
                type(value), writer.add_array
            )(key, value)
    writer.kv_data[0]["general.architecture"] = gguf.gguf_writer.GGUFValue(
        values["general.architecture"], gguf.GGUFValueType.STRING
    )
    for name, data, kind in tensors:
        writer.add_tensor(name, data, raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    file.with_suffix(".new").replace(file)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, at: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)


HUGE = 2**63
BAD = {
    "empty": (b"", "begins with b''"),
    "another kind": (b"PK\x03\x04" + b"\0" * 64, "is no GGUF file"),
    "a pointer": (b"version https://git-lfs", "git lfs pull"),
    "old": (head(version=1), "of version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "cut in the counts": (b"GGUF\x03\0\0\0\x01", "is cut off in its header"),
    "tensors without end": (head(tensors=HUGE), "promises 9,223,372,036,854,775,808 tensors"),
    "keys without end": (head(keys=HUGE), "metadata keys"),
    "keys that are not there": (head(keys=5), "is cut off in its header"),
    "a long key": (head(keys=1) + struct.pack("<Q", HUGE), "bytes of a metadata key"),
    "a long text": (head(keys=1) + text("k") + struct.pack("<IQ", 8, HUGE), "bytes of 'k'"),
    "a long list": (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 4, HUGE), "values of 'k'"),
    "a long list of texts": (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 21), "is cut off in its header"),
    "a list of lists": (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "unknown type 9"),
    "an unknown type": (head(keys=1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
    "no UTF-8": (head(keys=1) + struct.pack("<Q", 2) + b"\xff\xfe", "no UTF-8"),
    "a key twice": (head(keys=2) + 2 * (text("k") + struct.pack("<II", 4, 1)), "has 'k' twice"),
    "a tensor's type": (head(tensors=1) + tensor("x", (32,), 99), "of the unknown type 99"),
    "a type that is not read": (head(tensors=1) + tensor("x", (256,), 16), "'x' is IQ2_XXS; read are F32"),
    "dimensions": (head(tensors=1) + tensor("x", (1,) * 5), "5 dimensions of 'x'"),
    "a broken block": (head(tensors=1) + tensor("x", (33,), 3), "which Q4_1 cannot have"),
    "nothing in it": (head(tensors=1) + tensor("x", (0,)), "which F32 cannot have"),
    "a giant": (head(tensors=1) + tensor("x", (1 << 40, 1 << 40)), "is cut off: 'x' ends at byte"),
    "far away": (head(tensors=1) + tensor("x", (4,), at=HUGE), "is cut off: 'x' ends at byte"),
    "one place": (head(tensors=2) + tensor("x", (4,)) + tensor("y", (4,)) + b"\0" * 99, "in the same place"),
    "one name": (
        head(tensors=2) + tensor("x", (4,)) + tensor("x", (4,), at=32) + b"\0" * 99,
        "two tensors of one name",
    ),
    "no model": (head(), "general.architecture is None"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none(name, tmp_path):
    data, said = BAD[name]
    (tmp_path / "bad.gguf").write_bytes(data)
    for use in (ModelConfig.load, Tokenizer.load):
        with pytest.raises(InputError) as caught:
            use(tmp_path / "bad.gguf")
        message = str(caught.value)
        assert "bad.gguf" in message and "\n" not in message and len(message) < 400
    with pytest.raises(InputError) as caught:
        ModelConfig.load(tmp_path / "bad.gguf")
    assert said in str(caught.value)


def test_cut_off_anywhere(llama, tmp_path):
    """Headers and tensors: one line, wherever the file ends."""
    data, file = llama[1].read_bytes(), tmp_path / "cut.gguf"
    for at in (*range(0, 400, 13), *range(400, len(data) - 1, len(data) // 40)):
        file.write_bytes(data[:at])
        with pytest.raises(InputError, match=r"cut\.gguf"):
            read_tensors(file)


def test_a_key_list_takes_bounded_memory(tmp_path):
    """All lists together are bounded, not each of as many as there may be keys."""
    one = struct.pack("<IIQ", 9, 0, 1 << 20) + bytes(1 << 20)
    (tmp_path / "a.gguf").write_bytes(head(keys=3) + b"".join(text(f"k{i}") + one for i in range(3)))
    with pytest.raises(InputError, match="promises 1,048,576 values of 'k2'; at most 0"):
        read_header(tmp_path / "a.gguf")


def test_the_trainer_wants_a_folder(llama):
    with pytest.raises(InputError, match=r"tiny\.gguf'?, a GGUF file; give the folder of the safetensors model"):
        find_config(Model(path=str(llama[1])))


def test_names_of_models(tmp_path):
    with pytest.raises(InputError, match=r"is missing; give its directory, or a \.gguf file"):
        resolve(str(tmp_path / "none.gguf"))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"is a file; give its directory, or a \.gguf file"):
        resolve(str(tmp_path / "model.bin"))
    (tmp_path / "a.gguf").mkdir()
    assert resolve(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"
    with pytest.raises(InputError, match=r"config\.json is missing"):
        ModelConfig.load(tmp_path / "a.gguf")
