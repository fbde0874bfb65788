"""What a chat template costs: templates whose every operation can be charged by its size are rendered in the engine's
own process under a meter, all others in one that can be killed.

`metered` rewrites a template's tree so that its rendering charges a `Meter`: every pass of a loop and call of a macro
by what stands in it, every operation on text by the length of it. What is charged bounds time and memory alike, since
none of the operations that are let through costs more than a constant times its operands: no operator but `+` makes
text longer, and no list that a template makes holds a list. Where a template uses anything else, or a rendering spends
more than there is, `Costly` sends it to the other process: nothing is refused here.
"""

import math
from collections.abc import Iterator
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_LIMIT = 50_000_000
"""Most that one rendering may spend, in characters: less than a second, and at most 200 MB of them."""
_STEP = 64
"""What an operation costs apart from its operands, in characters."""
_LITERAL = 64
"""Largest number and longest text among the arguments of filters, tests and methods."""
_INDENT = 8
"""Largest indent of JSON."""
_DEPTH = 32
"""Macros called inside macros: Python's stack is the caller's, too."""
_EXACT = 2**63
"""Numbers are kept below it, so that arithmetic costs the same whatever its operands."""

_FILTERS = frozenset(
    {
        "capitalize",
        "count",
        "d",
        "default",
        "first",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "reject",
        "rejectattr",
        "select",
        "selectattr",
        "string",
        "tojson",
        "trim",
        "upper",
    }
)
_CHARACTERS = frozenset({"join", "list", "map", "reject", "rejectattr", "select", "selectattr"})
"""Filters that make an item of each character of a text."""
_TESTS = frozenset(
    {
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "eq",
        "equalto",
        "even",
        "false",
        "float",
        "ge",
        "gt",
        "integer",
        "iterable",
        "le",
        "lt",
        "mapping",
        "ne",
        "none",
        "number",
        "odd",
        "sequence",
        "string",
        "true",
        "undefined",
    }
)
_TEXT_METHODS = frozenset(
    {
        "capitalize",
        "count",
        "endswith",
        "find",
        "isalnum",
        "isalpha",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "isupper",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
    }
)
_MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})
_FUNCTIONS = frozenset({"namespace", "raise_exception", "range", "strftime_now"})
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%"})
_NODES: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Macro, nodes.ExprStmt),
    *(nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Continue, nodes.Name, nodes.NSRef, nodes.Const, nodes.List),
    *(nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)


class Costly(Exception):
    """This rendering may cost more than the meter can bound."""


class Meter:
    """What one rendering has spent. `size` is that of everything that it is given, in characters."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = _LIMIT
        self.depth = 0
        """Calls of macros that are going on."""

    def charge(self, amount: int) -> None:
        """Raises Costly where nothing is left."""
        self._left -= amount
        if self._left < 0:
            raise Costly

    def weigh(self, value: Any, per_item: int = 0, per_char: int = 1) -> Any:
        """`value`, charged by its size: an operation goes through all of it, or only through its items, at `per_item`
        each; through text at `per_char`. What a filter would make one by one is made, so that it can be charged."""
        if isinstance(value, (Namespace, Macro, LoopContext)):
            raise Costly  # written out, one may hold another many times; or it goes on with its loop, uncounted
        if isinstance(value, Iterator):
            value = list(value)
        if isinstance(value, str):
            self.charge(len(value) * per_char)
        elif isinstance(value, (list, tuple)):
            self.charge(_STEP * len(value))
            if not per_item:
                self.charge(sum([len(item) if isinstance(item, str) else self._size for item in value]))
        elif isinstance(value, (dict, range)):
            self.charge(self._size + _STEP * len(value))
        elif isinstance(value, int):
            if not -_EXACT < value < _EXACT:
                raise Costly
        elif not isinstance(value, (float, Undefined, type(None))):
            self.charge(self._size + _STEP)  # a view of a mapping
        return value

    def method(self, owner: str, name: str, args: tuple[Any, ...]) -> None:
        """Charge a call of a method of text: its own length, and what `split` and `replace` make of it."""
        if name not in _TEXT_METHODS or any(isinstance(arg, str) and len(arg) > _LITERAL for arg in args):
            raise Costly
        if name in ("split", "rsplit", "splitlines", "replace"):
            parts = owner.count(args[0]) if args and isinstance(args[0], str) else len(owner)
            self.charge(max(_STEP, _LITERAL) * parts)
        looks = 1 + len(args[0]) if name.endswith("strip") and args and isinstance(args[0], str) else 2
        self.charge(looks * len(owner) + _STEP)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Renders what `metered` has let through; the meter is the variable `_meter`."""

    intercepted_binops = _OPERATORS

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_weigh, **options)
        self.filters.update(_weigh=_weigh, _tick=_tick, _concat=_concat, _flat=_flat)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Text is added, numbers are what a processor computes with; anything else is Costly."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _meter(context).charge(len(left) + len(right))
        elif operator == "+" and isinstance(left, list) and isinstance(right, list):
            _meter(context).charge(_STEP * (len(left) + len(right)))
        elif not all(isinstance(x, float) or (isinstance(x, int) and -_EXACT < x < _EXACT) for x in (left, right)):
            raise Costly
        return self.binop_table[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Known methods and functions; anything else is Costly."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            _meter(__context).method(owner, name, args)
        elif any(__obj is __self.globals[function] for function in _FUNCTIONS):
            for value in (*args, *kwargs.values()):  # what is raised is written out
                if __obj is __self.globals["strftime_now"] and not (isinstance(value, str) and len(value) <= _LITERAL):
                    raise Costly  # a width in it makes text of any length
                _meter(__context).weigh(value)
        elif not (isinstance(__obj, (Macro, Undefined)) or (isinstance(owner, dict) and name in _MAPPING_METHODS)):
            raise Costly
        if not isinstance(__obj, Macro):
            return super().call(__context, __obj, *args, **kwargs)
        meter = _meter(__context)
        meter.depth += 1
        if meter.depth > _DEPTH:
            raise Costly
        text = super().call(__context, __obj, *args, **kwargs)
        meter.depth -= 1
        return text


def metered(tree: nodes.Template, environment: MeteredEnvironment) -> bool:
    """Rewrite `tree` to charge the meter, and say so; False where it holds something that has no known bound."""
    written = {
        id(node.node): node.node
        for node in tree.find_all(nodes.Filter)
        if node.name == "tojson" and isinstance(node.node, nodes.Dict)
    }
    """Objects that become text where they are made."""
    if not all(id(node) in written or _has_bound(node) for node in tree.find_all(nodes.Node)):
        return False
    for made in written.values():
        for pair in made.items:
            pair.value = _weighed(pair.value)
    for node in [*tree.find_all((nodes.For, nodes.Macro))]:
        assert isinstance(node, (nodes.For, nodes.Macro))
        inside = [*node.find_all(nodes.Node)]
        weight = _STEP * len(inside) + sum(len(part.data) for part in inside if isinstance(part, nodes.TemplateData))
        tick = nodes.Filter(nodes.Const(weight), "_tick", [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(tick, node.test)  # what the test leaves out is gone through as well
    _rewrite(tree)
    for any_node in tree.find_all(nodes.Node):
        any_node.lineno = any_node.lineno or 1
    tree.set_environment(environment)
    return True


def _has_bound(node: nodes.Node) -> bool:
    """Whether a node, its children apart, costs no more than a constant times what it works on."""
    if not isinstance(node, _NODES):
        return False
    if isinstance(node, (nodes.Name, nodes.NSRef)):
        return node.name not in ("varargs", "kwargs", "caller", "self") and not node.name.startswith("_")
    if isinstance(node, (nodes.Tuple, nodes.Dict)):
        return getattr(node, "ctx", "load") == "store" or _is_literal(node)
    if isinstance(node, nodes.For):
        return not node.recursive
    if isinstance(node, nodes.AssignBlock):
        return node.filter is None
    if not isinstance(node, (nodes.Filter, nodes.Test, nodes.Call)):
        return True
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        return False
    arguments = [*node.args, *(keyword.value for keyword in node.kwargs)]
    literal = all(_is_literal(value, _LITERAL) for value in arguments)
    if isinstance(node, nodes.Test):
        return node.name in _TESTS and literal
    if isinstance(node, nodes.Call):
        if isinstance(node.node, nodes.Getattr):
            return node.node.attr in _TEXT_METHODS | _MAPPING_METHODS and literal
        return isinstance(node.node, nodes.Name) and (literal or node.node.name != "strftime_now")
    if node.node is None or node.name not in _FILTERS or not (literal or node.name in ("d", "default")):
        return False
    if node.name == "tojson":  # an indent stands before every item, as often as it lies deep
        return not node.args and all(word.key != "indent" or _is_literal(word.value, _INDENT) for word in node.kwargs)
    if node.name == "map":
        return not node.args or getattr(node.args[0], "value", None) in ("trim", "string", "lower", "upper")
    at = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}.get(node.name)
    return at is None or len(node.args) <= at or getattr(node.args[at], "value", None) in _TESTS


def _is_literal(node: nodes.Node, most: float = math.inf) -> bool:
    """Whether it is made of constants, whole numbers and lengths of text up to `most`."""
    if isinstance(node, nodes.Const):
        value = node.value
        return not isinstance(value, (str, int)) or (len(value) if isinstance(value, str) else abs(value)) <= most
    return isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair)) and all(
        _is_literal(item, most) for item in node.iter_child_nodes()
    )


def _rewrite(node: nodes.Node) -> None:
    """Put `_weigh` around what an operation goes through, from the leaves up."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_rewritten(item) if isinstance(item, nodes.Node) else item for item in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _rewritten(value))


def _rewritten(node: nodes.Node) -> nodes.Node:
    _rewrite(node)
    if isinstance(node, nodes.Concat):
        return nodes.Filter(node.nodes[0], "_concat", node.nodes[1:], [], None, None)
    if isinstance(node, nodes.List) and not _is_literal(node):
        return nodes.Filter(node, "_flat", [], [], None, None)
    if isinstance(node, nodes.Filter) and node.node is not None and not node.name.startswith("_"):
        # These go through what lists hold, the others through lists.
        whole = node.name in ("tojson", "string", "join", "map", "capitalize", "upper", "lower", "trim")
        node.node = _weighed(node.node, 0 if whole else 1, _STEP if node.name in _CHARACTERS else 1)
        return _weighed(node) if node.name in ("tojson", "join") else node
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            node.node = _weighed(node.node, 1)
        else:
            node.arg = _weighed(node.arg)  # what is not found is written out
    if isinstance(node, nodes.Compare):
        for operand in node.ops:
            within = operand.op in ("in", "notin")
            if not _is_literal(operand.expr) and (within or not _is_literal(node.expr)):
                operand.expr = _weighed(operand.expr)
    return node


def _weighed(node: nodes.Expr, per_item: int = 0, per_char: int = 1) -> nodes.Expr:
    if _is_literal(node):
        return node
    return nodes.Filter(node, "_weigh", [nodes.Const(per_item), nodes.Const(per_char)], [], None, None)


def _meter(context: Context) -> Meter:
    return context.parent["_meter"]  # not a template's own variable, which is in `vars`


@pass_context
def _weigh(context: Context, value: Any, per_item: int = 0, per_char: int = 1) -> Any:
    return _meter(context).weigh(value, per_item, per_char)


@pass_context
def _tick(context: Context, weight: int) -> bool:
    _meter(context).charge(weight)
    return True


@pass_context
def _concat(context: Context, *values: Any) -> str:
    weigh = _meter(context).weigh
    return "".join([str(weigh(value)) for value in values])


def _flat(made: list[Any]) -> list[Any]:
    """A list that a template makes, of which none may be inside another: text, numbers, and what was given."""
    if not all(isinstance(item, (str, int, float, dict, Undefined, type(None))) for item in made):
        raise Costly
    return made
