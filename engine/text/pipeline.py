"""Which tokenizers run in the engine's own process: byte-level BPEs whose every step has a known bound.

The regular expressions are those that published models split text with. Each goes over a text once, without looking
back further than it has just read; one that is not here may take exponential time, so it runs in a process that can be
killed. `\\p{N}{1,3}`, `\\p{N}{1,2}` and `\\p{N}` differ in nothing that matters here.
"""

from collections.abc import Mapping
from typing import Any

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKED_REST = r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_PATTERNS = frozenset(
    [
        # GPT-2, and many after it
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # SmolLM, DeepSeek: digits and scripts before everything else
        r"\p{N}{1,3}",
        r"\p{N}",
        r"\d",
        r"\d{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        # GPT-4, Qwen 2 and 3, Llama 3, OLMo 2
        *(
            f"{contraction}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{number}{_REST}"
            for contraction in (_CONTRACTION, "'(?i:[sdmt]|ll|ve|re)")
            for number in (r"\p{N}", r"\p{N}{1,2}", r"\p{N}{1,3}")
        ),
        # Qwen 3.5: letters with their marks
        f"{_CONTRACTION}|[^\\r\\n\\p{{L}}\\p{{N}}]?[\\p{{L}}\\p{{M}}]+|\\p{{N}}{_MARKED_REST}",
        # GPT-4o, Mistral's Tekken
        *(
            _CASED % (ending, ending) + rf"|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            for ending in ("", _CONTRACTION + "?")
            for number in (r"\p{N}", r"\p{N}{1,3}")
        ),
    ]
)


def has_bound(tokenizer_json: Mapping[str, Any]) -> bool:
    """Whether normalizer, pre-tokenizer and model are of the kinds whose cost is known."""
    model = tokenizer_json.get("model")
    return (
        isinstance(model, Mapping)
        and model.get("type", "BPE") == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and _is_plain(tokenizer_json.get("normalizer"), "normalizers", lambda step: step.get("type") == "NFC")
        and _is_plain(tokenizer_json.get("pre_tokenizer"), "pretokenizers", _splits_plainly)
    )


def _is_plain(step: Any, parts: str, known: Any) -> bool:
    if isinstance(step, Mapping) and step.get("type") == "Sequence":
        listed = step.get(parts)
        return isinstance(listed, list) and all(isinstance(part, Mapping) and known(part) for part in listed)
    return step is None or (isinstance(step, Mapping) and known(step))


def _splits_plainly(step: Mapping[str, Any]) -> bool:
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Split":
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if not isinstance(regex, str) or regex not in _PATTERNS:
            return False
        # "Removed" takes out what does not match: nothing, where one of the alternatives is any space.
        how = step.get("behavior"), step.get("invert")
        return how == ("Isolated", False) or (how == ("Removed", True) and regex.endswith(r"|\s+"))
    return kind == "ByteLevel" or (kind == "Digits" and isinstance(step.get("individual_digits"), bool))
