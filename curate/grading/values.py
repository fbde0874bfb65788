"""Values of expressions: exactly where they are fractions, otherwise at two precisions and at points of their names.

Two expressions are the same value where their difference vanishes as the precision grows, at every point where both are
real. Rounding errors shrink with the precision and differences do not, so neither tiny values nor nearly equal ones are
taken for each other.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import comb, factorial, gcd, isqrt, lcm
from typing import Any

from mpmath.ctx_mp import MPContext

from curate.grading.node import Node

MOST_BITS = 100_000
"""Of an exact number; a larger one has no value here."""
_LEVELS = (((120, 260), (40, 90)), ((1500, 3000), (300, 600)))
"""Decimal digits of the two precisions, of constants and at points: what is equal at the first level is looked at again
at the second."""
_DRAWN = ((1, False), (1, True), (3, True), (3, False), (12, True), (12, False), (50, True), (50, False))
"""How large names are at the points that are no whole numbers, and whether they may be negative."""
_POINTS = len(_DRAWN) + 3


class NoValue(ArithmeticError):
    """An expression that has no value: not defined, or too large to be told from its neighbours."""


@cache
def _context(digits: int) -> MPContext:
    made = MPContext()
    made.dps = digits
    return made


_CONSTANT = _context(260)


@dataclass(frozen=True)
class Settings:
    """How an expression is meant: what a degree, a percent and a logarithm without a base are, besides the names."""

    degree: bool = True
    """Degrees are a part of the circle; otherwise a unit that may be left out."""
    percent: bool = True
    base: Fraction | None = None
    """Of `\\log` without an index; None: natural."""


PLAIN = Settings()


class Evaluator:
    """Evaluates nodes at one precision, with `names` at one point."""

    def __init__(self, context: MPContext, names: Mapping[str, Any], settings: Settings) -> None:
        self._context, self._names, self._settings = context, names, settings
        self._in_function = False

    def value(self, node: Node) -> Any:
        """A Fraction, or a number of the context. Raises NoValue."""
        try:
            found = getattr(self, "_" + node.op)(node)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise NoValue(f"{node.op}: {error}") from error
        if not isinstance(found, Fraction) and not self._context.isfinite(found):
            raise NoValue(f"{node.op} is not finite")
        return found

    def number(self, node: Node) -> Any:
        """As `value`, always a number of the context."""
        return self._float(self.value(node))

    def _number(self, node: Node) -> Fraction:
        return node.value

    def _name(self, node: Node) -> Any:
        context = self._context
        constant = {"pi": context.pi, "e": context.e, "i": context.mpc(0, 1)}.get(node.text)
        return +constant if constant is not None else self._names[node.text]

    def _add(self, node: Node) -> Any:
        found = self.value(node.parts[0])
        for part in node.parts[1:]:
            found = self._both(found, self.value(part), lambda a, b: a + b)
        return found

    def _mul(self, node: Node) -> Any:
        return self._both(self.value(node.parts[0]), self.value(node.parts[1]), lambda a, b: a * b)

    def _div(self, node: Node) -> Any:
        return self._both(self.value(node.parts[0]), self.value(node.parts[1]), lambda a, b: a / b)

    def _neg(self, node: Node) -> Any:
        return -self.value(node.parts[0])

    def _percent(self, node: Node) -> Any:
        found = self.value(node.parts[0])
        return found / 100 if self._settings.percent else found

    def _degree(self, node: Node) -> Any:
        found = self.value(node.parts[0])
        if not (self._settings.degree or self._in_function):
            return found
        return self._float(found) * self._context.pi / 180

    def _quantity(self, node: Node) -> Any:
        return self.value(node.parts[0])

    def _pow(self, node: Node) -> Any:
        base, exponent = map(self.value, node.parts)
        return self._power(base, exponent)

    def _root(self, node: Node) -> Any:
        base, degree = map(self.value, node.parts)
        return self._power(base, 1 / degree)

    def _power(self, base: Any, exponent: Any) -> Any:
        context = self._context
        if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(int(exponent))
            if size > MOST_BITS and abs(base) != 1 and base:
                raise NoValue("a number that large")
            return base ** int(exponent)
        if isinstance(exponent, Fraction) and isinstance(base, Fraction) and exponent.denominator < 64:
            rooted = _exact_root(base, exponent.denominator)
            if rooted is not None:
                return self._power(rooted, Fraction(exponent.numerator))
        base_f, exponent_f = self._float(base), self._float(exponent)
        if base_f == 0:
            if context.re(exponent_f) <= 0:
                raise NoValue("zero to that power")
            return Fraction(0)
        if abs(context.log(abs(base_f)) * exponent_f) > MOST_BITS:
            raise NoValue("a number that large")
        odd = isinstance(exponent, Fraction) and exponent.denominator % 2 == 1
        if odd and _real(context, base_f) and context.re(base_f) < 0:  # the real root, as schools have it
            sign = -1 if exponent.numerator % 2 else 1
            return sign * context.power(-context.re(base_f), exponent_f)
        return context.power(base_f, exponent_f)

    def _abs(self, node: Node) -> Any:
        return abs(self.value(node.parts[0]))

    def _apply(self, node: Node) -> Any:
        """A function of which nothing is known: some value that depends on the name and the arguments alone."""
        total = self._context.mpf(0)
        for i, part in enumerate(node.parts):
            seed = zlib.crc32(f"{node.text} {i}".encode()) % 997 + 2
            x = self._float(self.value(part))
            total += self._context.sin(x * self._context.sqrt(seed) + seed) + x * x / (seed + 1) + seed
        return total

    def _factorial(self, node: Node) -> Any:
        found = self.value(node.parts[0])
        if isinstance(found, Fraction):
            if found.denominator != 1 or not 0 <= found <= 3000:
                raise NoValue("no factorial")
            if node.text == "!":
                return Fraction(factorial(int(found)))
            product = 1
            for each in range(int(found), 0, -2):
                product *= each
            return Fraction(product)
        if node.text != "!" or abs(found) > 1000:
            raise NoValue("no factorial")
        return self._context.gamma(found + 1)

    def _binom(self, node: Node) -> Any:
        top, bottom = map(self.value, node.parts)
        if isinstance(top, Fraction) and isinstance(bottom, Fraction):
            if top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= 2000 or not 0 <= top <= 10**6:
                raise NoValue("no binomial coefficient")
            return Fraction(comb(int(top), int(bottom)))
        if max(abs(self._float(top)), abs(self._float(bottom))) > 1000:
            raise NoValue("no binomial coefficient")
        return self._context.binomial(self._float(top), self._float(bottom))

    def _call(self, node: Node) -> Any:
        name, context = node.text, self._context
        was, self._in_function = self._in_function, True
        arguments = [self.value(part) for part in node.parts]
        self._in_function = was
        if name in ("max", "min"):
            return {"max": max, "min": min}[name](arguments)
        if name in ("gcd", "lcm"):
            found = Fraction({"gcd": gcd, "lcm": lcm}[name](*(_whole(a) for a in arguments[:20])))
            if len(arguments) > 20 or found.numerator.bit_length() > MOST_BITS:
                raise NoValue("that many, or that large")
            return found
        if name == "mod":
            return Fraction(_whole(arguments[0]) % _whole(arguments[1]))
        first = arguments[0]
        if name in ("floor", "ceil"):
            exact = first if isinstance(first, Fraction) else Fraction(int(context.floor(context.re(first))))
            if not isinstance(first, Fraction) and not _real(context, first):
                raise NoValue(name)
            whole = exact.numerator // exact.denominator
            above = whole != exact if isinstance(first, Fraction) else exact != first
            return Fraction(whole + (name == "ceil" and above))
        if name == "abs":
            return abs(first)
        x = self._float(first)
        if abs(x) > 10**6 and name != "ln" and not name.startswith("log"):
            raise NoValue("an argument that large")
        if name in ("log", "ln", "lg"):
            if x == 0:
                raise NoValue("logarithm of zero")
            base = (
                self._float(arguments[1])
                if len(arguments) > 1
                else context.mpf(10) if name == "lg"
                else context.e if name == "ln" or self._settings.base is None
                else self._float(self._settings.base)
            )  # fmt: skip
            return context.log(x) / context.log(base)
        if len(arguments) != 1:
            raise NoValue(f"{name} of {len(arguments)} arguments")
        if name == "cis":
            return context.expj(x)
        functions: dict[str, Callable[[Any], Any]] = {
            **{
                f: getattr(context, f)
                for f in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp")
            },
            "arcsin": context.asin,
            "arccos": context.acos,
            "arctan": context.atan,
            "arccot": lambda y: context.pi / 2 - context.atan(y),
            **{"arc" + f: getattr(context, "a" + f) for f in ("sec", "csc", "sinh", "cosh", "tanh", "coth")},
            **{"ar" + f: getattr(context, "a" + f) for f in ("sinh", "cosh", "tanh")},
            "Re": context.re,
            "Im": context.im,
            "arg": context.arg,
            "sgn": context.sign,
        }
        return functions[name](x)

    def _float(self, value: Any) -> Any:
        if isinstance(value, Fraction):
            return self._context.mpf(value.numerator) / value.denominator
        return value

    def _both(self, a: Any, b: Any, operation: Callable[[Any, Any], Any]) -> Any:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            found = operation(a, b)
            if max(found.numerator.bit_length(), found.denominator.bit_length()) > 4 * MOST_BITS:
                raise NoValue("a number that large")
            return found
        return operation(self._float(a), self._float(b))


def _real(context: MPContext, value: Any) -> bool:
    return abs(context.im(value)) <= context.mpf(10) ** (-context.dps // 2) * max(1, abs(value))


def _whole(value: Any) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise NoValue("not a whole number")
    return int(value)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root, or None where it is irrational or not real."""
    if value < 0:
        if degree % 2 == 0:
            return None
        positive = _exact_root(-value, degree)
        return None if positive is None else -positive
    roots = []
    for part in (value.numerator, value.denominator):
        if part.bit_length() > (MOST_BITS if degree == 2 else MOST_BITS // 20):
            return None
        root = isqrt(part) if degree == 2 else _integer_root(part, degree)
        if root**degree != part:
            return None
        roots.append(root)
    return Fraction(*roots)


def _integer_root(value: int, degree: int) -> int:
    """The largest whole number whose power is at most `value` (Newton's iteration)."""
    if value < 2:
        return value
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def names(node: Node) -> frozenset[str]:
    """The free names of an expression."""
    return frozenset(n.text for n in node.walk() if n.op == "name") - {"pi", "e", "i"}


def exact(node: Node, settings: Settings = PLAIN) -> Fraction | None:
    """The value of a constant that is a fraction; None for any other. Raises NoValue."""
    if names(node):
        return None
    found = Evaluator(_CONSTANT, {}, settings).value(node)
    return found if isinstance(found, Fraction) else None


def real(node: Node, settings: Settings = PLAIN) -> Any:
    """A real constant as a float of many digits. Raises NoValue where it is none."""
    if names(node):
        raise NoValue("not a constant")
    context = _CONSTANT
    evaluator = Evaluator(context, {}, settings)
    found = evaluator.value(node)
    if not isinstance(found, Fraction) and not _real(context, found):
        raise NoValue("not real")
    return context.re(evaluator.number(node)) if isinstance(found, Fraction) else context.re(found)


def close(a: Any, b: Any) -> bool:
    """Whether two values of `real` are one."""
    return bool(abs(a - b) <= max(abs(a), abs(b)) * _CONSTANT.mpf(10) ** -200)


@dataclass(frozen=True)
class Samples:
    """An expression at its points: (value at the lower precision, at the higher one, real?), None where undefined.
    `digits`: the two precisions."""

    values: tuple[tuple[Any, Any, bool] | None, ...]
    digits: tuple[int, int]
    exact: Fraction | None = None


def _at(name: str, point: int) -> Fraction:
    """The value of a name at a point: of every size and sign, and at three points a whole number, odd and even."""
    drawn = zlib.crc32(f"{name} {point}".encode())
    sign = -1 if zlib.crc32(f"sign {name} {point}".encode()) % 2 else 1
    if point >= len(_DRAWN):
        whole = zlib.crc32(name.encode()) % 20 + 5
        return Fraction((whole, whole + 1, -whole)[point - len(_DRAWN)])
    size, signed = _DRAWN[point]
    return Fraction(drawn % 9973 + 3000, 9973) * size * (sign if signed else 1)


def sample(
    node: Node,
    free: frozenset[str],
    settings: Settings = PLAIN,
    level: int = 0,
    planar: frozenset[str] = frozenset(),
    extra: tuple[Fraction, ...] = (),
) -> Samples:
    """The expression at the points that `free` names make; one point if there are none. `planar` names are complex;
    at the `extra` points all names have that value.

    Raises NoValue for a constant without a value.
    """
    digits = _LEVELS[level][bool(free)]
    if not free and (fraction := exact(node, settings)) is not None:
        return Samples((), digits, fraction)
    found: list[tuple[Any, Any, bool] | None] = []
    for point in range(_POINTS + len(extra) if free and not level else 3 if free else 1):
        both = []
        try:
            for context in map(_context, digits):
                given = {n: extra[point - _POINTS] if point >= _POINTS else _at(n, point) for n in free}
                at = {n: context.mpf(value.numerator) / value.denominator for n, value in given.items()}
                at |= {n: context.mpc(at[n], at[n] / 3 + 1) for n in planar}
                evaluator = Evaluator(context, at, settings)
                both.append(evaluator.number(node))
        except NoValue:
            if not free:
                raise
            found.append(None)
            continue
        found.append((both[0], both[1], _real(_context(digits[1]), both[1])))
    return Samples(tuple(found), digits)


def _vanishes(low: tuple[Any, Any], high: tuple[Any, Any], digits: tuple[int, int]) -> bool:
    """Whether the difference of two values is rounding: it shrinks as the precision grows."""
    ten = _context(digits[1]).mpf(10)
    scale = max(map(abs, (*low, *high)))
    first, second = abs(low[0] - low[1]), abs(high[0] - high[1])
    shrunk = second * ten ** ((digits[1] - digits[0]) // 2) <= max(first, scale * ten ** -digits[0])
    return bool(second == 0 or (shrunk and second <= max(scale, 1) * ten ** (-digits[0] // 2)))


def same(a: Samples, b: Samples) -> bool:
    """Whether two expressions sampled at the same points are one."""
    if a.exact is not None or b.exact is not None:
        if a.exact is not None and b.exact is not None:
            return a.exact == b.exact
        fraction, other = (a.exact, b) if a.exact is not None else (b.exact, a)
        assert fraction is not None and other.values and other.values[0] is not None
        low, high = (_context(d).mpf(fraction.numerator) / fraction.denominator for d in other.digits)
        return _vanishes((low, other.values[0][0]), (high, other.values[0][1]), other.digits)
    pairs = [(x, y) for x, y in zip(a.values, b.values, strict=True) if x is not None and y is not None]
    both_real = [(x, y) for x, y in pairs if x[2] and y[2]]
    used = both_real if len(both_real) > 1 else pairs
    if not used or (len(a.values) > 3 and len(used) < 2):
        return False
    return all(_vanishes((x[0], y[0]), (x[1], y[1]), a.digits) for x, y in used)
