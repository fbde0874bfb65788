r"""Whether two mathematical answers are the same, by structure first and math-verify for what is left.

math-verify alone takes (1,2) and {1,2} for one answer, 12:30 for a ratio, two plain-text equations for equal (both
parse to 0) and words for products of letters; the structure is therefore looked at here. Call this in a process that
may be killed: SymPy can take any time and memory.
"""

import re
from itertools import accumulate

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from curate.grading.answer_text import normalise, plain_number, same_number, split_unit, squeeze

_CLOCK = re.compile(r"0?(\d{1,2}):(\d{2})(?:\s*([ap])\.?m\.?)?", re.IGNORECASE)
_BASE = re.compile(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")
_FUNCTIONS = frozenset(
    (
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "arcsin",
        "arccos",
        "arctan",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
        "and",
        "or",
    )
)
_NAMED = re.compile(r"(?:([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*(?:=|\\in)\s*)?(.*)", re.DOTALL)
_JOINED = re.compile(r",?\s+(?:and|or)\s+")
LONGEST_SET = 8
"""Sets with more elements are compared element by element in sorted order only."""


def _step(char: str) -> int:
    """How many brackets deeper a character leads."""
    return (char in "([{") - (char in ")]}")


def split_top(text: str) -> list[str]:
    """`text` split at the commas (and semicolons) outside all brackets; thousands separators are left in."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += _step(char)
        thousands = char == "," and re.match(r"\d{3}(?!\d)", text[i + 1 :]) and i and text[i - 1].isdigit()
        if char in ",;" and depth == 0 and not thousands:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:])]


def brackets(text: str) -> tuple[str, str]:
    """(the brackets around all of a normalised text, what they hold); ("", text) where there are none."""
    text = text.strip().replace(r"\{", "{").replace(r"\}", "}")
    outside = len(text) < 2 or text[0] not in "([{" or text[-1] not in ")]}"
    if outside or 0 in accumulate(map(_step, text[:-1])):
        return "", text
    return text[0] + text[-1], text[1:-1]


def words(text: str) -> str:
    """The text in lower case, letters and digits only, if it is prose rather than mathematics; otherwise ""."""
    found = [w for w in _WORD.findall(text) if w.lower() not in _FUNCTIONS]
    if not found or re.search(r"[\\^_=]", text):
        return ""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\b(?:the|a|an)\b", " ", text.lower())).strip()


def equal(gold: str, given: str, depth: int = 0) -> tuple[bool, str]:
    """(are they one answer, the rule that decided). The reference comes first: math-verify is not symmetric."""
    gold, given = normalise(gold), normalise(given)
    if squeeze(gold) == squeeze(given):
        return True, "string"
    left, right = plain_number(gold), plain_number(given)
    if left is not None and right is not None:
        return same_number(left, right), "number"
    if (clock := _CLOCK.fullmatch(gold)) and (shown := _CLOCK.fullmatch(given)):
        halves = {(c[3] or "").lower() for c in (clock, shown)} - {""}
        return int(clock[1]) == int(shown[1]) and clock[2] == shown[2] and len(halves) < 2, "clock"
    bases = _BASE.fullmatch(gold.replace(" ", "")), _BASE.fullmatch(given.replace(" ", ""))
    if bases[0] or bases[1]:
        digits = [b[1].upper() if b else squeeze(t).upper() for b, t in zip(bases, (gold, given), strict=True)]
        return digits[0] == digits[1] and (not (bases[0] and bases[1]) or bases[0][2] == bases[1][2]), "base"
    if (a := words(gold)) or words(given):
        value, unit = split_unit(gold)
        other, other_unit = split_unit(given)
        if (unit or other_unit) and not (unit and other_unit and unit != other_unit):
            return equal(value, other, depth + 1) if depth < 4 else (False, "depth")
        listed = _lists(gold, given, depth)
        return listed if listed is not None else (bool(a) and a == words(given), "words")
    listed = _lists(gold, given, depth)
    return listed if listed is not None else (_verify(gold, given), "math_verify")


def _lists(gold: str, given: str, depth: int) -> tuple[bool, str] | None:
    """The verdict on tuples, intervals, sets and bare lists; None where neither side is one."""
    if depth > 3 or any(t in gold + given for t in (r"\cup", r"\cap", "matrix", r"\pm", r"\le", r"\ge", "<", ">")):
        return None
    kinds, insides = zip(
        *(brackets(_NAMED.sub(r"\2", _JOINED.sub(", ", text), 1)) for text in (gold, given)), strict=True
    )
    parts = [split_top(inside) for inside in insides]
    if len(parts[0]) == 1 and len(parts[1]) == 1:
        if kinds[0] == kinds[1] or any(kind not in ("{}", "") for kind in kinds):
            return None
        return equal(parts[0][0], parts[1][0], depth + 1)  # {3} and 3
    if len(parts[0]) != len(parts[1]):
        return False, "elements"
    unordered = {"{}", ""}
    if kinds[0] in unordered and kinds[1] in unordered:
        return _same_set(parts[0], parts[1], depth), "set"
    if kinds[0] != kinds[1] and "" not in kinds:
        return False, "brackets"
    return all(equal(a, b, depth + 1)[0] for a, b in zip(parts[0], parts[1], strict=True)), "ordered"


def _same_set(gold: list[str], given: list[str], depth: int) -> bool:
    if len(gold) > LONGEST_SET:
        return all(equal(a, b, depth + 1)[0] for a, b in zip(sorted(gold), sorted(given), strict=True))
    left = list(given)
    for element in gold:
        found = next((i for i, other in enumerate(left) if equal(element, other, depth + 1)[0]), None)
        if found is None:
            return False
        del left[found]
    return True


_EXTRACTION = (LatexExtractionConfig(boxed_match_priority=-1), ExprExtractionConfig())


def _verify(gold: str, given: str) -> bool:
    # Always as LaTeX: what is left bare goes through the plain-text parser, where any two equations are 0 = 0.
    parsed = [parse(f"${text}$", _EXTRACTION, parsing_timeout=None) for text in (gold, given)]  # type: ignore[arg-type]
    if not parsed[0] or not parsed[1]:
        return False
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None, allow_set_relation_comp=True))
