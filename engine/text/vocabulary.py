"""The tokens of a tokenizer.json, checked, and how many of them a text takes at least."""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import InputError, is_whole, refuse, shown

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + i): byte for i, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}
"""Byte of each character of the byte-level alphabet (GPT-2, `bytes_to_unicode`): printable bytes are themselves."""
_CHAR_OF = {byte: char for char, byte in _BYTE_OF.items()}
_NEWLINE = _CHAR_OF[ord("\n")]
_SPACES = "".join(char for char in map(chr, range(0x3001)) if char.isspace())
_BLANKS = re.escape(_SPACES + "".join(_CHAR_OF[byte] for byte in set(_SPACES.encode())))
"""White space, the last of which is U+3000, and the letters that its bytes are in the byte-level alphabet."""
_MOST_ID = 2**24 - 1
"""Largest token id: 64 times the largest vocabularies."""
_MOST_ADDED, _MOST_LONG = 2**14, 256
"""Added tokens, and characters of each; those in use are at most 6,500, of at most 40."""


class Vocabulary:
    """Token texts by id. `added` are the added tokens' entries by id, `specials` their ids by text, `size` is the
    largest id + 1.

    Raises InputError where tokenizer.json's vocabulary or added tokens are not what they must be: ids whole numbers,
    each with one text, each text with one id, and every text one that can be written.
    """

    def __init__(self, tokenizer_json: Mapping[str, Any]) -> None:
        model = tokenizer_json.get("model")
        vocab = model.get("vocab") if isinstance(model, Mapping) else None
        if not isinstance(vocab, dict) or not vocab:
            raise InputError("the tokenizer cannot be built: tokenizer.json has no vocabulary in model.vocab")
        ids = vocab.values()
        if not all(type(i) is int and 0 <= i <= _MOST_ID for i in ids):
            text, bad = next((t, i) for t, i in vocab.items() if type(i) is not int or not 0 <= i <= _MOST_ID)
            raise InputError(f"tokenizer.json gives the token {shown(text)} the id {shown(bad)}; ids are whole numbers")
        self._texts: dict[int, str] = {i: text for text, i in vocab.items()}
        if len(self._texts) < len(vocab):
            text, twice = next((t, i) for t, i in vocab.items() if self._texts[i] != t)
            raise InputError(f"tokenizer.json gives {shown(text)} and {shown(self._texts[twice])} the one id {twice}")
        self.added: dict[int, Mapping[str, Any]] = {}
        self.specials: dict[str, int] = {}
        for token in _added_tokens(tokenizer_json):
            number, text = token["id"], token["content"]
            refuse(
                (
                    self.added.get(number, token)["content"] != text or self._texts.get(number, text) != text,
                    f"tokenizer.json has two texts for the id {number}, one of them the added token {shown(text)}",
                ),
                (
                    self.specials.get(text, number) != number or vocab.get(text, number) != number,
                    f"tokenizer.json has two ids for the added token {shown(text)}, one of them {number}",
                ),
            )
            self.added[number], self.specials[text] = token, number
        try:
            "".join((*vocab, *self.specials)).encode()
        except UnicodeEncodeError:
            text = next(text for text in (*vocab, *self.specials) if re.search("[\ud800-\udfff]", text))
            raise InputError(
                f"tokenizer.json has the token {shown(text)}, which is no text: half a surrogate pair"
            ) from None
        self.size: int = 1 + max(max(ids), *self.added, -1)
        """Ids at or above it do not exist (checkpoints pad their embedding beyond it)."""
        self._shares = _shares(vocab)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; of an added token, its text; none for a hole in the vocabulary."""
        if token_id in self.added:
            return self.added[token_id]["content"].encode()
        text = self._texts.get(token_id, "")
        return bytes(_BYTE_OF[char] for char in text) if all(char in _BYTE_OF for char in text) else text.encode()

    def maybe_blank(self) -> list[int]:
        """Ids of all tokens that are white space alone or end in a newline, and of some others."""
        maybe = re.compile(rf"[{_BLANKS}]*|.*[\n{_NEWLINE}]", re.DOTALL).fullmatch
        return [i for i in range(self.size) if i in self.added or (text := self._texts.get(i)) is None or maybe(text)]

    def least_tokens(self, text: str) -> int:
        """A number of tokens that `text` cannot be encoded in fewer than, by a byte-level BPE without a normalizer or
        with NFC.

        Of a token of n bytes each byte is worth 1/n of a token or more; by the longest token that holds it, at least
        1/reach. So a text has at least the sum of them in tokens, whatever the merges do.
        """
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        counts = np.bincount(np.frombuffer(text.encode("utf-8", "replace"), np.uint8), minlength=256)
        return math.ceil(float(counts @ self._shares) * (1 - 1e-9))


def _shares(vocab: Mapping[str, int]) -> np.ndarray:
    """[256] 1 / the length of the longest token that holds a byte; 0 where a byte is no token, and may be dropped."""
    texts = list(vocab)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    chars = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    reach = np.ones(max(map(ord, _BYTE_OF)) + 2, np.int64)
    np.maximum.at(reach, np.minimum(chars, len(reach) - 1), np.repeat(lengths, lengths))
    return np.array(
        [
            1 / reach[ord(char)] if char in vocab else 0.0
            for char, _ in sorted(_BYTE_OF.items(), key=lambda item: item[1])
        ]
    )


def _added_tokens(tokenizer_json: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    added = tokenizer_json.get("added_tokens") or []
    if isinstance(added, list) and len(added) > _MOST_ADDED:
        raise InputError(f"tokenizer.json has {len(added):,} added tokens; at most {_MOST_ADDED:,} are supported")
    for token in added if isinstance(added, list) else [added]:
        if not (isinstance(token, Mapping) and is_whole(token.get("id")) and isinstance(token.get("content"), str)):
            raise InputError(f"tokenizer.json has the added token {shown(token)}; each has an id and a content")
        number, text = token["id"], token["content"]
        flags = [token.get(name) for name in ("lstrip", "rstrip")]
        refuse(
            (
                not 0 <= number <= _MOST_ID,
                f"tokenizer.json gives the added token {shown(text)} the id {shown(number)}; ids are whole numbers",
            ),
            (
                not 0 < len(text) <= _MOST_LONG,
                f"tokenizer.json has an added token of {len(text):,} characters (id {number}); give 1 to {_MOST_LONG}",
            ),
            (
                any(flag not in (None, True, False) for flag in flags),
                f"tokenizer.json gives the added token {shown(text)} lstrip, rstrip {shown(flags)}; give booleans",
            ),
        )
    return added
