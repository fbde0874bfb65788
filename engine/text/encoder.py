"""Text to token ids by a tokenizer.json: in this process where every step of it has a known bound, otherwise in one
that can be killed."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tokenizers import Tokenizer

from engine.errors import InputError, first_line, shown
from engine.text.chat_template import MOST_SIZE
from engine.text.guarded import Guarded
from engine.text.pipeline import has_bound

_UNUSED: dict[str, Any] = {
    "added_tokens": [],
    "truncation": None,
    "padding": None,
    "post_processor": None,
    "decoder": None,
}
"""What a tokenizer.json says besides how text is encoded. Added tokens are the caller's; nothing is cut or filled."""


class Encoder:
    """`encode` gives the ids of a text, added tokens in it read as ordinary text. Raises InputError where the tokenizer
    cannot be built."""

    def __init__(self, tokenizer_json: Mapping[str, Any]) -> None:
        self.bounded = has_bound(tokenizer_json)
        """Whether the cost of every step is known, and follows from the length of the text."""
        model = tokenizer_json.get("model")
        if isinstance(model, Mapping) and model.get("dropout"):
            raise InputError(f"the tokenizer's dropout is {shown(model['dropout'])}, which draws lots; set it to null")
        try:
            source = json.dumps({**tokenizer_json, **_UNUSED})
            self._tokenizer = Tokenizer.from_str(source) if self.bounded else None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # tokenizers raises bare Exception, and Rust's panics are not even that
            raise InputError(f"the tokenizer cannot be built: {first_line(error)}") from None
        self._guarded = None if self.bounded else Guarded("the tokenizer", tokenizer_json=source)
        self.encode("")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all processors where the cost is bounded."""
        if self._tokenizer is not None and all(len(text) <= MOST_SIZE for text in texts):
            with suppress(TypeError, UnicodeEncodeError):  # `encode` names the text
                return self._ids(self._tokenizer, list(texts))
        return [self.encode(text) for text in texts]

    def encode(self, text: str) -> list[int]:
        """Raises InputError where the text is no Unicode or too long, and where encoding it exceeds its limits."""
        if len(text) > MOST_SIZE:
            raise InputError(f"a text has {len(text):,} characters; at most {MOST_SIZE:,} are encoded at once")
        try:
            if self._tokenizer is not None:
                return self._ids(self._tokenizer, [text])[0]
            text.encode()
            assert self._guarded is not None
            return self._guarded(text=text)
        except InputError:
            raise
        except (TypeError, UnicodeEncodeError):
            raise InputError(
                f"text {shown(text[:40])} is not valid Unicode (a lone surrogate); it cannot be encoded"
            ) from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise InputError(f"the tokenizer cannot encode {shown(text[:40])}: {first_line(error)}") from None

    @staticmethod
    def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
        """Without offsets, which are a fourth of the time, and all of what holds the interpreter's lock."""
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
