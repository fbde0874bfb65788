"""Whether two answers are one: by what they were read as, kind by kind.

Call this in a process that may be killed, unless both are plain numbers.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from curate.grading import regions
from curate.grading.node import Node, number
from curate.grading.reader import Unread, read
from curate.grading.tokens import tokens
from curate.grading.values import NoValue, Samples, Settings, names, real, sample
from curate.grading.values import exact as exact_value
from curate.grading.values import same as same_samples
from curate.grading.words import KNOWN, listed

LEAST_DECIMALS = 6
"""A decimal with at least this many places may stand for a value that it rounds or cuts off."""
LONGEST_SET = 8
"""Sets with more elements are compared in the order of their values only."""
MOST_SIGNS = 4
"""Signs plus-minus in one answer."""


@dataclass(frozen=True)
class Comparison:
    """The verdict on two answers, the rule that decided, and what each was read as ("" where it was not read)."""

    correct: bool
    rule: str
    gold: str = ""
    given: str = ""


def spelling(text: str) -> str:
    """An answer in one spelling, without spaces, markup or the ways to write one command: equal spellings are equal
    answers, whatever they mean."""
    found = tokens(text)
    written = (("\\" + t.text if t.kind == "command" else t.text, t) for t in found)
    # A space behind a comma tells 12, 345 from 12,345.
    flat = "".join(" " + said if t.apart and t.kind in ("number", "text") else said for said, t in written).lstrip()
    return re.sub(r"\{(\w)\}", r"\1", flat)


def plain_number(text: str) -> Node | None:
    """The number that a short text is, maybe with a sign, a percent sign or a unit; None for anything else."""
    if len(text) > 200 or not any(char.isdigit() for char in text):
        return None
    try:
        found = read(text)
    except (Unread, RecursionError):
        return None
    inner = found
    while inner.op in ("neg", "percent", "quantity", "degree"):
        inner = inner.parts[0]
    if inner.op == "div":
        bare = [part.parts[0] if part.op == "neg" else part for part in inner.parts]
        plain = all(part.op == "number" for part in bare) and bool(bare[1].value)
        return found if plain else None
    return found if inner.op == "number" else None


def canonical(text: str) -> str:
    """One text for what is equal at a glance: a plain number's value, or the spelling."""
    found = plain_number(text)
    value = None if found is None or found.op == "degree" else exact_value(_measure(found)[0])
    return spelling(text) if value is None else str(value)


def equal(gold: str, given: str) -> Comparison:
    """Compare a reference and an answer. Never raises for text, but RecursionError and MemoryError in their kind."""
    if spelling(gold) == spelling(given):
        return Comparison(True, "string", gold, given)
    clock = _clock(gold, given)
    if clock is not None:
        return Comparison(clock, "clock", gold, given)
    read_as: list[Node | None] = []
    for text in (gold, given):
        try:
            read_as.append(read(text))
        except Unread:
            read_as.append(None)
    a, b = read_as
    if a is None and b is None and (said := _prose(gold)) is not None:
        return Comparison(said == _prose(given), "words", gold, given)
    if a is None or b is None:
        return Comparison(False, "unread", "" if a is None else str(a), "" if b is None else str(b))
    correct, rule = _Pair().compare(a, b)
    return Comparison(correct, rule, str(a), str(b))


def _prose(text: str) -> list[str] | None:
    """The words and numbers of an answer without any mathematics, such as "July 4, 1776"."""
    found = [t for t in tokens(text) if t.text not in (",", ".", "-", "'")]
    plain = all(t.kind in ("text", "number") for t in found) and any(t.kind == "text" for t in found)
    return [t.text.lower() for t in found] if plain else None


_CLOCK = re.compile(r"\s*0?(\d{1,2}):(\d{2})(?:\s*([ap])\.?\s?m\.?)?\s*", re.IGNORECASE)


def _clock(gold: str, given: str) -> bool | None:
    """Whether two times of day are one; None where one is none."""
    a, b = (_CLOCK.fullmatch(re.sub(r"\\text\{([^{}]*)\}|\$", r"\1", text)) for text in (gold, given))
    if a is None or b is None:
        return None
    halves = [(c[3] or "").lower() for c in (a, b)]
    hours = [int(c[1]) for c in (a, b)]
    by_24 = [hour % 12 + 12 * (half == "p") if half else hour for hour, half in zip(hours, halves, strict=True)]
    alike = hours[0] == hours[1] and "" in halves
    return a[2] == b[2] and (alike or by_24[0] == by_24[1])


Verdict = tuple[bool, str]
_CONDITIONS = listed("relation chain union intersection difference builder")


class _Pair:
    """One comparison; keeps what it has evaluated."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Samples | None] = {}

    def compare(self, a: Node, b: Node) -> Verdict:
        """(one answer?, rule)."""
        if a == b:
            return True, a.op
        first, second = a, b = _signs(a), _signs(b)
        (a_names, a), (b_names, b) = _labels(a), _labels(b)
        if a_names and b_names:
            if sorted(a_names) != sorted(b_names) and _equations(first, second) and names(first) == names(second):
                return self._relations(first, second), "relation"  # y = 1 - x and x = 1 - y
            return self._named(a_names, a, b_names, b)
        if a_names or b_names:
            if len(a_names or b_names) > 1:
                return self._mapping_and_values(a_names or b_names, a if a_names else b, b if a_names else a)
            if _equations(first, second) and "relation" in (a.op, b.op):
                return self._relations(first, second), "relation"
        return self._unnamed(a, b)

    # Names and their values

    def _named(self, a_names: tuple[str, ...], a: Node, b_names: tuple[str, ...], b: Node) -> Verdict:
        if sorted(a_names) != sorted(b_names):
            function = [n for n in (*a_names, *b_names) if "(" in n]
            plain = function and not any(re.search(r"['^]|\([^)]*\d", n) for n in (*a_names, *b_names))
            if not (len(a_names) == len(b_names) == 1 and plain and {*a_names, *b_names} & {"y"}):
                return False, "names"
        if len(a_names) == 1:
            return self._unnamed(a, b)
        if a_names != b_names:
            if {a.op, b.op} != {"tuple"}:
                return False, "names"
            order = [b_names.index(name) for name in a_names]
            b = replace(b, parts=tuple(b.parts[i] for i in order))
        if a.op == b.op == "tuple":
            return self._ordered(a.parts, b.parts), "map"
        return self._unnamed(a, b)

    def _mapping_and_values(self, named: tuple[str, ...], values: Node, bare: Node) -> Verdict:
        if values.op == "tuple" and bare.op in ("tuple", "list") and bare.text in ("()", "<>", ",", "and"):
            by_name = [values.parts[i] for i in sorted(range(len(named)), key=lambda i: named[i])]
            as_written = values.text == "()" or bare.op == "list"
            if as_written and self._ordered(values.parts, bare.parts):
                return True, "map"
            return values.text != "()" and self._ordered(by_name, bare.parts), "map"
        return self._unnamed(values, bare) if values.op != "tuple" else (False, "names")

    # Everything else

    def _unnamed(self, a: Node, b: Node) -> Verdict:
        if "words" in (a.op, b.op):
            if a.op != b.op and "name" not in (a.op, b.op):  # RC is a product where the other side is one
                a, b = (_product_of_capitals(n) for n in (a, b))
            if "words" in (a.op, b.op):
                return self._words(a, b)
        if "base" in (a.op, b.op):
            return self._bases(a, b)
        if "mod" in (a.op, b.op):
            return self._remainders(a, b)
        ops = {a.op, b.op}
        if ops & _CONDITIONS or _conditional(a) or _conditional(b):
            return self._conditions(a, b)
        if "matrix" in ops or "matrix" in (_scaled(a).op, _scaled(b).op):
            return self._matrices(a, b)
        if "reals" in (a.text, b.text):
            return self._conditions(a, b)
        if "tuple" in ops:
            other = b if a.op == "tuple" else a
            return self._matrices(a, b) if _arithmetic(other) and "j" in names(other) else self._tuples(a, b)
        if ops & {"set", "list"}:
            return self._sets(a, b)
        if "ratio" in ops:
            return self._ratios(a, b)
        return self._values(a, b)

    @staticmethod
    def _words(a: Node, b: Node) -> Verdict:
        if a.op != b.op and {a.op, b.op} != {"words", "name"}:
            return False, "words"
        found = [re.sub(r"\b(?:the|an)\b|[\s\".,!?()]+", " ", n.text.lower()).split() for n in (a, b)]
        return found[0] == found[1], "words"

    def _bases(self, a: Node, b: Node) -> Verdict:
        if a.op == b.op:
            return a.text == b.text, "base"
        based, other = (a, b) if a.op == "base" else (b, a)
        return other.op == "number" and str(other.value) == based.text.split(" ")[0].lstrip("0"), "base"

    def _remainders(self, a: Node, b: Node) -> Verdict:
        if a.op != b.op:
            return False, "mod"
        try:
            modulus, value, other = exact_value(a.parts[1]), exact_value(a.parts[0]), exact_value(b.parts[0])
            if modulus is None or value is None or other is None or exact_value(b.parts[1]) != modulus or not modulus:
                return self._ordered(a.parts, b.parts), "mod"
        except NoValue:
            return False, "mod"
        return (value - other) % modulus == 0, "mod"

    def _conditions(self, a: Node, b: Node) -> Verdict:
        """Inequalities, intervals and their unions by what they hold; equations by their sides."""
        try:
            variables = {regions.condition(n)[1] for n in (a, b) if n.op in ("relation", "chain") or _conditional(n)}
            if len(variables) > 1:
                return False, "names"
        except NoValue:
            pass
        try:
            return regions.same(regions.region(a), regions.region(b)), "region"
        except NoValue:
            pass
        if a.op == b.op == "relation":
            return self._relations(a, b), "relation"
        a, b = _upward(a), _upward(b)
        if a.op == b.op and a.op in ("chain", "list", "union", "intersection", "difference", "builder"):
            if len(a.parts) != len(b.parts) or a.text != b.text:
                return False, "elements"
            if a.op in ("union", "intersection", "list"):
                return self._matched(_flat(a), _flat(b)), "set"
            return self._ordered(a.parts, b.parts), a.op
        return False, "kinds"

    def _relations(self, a: Node, b: Node) -> bool:
        """Whether one is a constant multiple of the other."""
        flip = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
        if a.text == "in" or b.text == "in":
            return a.text == b.text and self._ordered(a.parts, b.parts)
        if not all(_arithmetic(part) for part in (*a.parts, *b.parts)):
            return a.text == b.text and self._ordered(a.parts, b.parts)
        sides = [Node("add", (n.parts[0], Node("neg", (n.parts[1],)))) for n in (a, b)]
        free = names(sides[0]) | names(sides[1])
        if names(sides[0]) != names(sides[1]) or not free:
            return False
        try:
            left, right = (sample(side, free) for side in sides)
        except NoValue:
            return False
        quotients = [
            (x[0] / y[0], x[1] / y[1])
            for x, y in zip(left.values, right.values, strict=True)
            if x is not None and y is not None and x[2] and y[2] and y[0] != 0
        ]
        if len(quotients) < 3 or quotients[0][1] == 0:
            return False
        first = quotients[0][1]
        if any(abs(q[1] - first) > abs(first) * 1e-30 for q in quotients):
            return False
        sign = b.text if first.real > 0 or b.text in ("=", "!=") else flip[b.text]
        return a.text == sign

    def _matrices(self, a: Node, b: Node) -> Verdict:
        a, b = (_scaled(_from_lists(n)) for n in (a, b))
        rows = [_rows(n) for n in (a, b)]
        if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]):
            # A vector may be a column, a row, or components in brackets.
            flat = [_components(n) for n in (a, b)]
            if flat[0] is None or flat[1] is None:
                size = len(flat[0] or flat[1] or ())
                flat = [
                    _of_unit_vectors(n, size) if found is None else found for n, found in zip((a, b), flat, strict=True)
                ]
                left, right = flat
                return left is not None and right is not None and self._ordered(left, right), "vector"
            if "tuple" in (a.op, b.op) and flat[0] is not None and flat[1] is not None:
                return self._ordered(flat[0], flat[1]), "vector"
            return False, "matrix"
        pairs = zip(rows[0], rows[1], strict=True)
        return all(self._ordered(x.parts, y.parts) for x, y in pairs), "matrix"

    def _tuples(self, a: Node, b: Node) -> Verdict:
        if a.op == b.op:
            if a.text != b.text and {a.text, b.text} != {"()", "<>"}:
                return False, "brackets"
            return self._ordered(a.parts, b.parts), "ordered"
        pair, other = (a, b) if a.op == "tuple" else (b, a)
        if other.op == "list" and other.text == "," and pair.text == "()":
            if any(part.op in ("tuple", "set") for part in other.parts):
                return False, "elements"
            return self._ordered(a.parts, b.parts), "ordered"
        return False, "brackets"

    def _sets(self, a: Node, b: Node) -> Verdict:
        if "or" in (a.text, b.text) and "and" in (a.text, b.text):
            return False, "and_or"
        if any(part.text == "dots" for n in (a, b) for part in n.parts):
            return a.op == b.op and self._ordered(a.parts, b.parts), "ordered"
        if a.op != b.op and {a.op, b.op} != {"set", "list"}:
            found, other = (a, b) if a.op in ("set", "list") else (b, a)
            return len(found.parts) == 1 and self.compare(found.parts[0], other)[0], "set"
        left, right = _expanded(a), _expanded(b)
        return self._matched(left, right), "set"

    def _ratios(self, a: Node, b: Node) -> Verdict:
        if a.op != b.op:
            ratio, other = (a, b) if a.op == "ratio" else (b, a)
            if len(ratio.parts) != 2:
                return False, "ratio"
            return self._values(Node("div", ratio.parts), other)
        if len(a.parts) != len(b.parts):
            return False, "ratio"
        if len(a.parts) == 2:
            return self._values(Node("div", a.parts), Node("div", b.parts))[0], "ratio"
        pairs = list(zip(a.parts, b.parts, strict=True))
        if all(self._values(x, y)[0] for x, y in pairs):
            return True, "ratio"
        (first, second), *rest = pairs
        crossed = (self._values(Node("mul", (x, second)), Node("mul", (y, first)))[0] for x, y in rest)
        return not any(n.text == "dots" for n in (*a.walk(), *b.walk())) and all(crossed), "ratio"

    def _ordered(self, a: Sequence[Node], b: Sequence[Node]) -> bool:
        return len(a) == len(b) and all(self.compare(x, y)[0] for x, y in zip(a, b, strict=True))

    def _matched(self, a: Sequence[Node], b: Sequence[Node]) -> bool:
        """Whether the elements of two sets are one to one equal."""
        if len(a) != len(b):
            return False
        if len(a) > LONGEST_SET:
            return self._ordered(_by_value(a), _by_value(b))
        left = list(b)
        for element in a:
            found = next((i for i, other in enumerate(left) if self.compare(element, other)[0]), None)
            if found is None:
                return False
            del left[found]
        return True

    def _values(self, a: Node, b: Node) -> Verdict:
        """Expressions, with units, degrees and percents that one side may leave out."""
        (a, a_unit, a_scale), (b, b_unit, b_scale) = _measure(a), _measure(b)
        if a_unit and not b_unit:
            b, b_unit, b_scale = _lettered(b, a_unit)
        elif b_unit and not a_unit:
            a, a_unit, a_scale = _lettered(a, b_unit)
        a_unit, b_unit = (
            "" if u.startswith("unit") and not v.startswith("unit") else u
            for u, v in ((a_unit, b_unit), (b_unit, a_unit))
        )
        if {a_unit, b_unit} == {"degree", "radian"}:
            a_unit = b_unit = ""
            if "degree" not in {n.op for x in (a, b) for n in x.walk()} or not all(
                self._same(a, b, names(a) | names(b), Settings(), level, frozenset()) for level in (0, 1)
            ):
                return False, "unit"
            return True, "value"
        if a_unit and b_unit:
            if a_unit != b_unit:
                return False, "unit"
            if a_scale != b_scale:
                a, b = (Node("mul", (n, number(s))) for n, s in ((a, a_scale), (b, b_scale)))
        a, b = _unpaired(a, b)
        if not (_arithmetic(a) and _arithmetic(b)):
            endless = [regions._infinite(n) for n in (a, b)]
            return endless[0] == endless[1] != 0, "kinds"
        if _decimal_of(a, b) or _decimal_of(b, a):
            return True, "rounded"
        free = names(a) | names(b)
        constant = not free
        rule = "number" if constant and _is_number(a) and _is_number(b) else "value" if constant else "expression"
        calls = {n.text or n.op for x in (a, b) for n in x.walk() if n.op in ("call", "abs")}
        extra = _kinks(a, b, calls)
        planar = free if calls & {"Re", "Im", "arg"} else free & {"z", "w"} if "abs" in calls else frozenset()
        for settings in _meanings(a, b):
            if all(self._same(a, b, free, settings, level, planar, extra) for level in (0, 1)):
                return True, rule
        return False, rule

    def _same(
        self,
        a: Node,
        b: Node,
        free: frozenset[str],
        settings: Settings,
        level: int,
        planar: frozenset[str],
        extra: tuple[Fraction, ...] = (),
    ) -> bool:
        found = []
        for node in (a, b):
            key = node, free, settings, level, planar, extra
            if key not in self._known:
                try:
                    self._known[key] = sample(node, free, settings, level, planar, extra)
                except NoValue:
                    self._known[key] = None
            found.append(self._known[key])
        return found[0] is not None and found[1] is not None and same_samples(found[0], found[1])


def _kinks(a: Node, b: Node, calls: set[str]) -> tuple[Fraction, ...]:
    """Where expressions with steps or corners may differ: at whole numbers, and beyond the constants in them."""
    if calls & {"floor", "ceil"}:
        return tuple(map(Fraction, (1, 2, 3, 4, 8, 9, 10, 16, 25, 27, 64, 100, 1000)))
    if "abs" not in calls:
        return ()
    far = {n.value for x in (a, b) for n in x.walk() if n.op == "number" and 20 < n.value < 10**9}
    return tuple(value for c in sorted(far)[:4] for value in (c / 3, 2 * c, -2 * c))


def _unpaired(a: Node, b: Node) -> tuple[Node, Node]:
    """Two capitals are a segment, unless the other side has none, or one of them stands alone too: then a product."""
    pairs, alone = [
        [{n.text for n in x.walk() if n.op == "name" and n.text.isupper() and len(n.text) == size} for x in (a, b)]
        for size in (2, 1)
    ]
    split = {p for p in pairs[0] | pairs[1] if not (pairs[0] and pairs[1]) or set(p) & (alone[0] | alone[1])}
    if pairs[0] == pairs[1] and not any(set(p) & (alone[0] | alone[1]) for p in split):
        return a, b
    return _in_letters(a, split), _in_letters(b, split)


def _in_letters(node: Node, pairs: set[str]) -> Node:
    if node.op == "name" and node.text in pairs:
        return Node("mul", tuple(Node("name", text=letter) for letter in node.text))
    return replace(node, parts=tuple(_in_letters(part, pairs) for part in node.parts))


def _meanings(a: Node, b: Node) -> list[Settings]:
    """How two expressions may be meant. What stands on one side only may mean what the other side says outright."""
    found = [Settings(base=Fraction(7919, 1000))]
    has = [{n.op for n in x.walk()} | {f"log{len(n.parts)}" for n in x.walk() if n.text == "log"} for x in (a, b)]
    if "log1" in has[0] ^ has[1]:
        found += [Settings(base=None), Settings(base=Fraction(10))]
    if "degree" in has[0] ^ has[1]:
        found += [replace(s, degree=False) for s in found]
    if {n.op for n in (a, b)} & {"percent"} and "percent" in has[0] ^ has[1]:
        found += [replace(s, percent=False) for s in found]
    return found


def _is_number(node: Node) -> bool:
    inner = node.parts[0] if node.op in ("neg", "percent", "degree") else node
    return inner.op == "number" or (inner.op == "div" and all(part.op == "number" for part in inner.parts))


_VALUES = listed("number name add mul div neg pow root call apply factorial binom abs degree percent")


def _arithmetic(node: Node) -> bool:
    return all(n.op in _VALUES for n in node.walk())


def _decimal_of(decimal: Node, other: Node) -> bool:
    """Whether a decimal of enough places is another constant, rounded or cut off."""
    inner = decimal.parts[0] if decimal.op == "neg" else decimal
    if inner.op != "number" or inner.places is None or inner.places < LEAST_DECIMALS or names(other):
        return False
    if any(n.op == "number" and n.places for n in other.walk()):
        return False  # two decimals are compared as they stand
    try:
        value, given = real(other, Settings(base=Fraction(7919, 1000))), real(decimal)
    except NoValue:
        return False
    digits = str(abs(inner.value.numerator)).rstrip("0") if inner.value.denominator > 1 else ""
    if len(str(abs(inner.value.numerator) * 10**inner.places // inner.value.denominator)) < 5 or not digits:
        return False  # too few digits to say what it rounds
    exact = exact_value(other)
    if exact is not None and (exact * 10**inner.places).denominator == 1:
        return False  # it could be written with these places, and is not
    off = abs(value - given) * 10**inner.places
    return off <= 0.5 or (off < 1 and abs(given) < abs(value))


def _measure(node: Node) -> tuple[Node, str, Fraction]:
    """(value, unit, factor of the unit) of an expression; a sum of quantities in one unit is one."""
    if node.op == "quantity":
        return node.parts[0], node.text, node.value
    if node.op == "neg":
        value, unit, scale = _measure(node.parts[0])
        return Node("neg", (value,)), unit, scale
    if node.op == "mul":
        (left, unit, scale), (right, other, factor) = map(_measure, node.parts)
        if not (unit and other):
            return Node("mul", (left, right)), unit or other, scale * factor
    if node.op in ("degree", "percent"):
        return node, node.op, Fraction(1)
    return node, "", Fraction(1)


def _lettered(node: Node, unit: str) -> tuple[Node, str, Fraction]:
    """`node` with its last letter as a unit, where it is one of the kind that the other side has: 5 s and 5 seconds."""
    if node.op == "mul" and node.parts[-1].op == "name":
        kind, *scale = KNOWN.get(node.parts[-1].text, ("", 1, 1))
        if kind == unit:
            return node.parts[0], unit, Fraction(*scale)
    return node, "", Fraction(1)


def _signs(node: Node) -> Node:
    """Plus-minus signs as the set of what they stand for."""
    count = [n for n in node.walk() if n.op == "pm"]
    if not count or node.op in ("relation", "list", "set", "tuple"):
        if not count or len(count) > MOST_SIGNS:
            return node
        if node.op == "relation" and node.text in ("=", "in"):
            return replace(node, parts=(node.parts[0], _signs(node.parts[1])))
        if any(n.text == "mp" for n in count):
            if node.op != "tuple":
                return node
            both = (_chosen(node, iter((sign,) * len(count))) for sign in (1, -1))
            return Node("list", tuple(both), ",")
        if node.op in ("list", "set"):
            parts = [p for part in node.parts for p in _split(part)]
            return Node(node.op, tuple(parts), node.text)
        if node.op == "tuple":
            chosen = list(itertools.product(*(_split(part) for part in node.parts)))
            return Node("list", tuple(Node("tuple", each, node.text) for each in chosen), ",")
        return node
    if len(count) > MOST_SIGNS:
        return node
    together = any(n.text == "mp" for n in count)
    choices = [(1,) * len(count), (-1,) * len(count)] if together else itertools.product((1, -1), repeat=len(count))
    return Node("list", tuple(_chosen(node, iter(choice)) for choice in choices), ",")


def _split(node: Node) -> tuple[Node, ...]:
    found = _signs(node)
    return found.parts if found is not node and found.op == "list" else (found,)


def _chosen(node: Node, signs: Iterator[int]) -> Node:
    if node.op == "pm":
        sign = next(signs) * (-1 if node.text == "mp" else 1)
        inner = _chosen(node.parts[0], signs)
        return inner if sign > 0 else Node("neg", (inner,))
    return replace(node, parts=tuple(_chosen(part, signs) for part in node.parts))


def _label(node: Node) -> str:
    """The name that an equation gives its other side: a symbol, a function of its arguments, an angle, a segment; ""
    for what is none of these."""
    if node.op == "name" and node.text not in ("pi", "e", "reals", "dots") and not node.text.startswith("mathbb"):
        return node.text
    if node.op == "apply" and all(part.op in ("name", "number", "tuple") for part in node.parts):
        return str(node)
    if node.op == "mul" and node.parts[0].text == "m" and node.parts[1].text.startswith("angle"):
        return node.parts[1].text  # the measure of an angle
    if node.op == "mul" and all(n.op in ("mul", "name") for n in node.walk()):
        letters = [n.text for n in node.walk() if n.op == "name"]
        return "".join(letters) if all(t.isupper() and len(t) == 1 for t in letters) else ""
    if (node.op == "call" and node.text in ("deg", "dim", "arg")) or (
        node.op == "ratio" and all(map(_label, node.parts))
    ):
        return str(node)
    if node.op == "abs" and len(_label(node.parts[0])) > 1:
        return _label(node.parts[0])
    return ""


def _labels(node: Node) -> tuple[tuple[str, ...], Node]:
    """(names, what they are given) of `x = 2`, `(x, y) = (1, 2)`, `x = 1, y = 2`, `x = 1 or x = 2`; else ((), node)."""
    if node.op == "relation" and node.text in ("=", "in"):
        left, right = node.parts
        if left.op == "tuple" and all(map(_label, left.parts)):
            return tuple(map(_label, left.parts)), _single(right)
        if name := _label(left):
            if right.op == "name" and node.text == "=" and _label(right) and name != "y" and left.op != "apply":
                return (), node  # x = y says nothing of y alone
            return (name,), _single(right) if node.text == "in" else right
        if node.text == "=" and _label(right) and not names(left):
            return (_label(right),), left
        if node.text == "=" and not names(node) and _all_one(node.parts):
            return (), right  # a true statement says its right side
        return (), node
    if node.op == "chain" and all(link.text == "=" for link in node.parts):
        members = [node.parts[0].parts[0], *(link.parts[1] for link in node.parts)]
        if _label(members[0]) and not any(map(_label, members[1:])):
            if not names(members[-1]) or _all_one(members[1:]):
                return (_label(members[0]),), members[-1]
        elif all(_label(m) for m in members[:-1]) and not _label(members[-1]):
            return tuple(map(_label, members[:-1])), Node("tuple", (members[-1],) * (len(members) - 1), "()")
        elif not names(node) and _all_one(members):
            return (), members[-1]
        return (), node
    if node.op in ("list", "set", "tuple") and len(node.parts) > 1:
        return _labelled_list(node)
    return (), node


def _labelled_list(node: Node) -> tuple[tuple[str, ...], Node]:
    parts = node.parts
    equations = [part for part in parts if part.op == "relation" and part.text == "="]
    at = next((i for i, part in enumerate(parts) if part.op == "relation"), None)
    if len(equations) == len(parts) and all(_label(part.parts[0]) for part in parts):
        labels = tuple(_label(part.parts[0]) for part in parts)
        values = tuple(part.parts[1] for part in parts)
        if len(set(labels)) == 1:
            return (labels[0],), Node("list", values, node.text.replace(",", ", "))
        size = len(set(labels))
        if size == len(labels) and node.text != "or":
            return labels, Node("tuple", values, "map")
        if labels == labels[:size] * (len(labels) // size):  # x = 1, y = 2 or x = 3, y = 4
            groups = (Node("tuple", values[i : i + size], "()") for i in range(0, len(labels), size))
            return labels[:size], Node("list", tuple(groups), ",")
        return (), node
    if len(equations) == 1 and at is not None and node.op == "list":
        first = parts[at]
        before, after = parts[:at], parts[at + 1 :]
        plain_after = all(part.op not in ("relation", "chain") for part in after)
        if at == 0 and plain_after and (first_labels := _labels(first)[0]):
            return first_labels, Node("list", (first.parts[1], *after), node.text.replace(",", ", "))
        labels = (*(_label(p) for p in before), _label(first.parts[0]))
        if before and all(labels) and plain_after and len(after) == len(before):
            return labels, Node("tuple", (first.parts[1], *after), "()")
    return (), node


def _equations(a: Node, b: Node) -> bool:
    return all(n.op == "relation" and n.text == "=" for n in (a, b))


def _single(node: Node) -> Node:
    """The element of a set of one, which a name may be in or equal to."""
    return node.parts[0] if node.op == "set" and len(node.parts) == 1 else node


def _all_one(members: Sequence[Node]) -> bool:
    """Whether the members of a chain are one value: then it is an identity, and says that value."""
    pair = _Pair()
    return all(_arithmetic(m) for m in members) and all(pair._values(members[0], m)[0] for m in members[1:])


def _upward(node: Node) -> Node:
    """A chain of inequalities from its smallest member on."""
    if node.op != "chain" or any(link.text[0] != ">" for link in node.parts):
        return node
    turned = (Node("relation", link.parts[::-1], link.text.replace(">", "<")) for link in reversed(node.parts))
    return Node("chain", tuple(turned))


def _conditional(node: Node) -> bool:
    return node.op == "list" and any(part.op in ("relation", "chain") for part in node.parts)


def _flat(node: Node) -> list[Node]:
    """The parts of nested unions, intersections or lists of one kind."""
    return [leaf for part in node.parts for leaf in (_flat(part) if part.op == node.op else [part])]


def _expanded(node: Node) -> tuple[Node, ...]:
    return node.parts if node.op in ("set", "list") else (node,)


def _scaled(node: Node) -> Node:
    """A matrix with the factors before it multiplied into its cells."""
    if node.op == "pow" and node.parts[0].op == "matrix" and node.parts[1] == Node("name", text="T"):
        turned = zip(*(row.parts for row in node.parts[0].parts), strict=True)
        return Node("matrix", tuple(Node("row", column) for column in turned))
    if node.op == "neg" and _scaled(node.parts[0]).op == "matrix":
        return _mapped(_scaled(node.parts[0]), lambda cell: Node("neg", (cell,)))
    if node.op in ("mul", "div") and len(node.parts) == 2:
        first, second = map(_scaled, node.parts)
        if node.op == "mul" and second.op == "matrix" and _arithmetic(first):
            return _mapped(second, lambda cell: Node("mul", (first, cell)))
        if first.op == "matrix" and _arithmetic(second):
            return _mapped(first, lambda cell: Node(node.op, (cell, second)))
    if node.op == "add":
        terms = [_scaled(part) for part in node.parts]
        shapes = {tuple(len(row.parts) for row in t.parts) if t.op == "matrix" else () for t in terms}
        if len(shapes) == 1 and () not in shapes:
            rows = zip(*(t.parts for t in terms), strict=True)
            return Node(
                "matrix",
                tuple(
                    Node("row", tuple(Node("add", c) for c in zip(*(r.parts for r in row), strict=True)))
                    for row in rows
                ),
            )
    return node


def _mapped(matrix: Node, change: Callable[[Node], Node]) -> Node:
    rows = tuple(replace(row, parts=tuple(map(change, row.parts))) for row in matrix.parts)
    return replace(matrix, parts=rows)


def _from_lists(node: Node) -> Node:
    """A matrix written as a list of its rows."""
    rows = node.parts if node.op == "tuple" and node.text == "[]" else ()
    if rows and all(row.op == "tuple" and row.text == "[]" for row in rows) and len({len(r.parts) for r in rows}) == 1:
        return Node("matrix", tuple(Node("row", row.parts) for row in rows))
    return node


def _rows(node: Node) -> tuple[Node, ...] | None:
    return node.parts if node.op == "matrix" else None


def _components(node: Node) -> tuple[Node, ...] | None:
    node = _scaled(node)
    if node.op == "tuple" and node.text in ("()", "<>"):
        return node.parts
    if node.op == "matrix" and len(node.parts) == 1:
        return node.parts[0].parts
    if node.op == "matrix" and all(len(row.parts) == 1 for row in node.parts):
        return tuple(row.parts[0] for row in node.parts)
    return None


def _of_unit_vectors(node: Node, size: int) -> tuple[Node, ...] | None:
    """The components of `2i - 3j + k`; None where it is no sum of unit vectors."""
    if size not in (2, 3) or not _arithmetic(node) or "j" not in names(node):
        return None

    components = []
    for unit in "ijk"[:size]:
        put = node
        for name in "ijk":
            put = regions.replaced(put, name, number(int(name == unit)))
        components.append(put)
    return tuple(components)


def _product_of_capitals(node: Node) -> Node:
    if node.op != "words" or not re.fullmatch("[A-Z]{2,4}", node.text):
        return node
    found = Node("name", text=node.text[0])
    for letter in node.text[1:]:
        found = Node("mul", (found, Node("name", text=letter)))
    return found


def _by_value(elements: Sequence[Node]) -> list[Node]:
    """Elements in the order of their values, or of how they are written where one has none."""
    try:
        return sorted(elements, key=real)
    except NoValue:
        return sorted(elements, key=str)
