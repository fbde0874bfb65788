"""A checkpoint's chat template, rendered in a sandbox so that only the template can write special tokens.

A special token that the template's source writes becomes, in the compiled template, one lone surrogate code point.
Text that a caller sends cannot hold one (it is not valid Unicode, and refused), so after rendering every surrogate
is a special token of the template and everything else is ordinary text, whatever it spells. Constants that the
template compares, splits or searches with are left alone: `'</think>' in message.content` still works.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InputError, refuse, shown

_FIRST_MARK, _MARKS = 0xD800, 0x800
"""The lone surrogates: 2,048 code points that valid text does not hold."""

_MAX_ITERATIONS = 1_000_000
"""Loop passes of one rendering; a template that needs more is taken to be endless."""


class _GenerationBlock(Extension):
    """`{% generation %}` of training templates: its body, unchanged."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """`render` turns messages into pieces: ordinary text and ids of special tokens.

    `source` is the jinja2 template, `specials` maps the text of every added token to its id, `variables` are the
    names that transformers gives a template besides the messages (`bos_token`, `eos_token`, ...).
    Raises InputError where the template cannot be compiled.
    """

    def __init__(self, source: str, specials: Mapping[str, int], variables: Mapping[str, str]) -> None:
        self._ids: dict[str, int] = {}
        """Token id of each mark."""
        self._names: dict[str, str] = {}
        """Mark of each special token's text that the template writes."""
        self._specials = specials
        self._pattern = any_of(specials)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception, strftime_now=lambda f: datetime.now().strftime(f))
        try:
            tree = environment.parse(source)
            self._mark(tree, environment)
            self._template = environment.from_string(tree)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"the chat template cannot be compiled: {_one_line(error)}") from error
        self._variables = {name: self._marked(text) for name, text in variables.items()}

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[str | int]:
        """Pieces of the rendered text in order: `str` is ordinary text, `int` the id of a special token.

        Raises InputError, naming the message, where it has no role or no text, and where the template raises.
        """
        check_messages(messages)
        steps = count(1)

        def tick() -> None:
            if next(steps) > _MAX_ITERATIONS:
                raise InputError(f"the chat template ran through {_MAX_ITERATIONS} loop passes without an end")

        try:
            text = self._template.render(
                **self._variables,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                _tick=tick,
            )
        except InputError:
            raise
        except Exception as error:  # a template is a program: any exception in it means that it cannot render this
            raise InputError(f"the chat template cannot render these messages: {self._shown(error)}") from error
        pieces = [self._ids.get(piece, piece) for piece in re.split("([\ud800-\udfff])", text) if piece]
        self._refuse_composed([piece for piece in pieces if isinstance(piece, str)], messages)
        return pieces

    def _mark(self, tree: nodes.Node, environment: Environment) -> None:
        """Replace special tokens in what the template writes, and count the passes of every loop."""
        for node in tree.iter_child_nodes():
            if isinstance(node, nodes.TemplateData):
                node.data = self._marked(node.data)
            elif isinstance(node, nodes.Const) and isinstance(node.value, str):
                node.value = self._marked(node.value)
            elif isinstance(node, (nodes.Compare, nodes.Test)):
                continue  # asks about text, writes none
            elif isinstance(node, (nodes.Filter, nodes.Getitem)) or (
                isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr)
            ):
                # The arguments of a filter or a method (split, replace, ...) search in text.
                if node.node is not None:
                    self._mark(nodes.List([node.node]), environment)
            else:
                if isinstance(node, nodes.For):
                    tick = nodes.Call(nodes.Name("_tick", "load"), [], [], None, None)
                    node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
                    node.set_environment(environment)
                self._mark(node, environment)

    def _marked(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._mark_of(match.group()), text)

    def _mark_of(self, special: str) -> str:
        if special not in self._names:
            if len(self._names) == _MARKS:
                raise InputError(f"the chat template writes more than {_MARKS} different special tokens")
            mark = chr(_FIRST_MARK + len(self._names))
            self._names[special] = mark
            self._ids[mark] = self._specials[special]
        return self._names[special]

    def _refuse_composed(self, texts: Sequence[str], messages: Sequence[Mapping[str, Any]]) -> None:
        """Text that spells a special token must have it from a message. One that was put together, as `'<|' + role +
        '|>'` is, would be a special token to transformers and ordinary text here, so it is refused."""
        for special in sorted({special for text in texts for special in self._pattern.findall(text)}):
            if not any(special in text for _, text in _strings(messages, "messages")):
                raise InputError(
                    f"the chat template puts {special!r} together from pieces; write it out in the "
                    "template as one string"
                )

    def _shown(self, error: Exception) -> str:
        text = _one_line(error)
        for special, mark in self._names.items():
            text = text.replace(mark, special)
        return text


def check_messages(messages: Any) -> None:
    """Raise InputError, naming the place, unless `messages` is a non-empty list of objects with role and content."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError('messages is not a non-empty list; give [{"role": "user", "content": "..."}]')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"messages[{i}] is {type(message).__name__}; give an object with role and content")
        role, content = message.get("role"), message.get("content")
        refuse(
            (not isinstance(role, str), f'messages[{i}].role is {shown(role)}; give a string such as "user"'),
            (
                not isinstance(content, str) and not (content is None and message.get("tool_calls")),
                f"messages[{i}].content is {type(content).__name__}; give a string",
            ),
        )
        # No tokenizer can encode lone surrogates, and they are the template's marks.
        for where, text in _strings(message, f"messages[{i}]"):
            bad = re.search("[\ud800-\udfff]", text)
            if bad:
                raise InputError(
                    f"{where} holds the lone surrogate U+{ord(bad.group()):04X} at character {bad.start()}; "
                    "give valid Unicode text"
                )


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of `texts` that stands at a place; where there are none, nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """(place, text) of every string inside messages, keys included."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key, f"a key of {where}")
            yield from _strings(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _strings(item, f"{where}[{i}]")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers' templates expect it: without jinja2's HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
