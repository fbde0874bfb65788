"""Countdown: use every number once to make a target, by systematic search.

Three numbers: join a pair, then the third, with +, - or *. Four numbers: the first is the largest, + and - only.
The order of the tries is fixed and the target is restated before every verdict; with tries in random order or a bare
verdict a small model learns nothing. Numbers are restated in the prompt's own words ("3, 5 and 2", "make 13"): what is
to be copied always follows the token that it follows in the prompt.
"""

import ast
import itertools
import operator
import re
from collections import Counter
from fractions import Fraction
from random import Random

from curate.families.problem import Problem, search_rounds

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def apply(a: int, op: str, b: int) -> tuple[str, int]:
    """`a op b` as text and value; a difference is taken larger minus smaller."""
    if op == "-" and b > a:
        a, b = b, a
    return f"{a}{op}{b}", OPERATORS[op](a, b)


def verdict(result: int, target: int) -> str:
    """How a try ends. Saying which is larger is learnt sooner than a "no" that is right nine times in ten."""
    return "yes" if result == target else "low" if result < target else "high"


# Every way that matters to join three numbers, in the order tried: (pair, rest, operator, second operators).
# Sums and differences of the other pairs would only repeat the first two groups.
GROUPS = (
    (0, 1, 2, "+", "+-*"),
    (0, 1, 2, "-", "+-*"),
    (0, 1, 2, "*", "+-"),
    (0, 2, 1, "+", "*"),
    (0, 2, 1, "-", "*"),
    (0, 2, 1, "*", "+-"),
    (1, 2, 0, "+", "*"),
    (1, 2, 0, "-", "*"),
    (1, 2, 0, "*", "+-"),
)


def three(rng: Random) -> Problem | None:
    """A countdown over three numbers of 1 to 10."""
    numbers = [rng.randint(1, 10) for _ in range(3)]
    i, j, k, op, op2 = rng.choice([(*group[:4], op2) for group in GROUPS for op2 in group[4]])
    target = apply(apply(numbers[i], op, numbers[j])[1], op2, numbers[k])[1]
    groups, expression = [], ""
    for i, j, k, op, seconds in GROUPS:
        first, value = apply(numbers[i], op, numbers[j])
        lines = [f"{first}={value} and {numbers[k]}"]
        for op2 in seconds:
            second, result = apply(value, op2, numbers[k])
            lines.append(f"{second}={result} make {target} {verdict(result, target)}")
            if result == target:
                turned = op2 == "-" and numbers[k] > value
                expression = f"{numbers[k]}-({first})" if turned else f"({first}){op2}{numbers[k]}"
                break
        groups.append(tuple(lines))
        if expression:
            break
    a, b, c = numbers
    return Problem(
        family="countdown3",
        key=f"{sorted(numbers)} {target}",
        prompt=f"Use each of {a}, {b} and {c} once to make {target}.",
        answer=expression,
        rounds=search_rounds((f"{a}, {b} and {c} make {target}",), groups, 2, expression),
    )


def four(rng: Random) -> Problem | None:
    """A countdown over four numbers with + and - only; the first is at least the sum of the others."""
    b, c, d = small = [rng.randint(1, 9) for _ in range(3)]
    a = rng.randint(sum(small), 40)
    signs = list(itertools.product("+-", repeat=3))
    values = [a + sum(n if s == "+" else -n for n, s in zip(small, sign, strict=True)) for sign in signs]
    win = rng.randrange(8)
    target = values[win]
    if values.index(target) != win or target < 1:
        return None
    tries = []
    for i, sign in enumerate(signs[: win + 1]):
        first, x = apply(a, sign[0], b)
        second, y = apply(x, sign[1], c)
        third, z = apply(y, sign[2], d)
        lines = [f"{third}={z} make {target} {verdict(z, target)}"]
        if i % 2 == 0:
            lines.insert(0, f"{first}={x} {second}={y} and {d}")
        tries.append(tuple(lines))
    expression = f"{a}{signs[win][0]}{b}{signs[win][1]}{c}{signs[win][2]}{d}"
    return Problem(
        family="countdown4",
        key=f"{a} {sorted(small)} {target}",
        prompt=f"Use each of {a}, {b}, {c} and {d} once, with plus and minus only, to make {target}.",
        answer=expression,
        rounds=search_rounds((f"{a}, {b}, {c} and {d} make {target}",), tries, 2, expression),
    )


def evaluate(node: ast.expr, used: list[int]) -> Fraction:
    """Value of an arithmetic expression tree; appends the numbers it uses. Raises ValueError for anything else and
    ZeroDivisionError."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](evaluate(node.left, used), evaluate(node.right, used))
    raise ValueError("not an arithmetic expression")


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` is an expression that uses the prompt's numbers once each and makes its target."""
    *numbers, target = map(int, re.findall(r"\d+", prompt))
    signs = "+-" if "plus and minus only" in prompt else "+-*/"
    if len(answer) > 100 or not re.fullmatch(rf"[\d{re.escape(signs)}() ]+", answer):
        return False
    used: list[int] = []
    try:
        value = evaluate(ast.parse(answer.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return value == target and Counter(used) == Counter(numbers)
