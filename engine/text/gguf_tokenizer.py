"""The tokenizer inside a GGUF file, as tokenizer.json and its neighbours would have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError, is_whole, shown
from engine.model.gguf_header import read_header

_ENDING = ("eos_token_id", "eot_token_id", "eom_token_id")
_VARIABLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
"""What templates call a token, and the metadata."""
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
"""Types of tokens; unused ones fill the vocabulary up and have no text that means anything."""
_LETTERS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_GPT2 = [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]


def _split(numbers: str) -> list[dict[str, Any]]:
    regex = {"Regex": f"{_LETTERS}{numbers}{_REST}"}
    return [
        {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]


_PRE: Mapping[str, list[dict[str, Any]]] = {
    "gpt-2": _GPT2,
    "smollm": [{"type": "Digits", "individual_digits": True}, *_GPT2],
    "qwen2": _split("\\p{N}"),
    "deepseek-r1-qwen": _split("\\p{N}"),
    "llama-bpe": _split("\\p{N}{1,3}"),
}
"""How text is cut before BPE, by tokenizer.ggml.pre: as the tokenizer.json that the file was made of has it."""
_COMPOSED = ("qwen2",)
"""Those that compose characters (NFC) first."""
_WHOLE_FIRST = ("llama-bpe",)
"""Those that take a piece which is a token by itself as that token, whatever the merges say."""


@dataclass(frozen=True)
class GgufTokenizer:
    """What `Tokenizer` is made of."""

    tokenizer_json: dict[str, Any]
    eos_token_ids: tuple[int, ...]
    chat_template: str | None
    variables: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> "GgufTokenizer":
        """From the file's metadata. Raises InputError, naming the file, for a kind that is not known."""
        values = read_header(path, texts=True).values
        kind, pre = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre")
        way = "put the model's tokenizer.json and tokenizer_config.json beside the file"
        if kind != "gpt2":
            raise InputError(
                f"{path}: tokenizer.ggml.model is {shown(kind)}; only 'gpt2', byte-level BPE, is read: {way}"
            )
        if not isinstance(pre, str) or pre not in _PRE:
            raise InputError(f"{path}: tokenizer.ggml.pre is {shown(pre)}; read are {', '.join(_PRE)}: {way}")
        tokens, merges = (_strings(path, values, name) for name in ("tokens", "merges"))
        types = values.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
        if not isinstance(types, list) or len(types) != len(tokens):
            raise InputError(f"{path}: tokenizer.ggml.token_type is not one number for each of {len(tokens):,} tokens")
        used = {i: text for i, (text, type_) in enumerate(zip(tokens, types, strict=True)) if type_ != _UNUSED}
        vocab = {text: i for i, text in used.items()}
        if len(vocab) < len(used):
            text = next(text for i, text in used.items() if vocab[text] != i)
            raise InputError(f"{path}: tokenizer.ggml.tokens has {shown(text)} twice; fetch the file again")
        pairs = [merge.split(" ") for merge in merges]
        if wrong := next((merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2), None):
            raise InputError(f"{path}: tokenizer.ggml.merges has {shown(wrong)}; a merge is two parts and a space")
        tokenizer_json = {
            "version": "1.0",
            "added_tokens": [_added(i, text, types[i]) for i, text in used.items() if types[i] in (_CONTROL, _USER)],
            "normalizer": {"type": "NFC"} if pre in _COMPOSED else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE[pre]},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "ignore_merges": pre in _WHOLE_FIRST, "vocab": vocab, "merges": pairs},
        }
        template = values.get("tokenizer.chat_template")
        if not isinstance(template, (str, type(None))):
            raise InputError(f"{path}: tokenizer.chat_template is {shown(template)}; it is a text")
        ids = {
            name: _token_id(path, values, name) for name in (*_ENDING, *(f"{v}_token_id" for v in _VARIABLES.values()))
        }
        ends = {i for name in _ENDING if (i := ids[name]) is not None}
        variables = {name: used[i] for name, key in _VARIABLES.items() if (i := ids[f"{key}_token_id"]) in used}
        return cls(tokenizer_json, tuple(sorted(ends)), template, variables)


def _strings(path: Path, values: Mapping[str, Any], name: str) -> list[str]:
    found = values.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InputError(f"{path}: tokenizer.ggml.{name} is {shown(found)}; it is a list of texts")
    return found


def _token_id(path: Path, values: Mapping[str, Any], name: str) -> int | None:
    found = values.get(f"tokenizer.ggml.{name}")
    if found is not None and not is_whole(found, 0):
        raise InputError(f"{path}: tokenizer.ggml.{name} is {shown(found)}; it is a token id")
    return found


def _added(number: int, text: str, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": kind == _CONTROL}
