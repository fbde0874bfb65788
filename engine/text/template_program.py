"""A chat template as a program: compiled in a sandbox so that only what it writes itself can be special tokens.

A special token that the template's source writes becomes, in the compiled template, one lone surrogate code point.
Text that a caller sends cannot hold one (it is not valid Unicode, and refused), so after rendering every surrogate
is a special token of the template and everything else is ordinary text, whatever it spells. Constants that the
template compares, splits or searches with are left alone: `'</think>' in message.content` still works.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InputError
from engine.text.literals import any_of
from engine.text.meter import Costly, Meter, MeteredEnvironment, metered

_FIRST_MARK, _MARKS = 0xD800, 0x7FF
"""The lone surrogates: 2,048 code points that valid text does not hold."""
CUT = "\udfff"
"""The last of them is no special token: a message may end in it, and a piece of what is rendered says where that was.
"""


class _GenerationBlock(Extension):
    """`{% generation %}` of training templates: its body, unchanged."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateProgram:
    """`render` turns messages into pieces: ordinary text and ids of special tokens.

    `source` is the jinja2 template, `specials` maps the text of every added token to its id, `variables` are the
    names that transformers gives a template besides the messages (`bos_token`, `eos_token`, ...). With `metered`
    nothing is compiled that has no known bound, `bounded` says whether this has, and `render` raises Costly where it
    would cost too much. Raises InputError where the template cannot be compiled.
    """

    def __init__(
        self, source: str, specials: Mapping[str, int], variables: Mapping[str, str], metered: bool = True
    ) -> None:
        self._ids: dict[str, int] = {}
        """Token id of each mark."""
        self._names: dict[str, str] = {}
        """Mark of each special token's text that the template writes."""
        self._specials = specials
        self._pattern = any_of(specials)
        self._metered = metered
        kind = MeteredEnvironment if metered else ImmutableSandboxedEnvironment
        environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        try:
            tree = environment.parse(source)
            self._mark(tree)
            self.bounded = _bound(tree, environment)
            self._template = environment.from_string(tree) if self.bounded or not metered else None
        except InputError:
            raise
        except Exception as error:  # besides TemplateError: whatever Python's compiler says of what jinja2 wrote
            raise InputError(f"the chat template cannot be compiled: {_one_line(error)}") from error
        self._variables = {name: self._marked(text) for name, text in variables.items()}

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, size: int, most: int
    ) -> list[str | int]:
        """Pieces of the rendered text in order: `str` is ordinary text, `int` the id of a special token.

        `size` is that of the messages in characters, `most` that of what they may become. Raises InputError where the
        template raises.
        """
        assert self._template is not None
        meter = {"_meter": Meter(size)} if self._metered else {}
        try:
            text = self._template.render(
                **self._variables,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **meter,
            )
        except (Costly, MemoryError):
            raise
        except Exception as error:  # a template is a program: any exception in it means that it cannot render this
            if self._metered and isinstance(error, RecursionError):  # which depends on who called
                raise Costly from None
            raise InputError(f"the chat template cannot render these messages: {self._shown(error)}") from error
        if len(text) > most:
            raise InputError(
                f"the chat template makes {len(text):,} characters of these messages, and at most {most:,} fit; "
                "shorten them"
            )
        return [self._ids.get(piece, piece) for piece in re.split("([\ud800-\udfff])", text) if piece]

    def _mark(self, tree: nodes.Node) -> None:
        """Replace special tokens in what the template writes."""
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
                    self._mark(nodes.List([node.node]))
            else:
                self._mark(node)

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

    def _shown(self, error: Exception) -> str:
        text = _one_line(error)
        for special, mark in self._names.items():
            text = text.replace(mark, special)
        return text


def _bound(tree: nodes.Template, environment: ImmutableSandboxedEnvironment) -> bool:
    return isinstance(environment, MeteredEnvironment) and metered(tree, environment)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error)[:1000].split()) or type(error).__name__


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers' templates expect it: without jinja2's HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
