"""A checkpoint's chat template: messages in, ordinary text and special tokens out, at a cost that has a bound."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from engine.errors import InputError, shown
from engine.text.guarded import Guarded
from engine.text.literals import any_of
from engine.text.meter import Costly
from engine.text.template_program import CUT, TemplateProgram

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

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, open_end: bool = False
    ) -> list[str | int]:
        """Pieces of the rendered text in order: `str` is ordinary text, `int` the id of a special token.

        With `open_end` they end with the text of the last message, as in transformers' `continue_final_message`, and
        there is no generation prompt. Raises InputError, naming the message, where it has no role or no text; where the
        messages, or what becomes of them, have more than MOST_SIZE characters; where the template raises, or exceeds
        its limits; with `open_end` where it does not write the last message's text as it is.
        """
        size = check_messages(messages)
        messages = [*map(_joined, messages)]
        last = messages[-1].get("content") or ""
        if open_end:
            messages[-1] = {**messages[-1], "content": f"{last}{CUT} "}
            add_generation_prompt = False
        pieces = self._pieces(messages, add_generation_prompt, size)
        if open_end:
            pieces = _until_cut(pieces, last)
        self._refuse_composed([piece for piece in pieces if isinstance(piece, str)], messages)
        return pieces

    def turn_end(self) -> int | None:
        """The special token that comes first behind what the assistant says; None where none does, or where the
        template cannot render a question and its answer."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": CUT}]
        try:
            pieces = self._pieces(messages, False, 100)
        except InputError:
            return None
        behind = pieces[pieces.index(CUT) :] if CUT in pieces else []
        return next((piece for piece in behind if isinstance(piece, int)), None)

    def _pieces(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, size: int) -> list[str | int]:
        if self.bounded:
            with suppress(Costly):
                return self._program.render(messages, add_generation_prompt, size, MOST_SIZE)
        return self._guarded(messages=messages, add_generation_prompt=add_generation_prompt, size=size, most=MOST_SIZE)

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
        if isinstance(content, (list, tuple)) and content:
            for j, part in enumerate(content):
                _check_part(f"messages[{i}].content[{j}]", part)
        elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            what = "an empty list" if content == [] else type(content).__name__
            raise InputError(f"messages[{i}].content is {what}; give a string, or a list of text parts")
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


def content_text(message: Mapping[str, Any]) -> str | None:
    """The text of a message that `check_messages` has seen: of text parts, all of them without anything between; None
    where it has tool calls alone."""
    content = message.get("content")
    return "".join(part["text"] for part in content) if isinstance(content, (list, tuple)) else content


def _joined(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose content is text, not a list of parts."""
    parts = isinstance(message.get("content"), (list, tuple))
    return {**message, "content": content_text(message)} if parts else message


def _check_part(place: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise InputError(f'{place} is {shown(part)}; give a part such as {{"type": "text", "text": "..."}}')
    if kind != "text":
        raise InputError(f"{place} is a part of the type {shown(kind)}; only text parts can be read, leave it out")
    if set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise InputError(f"{place} is {shown(part)}; a text part has its type and a text, and nothing else")


def _until_cut(pieces: Sequence[str | int], text: str) -> list[str | int]:
    """The pieces up to where the last message's `text` ends; without white space behind it where the template leaves
    that out."""
    at = pieces.index(CUT) if pieces.count(CUT) == 1 else 0
    before, behind = [*pieces[:at]], pieces[at + 1 : at + 2]
    last = before.pop() if before and isinstance(before[-1], str) else ""
    assert isinstance(last, str)
    text = text.lstrip()
    if not (behind and isinstance(behind[0], str) and behind[0].startswith(" ")):
        last = last.removesuffix(text[len(text.rstrip()) :])
        text = text.rstrip()
    if at == 0 or not last.endswith(text):
        raise InputError(
            "the chat template does not write the text of the last message as it is, and so it cannot be continued; "
            "set continue_final_message to false, which opens a new turn behind it"
        )
    return [*before, last]


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
