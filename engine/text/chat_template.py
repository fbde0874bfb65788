"""A checkpoint's chat template: messages in, ordinary text and special tokens out, at a cost that has a bound."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import InputError, shown
from engine.text.guarded import Guarded
from engine.text.literals import any_of
from engine.text.meter import Costly
from engine.text.template_program import TemplateProgram

MOST_SIZE = 5 * 2**20
"""Characters of one conversation, and of one text that is tokenised: a million tokens of prose. More takes over 10 s
where they are all spaces."""
MOST_SOURCE = 2**16
"""Characters of a template; the longest in use have half of it."""
_MOST_LEVELS = 64
"""Of lists and objects in messages."""


class ChatTemplate:
    """`render` turns messages into pieces: ordinary text and ids of special tokens.

    `source` is the jinja2 template, `specials` maps the text of every added token to its id, `variables` are the
    names that transformers gives a template besides the messages (`bos_token`, `eos_token`, ...).
    Raises InputError where the template cannot be compiled.
    """

    def __init__(self, source: str, specials: Mapping[str, int], variables: Mapping[str, str]) -> None:
        if len(source) > MOST_SOURCE:
            raise InputError(f"the chat template has {len(source):,} characters; give at most {MOST_SOURCE:,}")
        self._pattern = any_of(specials)
        self._program = TemplateProgram(source, specials, variables)
        self._guarded = Guarded("the chat template", source=source, specials=dict(specials), variables=dict(variables))

    @property
    def bounded(self) -> bool:
        """Whether the template is made of operations whose cost is known, and is rendered in this process."""
        return self._program.bounded

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[str | int]:
        """Pieces of the rendered text in order: `str` is ordinary text, `int` the id of a special token.

        Raises InputError, naming the message, where it has no role or no text; where the messages, or what becomes
        of them, have more than MOST_SIZE characters; where the template raises, or exceeds its limits.
        """
        size = check_messages(messages)
        pieces: list[str | int] | None = None
        if self.bounded:
            try:
                pieces = self._program.render(messages, add_generation_prompt, size, MOST_SIZE)
            except Costly:
                pieces = None
        if pieces is None:
            pieces = self._guarded(
                messages=messages, add_generation_prompt=add_generation_prompt, size=size, most=MOST_SIZE
            )
        self._refuse_composed([piece for piece in pieces if isinstance(piece, str)], messages)
        return pieces

    def _refuse_composed(self, texts: Sequence[str], messages: Sequence[Mapping[str, Any]]) -> None:
        """Text that spells a special token must have it from a message. One that was put together, as `'<|' + role +
        '|>'` is, would be a special token to transformers and ordinary text here, so it is refused."""
        found = sorted({special for text in texts for special in self._pattern.findall(text)})
        given = [text for _, text in _strings(messages)[0]] if found else []
        spelled = {special for text in given for special in self._pattern.findall(text)}
        for special in found:  # what another hides in a message is looked for by itself
            if special not in spelled and not any(special in text for text in given):
                raise InputError(
                    f"the chat template puts {special!r} together from pieces; write it out in the "
                    "template as one string"
                )


def check_messages(messages: Any) -> int:
    """The size of `messages` in characters. Raises InputError, naming the place, unless they are a non-empty list
    of objects with role and content, at most MOST_SIZE large."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError('messages is not a non-empty list; give [{"role": "user", "content": "..."}]')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"messages[{i}] is {type(message).__name__}; give an object with role and content")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise InputError(f'messages[{i}].role is {shown(role)}; give a string such as "user"')
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise InputError(f"messages[{i}].content is {type(content).__name__}; give a string")
    strings, size = _strings(messages)
    # No tokenizer can encode lone surrogates, and they are the template's marks.
    for where, text in strings:
        bad = None if text.isascii() else re.search("[\ud800-\udfff]", text)
        if bad:
            raise InputError(
                f"{where} holds the lone surrogate U+{ord(bad.group()):04X} at character {bad.start()}; "
                "give valid Unicode text"
            )
    return size


def _strings(messages: Any) -> tuple[list[tuple[str, str]], int]:
    """(place, text) of every string inside messages in their order, keys included; and the size of everything, about
    the characters of its JSON."""
    found: list[tuple[str, str]] = []
    waiting: list[tuple[int, str, Any]] = [(0, "messages", messages)]
    size = 0
    while waiting:
        level, place, value = waiting.pop()
        size += 16
        if isinstance(value, str):
            size += len(value)
            found.append((place, value))
        elif isinstance(value, int):
            size += value.bit_length() // 3
        elif isinstance(value, Mapping):
            for key, item in [*value.items()][::-1]:
                waiting.append((level + 1, f"{place}.{key[:40] if isinstance(key, str) else type(key)}", item))
                waiting.append((level + 1, f"a key of {place}", key))
        elif isinstance(value, (list, tuple)):
            waiting += [(level + 1, f"{place}[{i}]", value[i]) for i in reversed(range(len(value)))]
        if level > _MOST_LEVELS:
            raise InputError(f"{place[:80]} lies more than {_MOST_LEVELS} levels deep in messages; nest less")
        if size > MOST_SIZE:
            raise InputError(f"messages are larger than {MOST_SIZE:,} characters of JSON; shorten them")
    return found, size
