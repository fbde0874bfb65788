"""Targets: the files of a model folder."""

import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from engine.prepare import Preparer
from engine.request import SamplingParams
from engine.text.tokenizer import Tokenizer
from tests.fuzz import checkpoint
from tests.fuzz.contract import promise
from tests.fuzz.target import Target
from tests.fuzz.values import INPUTS, FileCase, file_bytes, files
from train.architecture import Architecture

MESSAGES = INPUTS["messages"]
CONFIG = {**checkpoint.read("config.json"), **INPUTS["config"]}
_EXTRA = [*((name,) for name in INPUTS["config_fields"]), *(("rope_parameters", n) for n in INPUTS["rope_fields"])]
_OTHER = [(name,) for name in INPUTS["other_fields"]]


def _file(name: str, base: Any, run: Callable[..., Any], shards: int = 1) -> Callable[[FileCase], None]:
    def changed(case: FileCase) -> None:
        with checkpoint.altered(name, file_bytes(base, case), shards) as directory:
            promise(run, directory)

    return changed


def _config(case: FileCase) -> None:
    _file("config.json", CONFIG, checkpoint.open_and_run)(case)
    _file("config.json", {**CONFIG, "rope_parameters": {}}, Architecture.load)(case)


def header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON header of a safetensors file, and what follows it."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


WEIGHTS = (checkpoint.folder() / "model.safetensors").read_bytes()
HEADER, TENSORS = header(WEIGHTS)


def _header(case: tuple[FileCase, int | None]) -> None:
    text, length = file_bytes(HEADER, case[0]), case[1]
    data = struct.pack("<Q", len(text) if length is None else length) + text + TENSORS
    with checkpoint.altered("model.safetensors", data) as directory:
        promise(checkpoint.open_and_run, directory)


def use_tokenizer(directory: Any) -> None:
    """Everything that a tokenizer is asked for before an engine has it."""
    tokenizer = Tokenizer.load(directory)
    tokenizer.decode(range(tokenizer.size))
    preparer = Preparer(tokenizer, "auto", 512)
    promise(preparer.prepare, "How many r in raspberry? 12345 é\n", SamplingParams(max_tokens=64))
    promise(preparer.prepare, {"messages": MESSAGES}, SamplingParams(stop=("x",)))
    promise(preparer.prepare, {"messages": MESSAGES[:3]}, SamplingParams(continue_final_message=True))
    checkpoint.open_and_run(directory)


expressions = st.recursive(
    st.sampled_from(INPUTS["terms"]),
    lambda inner: st.one_of(
        st.builds("({})|{}".format, inner, st.sampled_from(INPUTS["filters"])),
        st.builds("({} {} {})".format, inner, st.sampled_from(INPUTS["operators"]), inner),
        st.builds("{}[{}]".format, inner, inner),
    ),
    max_leaves=4,
)
blocks = st.recursive(
    st.one_of(
        st.builds("{{{{ {} }}}}".format, expressions),
        st.builds("{{% set ns.x = {} %}}".format, expressions),
        st.sampled_from([*INPUTS["statements"], "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("{{% for message in {} recursive %}}{}{{% endfor %}}".format, expressions, inner),
        st.builds("{{% for i in range({}) %}}{}{{% endfor %}}".format, st.sampled_from((3, 40, 999, 99999)), inner),
        st.builds("{{% if {} %}}{}{{% endif %}}".format, expressions, inner),
        st.builds("{{% macro m(x) %}}{}{{{{ m(x) }}}}{{{{ m(x) }}}}{{% endmacro %}}{{{{ m(1) }}}}".format, inner),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, inner),
        st.builds("{{% generation %}}{}{{% endgeneration %}}".format, inner),
        st.builds("{{% set y %}}{}{{% endset %}}{{{{ y ~ y }}}}".format, inner),
    ),
    max_leaves=6,
)
_START = "{% set ns = namespace(x='ab', n=2) %}"


def _template(case: str) -> None:
    source = {"eos_token": "<|im_end|>", "chat_template": _START + case}
    with checkpoint.altered("tokenizer_config.json", json.dumps(source).encode()) as directory:
        if (tokenizer := promise(Tokenizer.load, directory)) is not None:
            promise(tokenizer.render, MESSAGES)
            promise(tokenizer.render, MESSAGES[:2], False)


FILES = {name: checkpoint.read(name) for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json")}
FILES["config.json"] = CONFIG
_TOKENIZER, _SETTINGS = checkpoint.read("tokenizer.json"), checkpoint.read("tokenizer_config.json")
_GENERATION, _INDEX = checkpoint.read("generation_config.json"), "model.safetensors.index.json"
_HEADER_LENGTHS = st.none() | st.sampled_from((0, 1, 2**31, 2**63, 2**64 - 1)) | st.integers(0, 5_000)

TARGETS = (
    Target(
        "config.json",
        files(CONFIG, _EXTRA),
        _config,
        quick=20,
        known=((((("rope_parameters", "factor"), "set", "65536"),), ()),),
    ),
    Target(
        "generation_config.json",
        files(_GENERATION, _OTHER),
        _file("generation_config.json", _GENERATION, checkpoint.open_and_run),
    ),
    Target("safetensors header", st.tuples(files(HEADER, _OTHER), _HEADER_LENGTHS), _header),
    Target(
        "safetensors index",
        files(checkpoint.read(_INDEX, 2)),
        _file(_INDEX, checkpoint.read(_INDEX, 2), checkpoint.open_and_run, shards=2),
    ),
    Target(
        "tokenizer.json",
        files(_TOKENIZER, _OTHER),
        _file("tokenizer.json", _TOKENIZER, use_tokenizer),
        known=((((("added_tokens", 0, "content"), "set", '"\\ud800"'),), ()),),
    ),
    Target("tokenizer_config.json", files(_SETTINGS, _OTHER), _file("tokenizer_config.json", _SETTINGS, use_tokenizer)),
    Target("chat template", blocks, _template, quick=6),
)
