"""Sets of real numbers: intervals, inequalities, unions and what is left out, compared by what they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.grading.node import Node, number
from curate.grading.values import NoValue, close, names, real


@dataclass(frozen=True)
class Region:
    """A set of reals: where it may change, and whether it holds a place. Places are ranks among all ends: 2*i is the
    i-th end, the odd ones lie between."""

    ends: tuple[Any, ...]
    holds: Callable[[int, Mapping[Any, int]], bool]


def same(a: Region, b: Region) -> bool:
    """Whether two regions hold the same reals."""
    ranks: dict[Any, int] = {}
    count, last = -1, None
    for end in sorted((*a.ends, *b.ends)):
        if last is None or not close(last, end):
            count, last = count + 1, end
        ranks[end] = 2 * count
    return all(a.holds(p, ranks) == b.holds(p, ranks) for p in range(-1, 2 * count + 2))


def _ray(end: Any, below: bool, closed: bool) -> Region:
    """Everything below or above an end."""

    def holds(place: int, ranks: Mapping[Any, int]) -> bool:
        at = ranks[end]
        return (place < at if below else place > at) or (closed and place == at)

    return Region((end,), holds)


EVERYTHING, NOTHING = Region((), lambda place, ranks: True), Region((), lambda place, ranks: False)


def _joined(a: Region, b: Region, op: Callable[[bool, bool], bool]) -> Region:
    return Region((*a.ends, *b.ends), lambda place, ranks: op(a.holds(place, ranks), b.holds(place, ranks)))


def _union(a: Region, b: Region) -> Region:
    return _joined(a, b, lambda x, y: x or y)


def _both(a: Region, b: Region) -> Region:
    return _joined(a, b, lambda x, y: x and y)


def _without(a: Region, b: Region) -> Region:
    return _joined(a, b, lambda x, y: x and not y)


def _empty(region: Region) -> bool:
    return same(region, NOTHING)


def _infinite(node: Node) -> int:
    """1 for infinity, -1 for its negative, 0 for what is none."""
    if node.op == "neg":
        return -_infinite(node.parts[0])
    return int(node.op == "infty")


def interval(node: Node) -> Region:
    """Of a pair in round or square brackets. Raises NoValue where its ends are none of an interval."""
    (low, high), kind = node.parts, node.text
    found = EVERYTHING
    if _infinite(low) != -1:
        found = _both(found, _ray(real(low), below=False, closed=kind[0] == "["))
    if _infinite(high) != 1:
        found = _both(found, _ray(real(high), below=True, closed=kind[1] == "]"))
    if (_infinite(low) and kind[0] == "[") or (_infinite(high) and kind[1] == "]"):
        raise NoValue("infinity is no element")
    if _empty(found):
        raise NoValue("no interval")
    return found


_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


def _inequality(node: Node) -> tuple[Region, str]:
    """(region, variable) of a relation between a lone variable and a constant."""
    left, right, sign = *node.parts, node.text
    if sign == "in":
        return region(right), _variable(left)
    if (left.op == "apply" and sign in ("<", "<=", ">", ">=")) or right.op == "apply":  # what a function's values are
        left, right = (Node("name", text=str(n)) if n.op == "apply" else n for n in (left, right))
    if not names(left):
        left, right, sign = right, left, _FLIPPED[sign]
    if left.op == "abs" and sign in ("<", "<=", ">", ">="):
        inner, far = left.parts[0], Node("neg", (right,))
        (near, name), (other, _) = (
            _inequality(Node("relation", pair, s))
            for pair, s in (((inner, right), sign), ((inner, far), _FLIPPED[sign]))
        )
        return (_both if sign[0] == "<" else _union)(near, other), name
    if left.op != "name":
        return _linear(left, right, sign)
    name = _variable(left)
    if endless := _infinite(right):
        if sign not in ("<", ">"):
            raise NoValue("infinity is no number")
        return (EVERYTHING if (sign == "<") == (endless > 0) else NOTHING), name
    end = real(right)
    if sign in ("=", "!="):
        return (_place(end) if sign == "=" else _without(EVERYTHING, _place(end))), name
    return _ray(end, below=sign[0] == "<", closed=sign.endswith("=")), name


def _linear(left: Node, right: Node, sign: str) -> tuple[Region, str]:
    """A relation between a*x + b and a constant, solved for x."""
    if sign == "=" or len(names(left)) != 1:
        raise NoValue("no inequality")
    name = next(iter(names(left)))

    def at(value: int) -> Any:
        return real(replaced(left, name, number(value)))

    if any(n.op not in ("number", "name", "add", "mul", "div", "neg") and names(n) for n in left.walk()):
        raise NoValue("not linear")
    start, slope = at(0), at(1) - at(0)
    if not close(at(3) - start, 3 * slope) or not close(at(-5) - start, -5 * slope) or close(slope, 0):
        raise NoValue("not linear")
    end = (real(right) - start) / slope
    sign = sign if slope > 0 else _FLIPPED[sign]
    if sign == "!=":
        return _without(EVERYTHING, _place(end)), name
    return _ray(end, below=sign[0] == "<", closed=sign.endswith("=")), name


def replaced(node: Node, name: str, by: Node) -> Node:
    """`node` with another node for a name."""
    if node.op == "name" and node.text == name:
        return by
    return replace(node, parts=tuple(replaced(part, name, by) for part in node.parts))


def _variable(node: Node) -> str:
    if node.op != "name" or node.text in ("pi", "e", "i", "reals") or names(node) == frozenset():
        raise NoValue("no variable")
    return node.text


def condition(node: Node) -> tuple[Region, str]:
    """(region, variable) of inequalities in one variable. Raises NoValue where it is nothing of the kind."""
    if node.op == "relation":
        return _inequality(node)
    if node.op not in ("chain", "list"):
        raise NoValue("no condition")
    found = [condition(part) for part in node.parts]
    if len({name for _, name in found}) != 1:
        raise NoValue("several variables")
    regions = [one for one, _ in found]
    met = _fold(regions, _both)
    # A comma says `and` where that is possible (x > 0, x != 1), otherwise `or` (x < 1, x > 4).
    either = node.op == "list" and (node.text == "or" or (node.text == "," and _empty(met)))
    return (_fold(regions, _union) if either else met), found[0][1]


def _fold(regions: Sequence[Region], op: Callable[[Region, Region], Region]) -> Region:
    found = regions[0]
    for other in regions[1:]:
        found = op(found, other)
    return found


def region(node: Node) -> Region:
    """The reals that a node stands for. Raises NoValue where it is no set of reals."""
    match node.op:
        case "union" | "intersection" | "difference":
            op = {"union": _union, "intersection": _both, "difference": _without}[node.op]
            return op(region(node.parts[0]), region(node.parts[1]))
        case "tuple" if len(node.parts) == 2 and node.text in ("()", "[]", "(]", "[)"):
            return interval(node)
        case "set":
            return _fold([NOTHING, *(_place(real(part)) for part in node.parts)], _union)
        case "name" if node.text == "reals":
            return EVERYTHING
        case "builder":
            head, body = node.parts
            found, name = condition(body)
            inside = EVERYTHING
            if head.op == "relation" and head.text == "in":
                inside, head = region(head.parts[1]), head.parts[0]
            if _variable(head) != name:
                raise NoValue("another variable")
            return _both(inside, found)
        case "list" if node.text in ("or", ",") and not any(p.op in ("relation", "chain") for p in node.parts):
            if node.text == "," and not any(p.text in ("(]", "[)") or any(map(_infinite, p.parts)) for p in node.parts):
                raise NoValue("pairs")
            return _fold([region(part) for part in node.parts], _union)
    return condition(node)[0]


def _place(value: Any) -> Region:
    """One number."""
    return _both(_ray(value, below=True, closed=True), _ray(value, below=False, closed=True))
