"""Answers as text: taking them out of a response, one spelling for what is written many ways, and plain numbers.

Everything here is linear in the length of its input and looks at no more than `LONGEST_RESPONSE` characters of it.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

LONGEST_RESPONSE = 100_000
"""Characters of a response that are searched, counted from its end."""

MOST_WORDS = 6
"""Words of a line that is taken for a bare answer rather than for prose."""

LETTERS = "ABCDEFGHIJ"

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": r"\times ",
    "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DIVISION SIGN}": "/",
    "\N{FRACTION SLASH}": "/",
    "\N{DIVISION SLASH}": "/",
    "\N{GREEK SMALL LETTER PI}": r"\pi ",
    "\N{INFINITY}": r"\infty ",
    "\N{SQUARE ROOT}": r"\sqrt ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{NOT EQUAL TO}": r"\ne ",
    "\N{UNION}": r"\cup ",
    "\N{INTERSECTION}": r"\cap ",
    "\N{EMPTY SET}": r"\emptyset ",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{DEGREE SIGN}": r"^\circ",
    "\N{GREEK SMALL LETTER THETA}": r"\theta ",
    "\N{GREEK SMALL LETTER ALPHA}": r"\alpha ",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⅔": r"\frac{2}{3}",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}
_UNITS = (
    "degrees?|dollars?|cents?|euros?|pounds?|percent|inch(?:es)?|feet|foot|ft|yards?|miles?|mph|km/h|m/s|kilometers?"
    "|kilometres?|centimeters?|centimetres?|millimeters?|meters?|metres?|cm|mm|km|kg|mg|ml|m|kilograms?|grams?|g"
    "|liters?|litres?|l|seconds?|sec|s|minutes?|min|hours?|hr|h|days?|weeks?|months?|years?|units?|people|students?"
    "|apples?|books?|tickets?|points?|times|ways|N|J|W|V|Hz|Pa|K|mol"
)
_UNIT_TAIL = re.compile(rf"(?<=[\d}})!. ])\s*(?P<unit>(?:{_UNITS})(?:\s*(?:\^\s*\{{?[23]\}}?|squared|cubed))?)\.?$")
_SPELLINGS = {
    "degree": "degree",
    "foot": "feet",
    "ft": "feet",
    "inche": "inch",
    "sec": "second",
    "s": "second",
    "min": "minute",
    "hr": "hour",
    "h": "hour",
    "kilometer": "km",
    "kilometre": "km",
    "centimeter": "cm",
    "centimetre": "cm",
    "g": "gram",
    "millimeter": "mm",
    "meter": "m",
    "metre": "m",
    "kilogram": "kg",
    "litre": "liter",
    "l": "liter",
    "unit": "",
}


@dataclass(frozen=True)
class Extracted:
    """An answer found in a response (None: there is none) and the rule that found it."""

    text: str | None
    rule: str


_BOX = re.compile(r"\\(?:boxed|fbox)( *\{)?")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    r"""What the last balanced `\boxed{...}` or `\fbox{...}` holds; a box that never closes is passed over."""
    end = len(text)
    for box in reversed(list(_BOX.finditer(text))):
        depth = 0
        # Bounded by the next box: nested boxes cannot make this quadratic, and the outer one is not wanted.
        for mark in _BRACE.finditer(text, box.end() - 1 if box[1] else end, end):
            depth += {"{": 1, "}": -1}.get(mark[0], 0)
            if depth == 0:
                return text[box.end() : mark.start()].strip()
        end = box.start()
    return None


_ANSWER_LINE = re.compile(
    r"(?:^|\n|[.;!] |\*\*|<answer>)[^\S\n]*\**(?:the )?(?:final )?answer\**[^\S\n]*(?::|is:?)"
    r"[^\S\n]*\**[^\S\n]*([^\n]*)",
    re.IGNORECASE,
)
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?", re.ASCII)
# "A" and "I" before a word are an article and a pronoun.
_LONE_LETTER = re.compile(rf"\(([{LETTERS}])\)|(?<![\w'])(?:(?![AI]\s+[a-z])([{LETTERS}]))(?![\w'])")


def extract(text: str, last_number: bool = False, last_letter: bool = False) -> Extracted:
    r"""The answer of a response: the last box, else what follows the last "Answer:", else GSM8K's `####`, else the text
    itself if it is one line.

    Args:
        text: a whole response, or a bare answer.
        last_number: for a longer text without any of these, take its last number (`last_number`).
        last_letter: likewise its last lone letter A to J.
    """
    text = text[-LONGEST_RESPONSE:].replace("\0", "").strip()
    if not text:
        return Extracted(None, "no_answer")
    box = last_box(text)
    if box is not None:
        return Extracted(box, "boxed") if box else Extracted(None, "no_answer")
    lines = _ANSWER_LINE.findall("\n" + text)
    if lines:
        line = lines[-1].strip().removesuffix("</answer>").strip().rstrip("*").strip()
        return Extracted(line, "answer_line") if line else Extracted(None, "no_answer")
    marked = text.rfind("#### ")
    if marked >= 0:
        return Extracted(text[marked + 5 :].split("\n", 1)[0].strip(), "hashes")
    bare = "\n" not in text and len(text.split(" ")) <= MOST_WORDS
    if bare and not (last_letter and len(text.split(" ")) > 1):
        return Extracted(text, "whole")
    if last_number and (found := _NUMBER_IN_TEXT.findall(text)):
        return Extracted(found[-1], "last_number")
    if last_letter and (letters := _LONE_LETTER.findall(text)):
        return Extracted("".join(letters[-1]), "last_letter")
    return Extracted(text, "whole") if "\n" not in text else Extracted(None, "no_answer")


def only_number(text: str) -> str | None:
    """The one number in a few words, such as 72 in "72 clips in all"; None for mathematics or more than one number."""
    found = _NUMBER_IN_TEXT.findall(text)
    prose = text.isascii() and len(text.split(" ")) <= MOST_WORDS and not re.search(r"[\\^_=+*()]", text)
    return found[0] if prose and len(found) == 1 else None


def _fold(text: str) -> str:
    """Unicode to what LaTeX would say. NFKC alone would make 2² into 22; digits of other scripts are left alone."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda raised: "^{" + raised[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"(?<=\d)(?=[½⅓¼¾⅔])", " ", text)
    return "".join(_SYMBOLS.get(char) or unicodedata.normalize("NFKC", char) for char in text)


_DROPPED = re.compile(
    r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|quad|qquad|limits)(?![A-Za-z])"
    r"|\\[!,;:> ]|~|\\\$|\$|\\\(|\\\)|\\\[|\\\]"
)
_ONE_SPELLING = (
    (_DROPPED, " "),
    (re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d|[a-z](?![a-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), " degree"),
    (re.compile(r"\\(?:degree|deg)(?![A-Za-z])"), " degree"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\s+"), " "),
)
"""(what is written, in place of it), in this order."""


def normalise(text: str) -> str:
    r"""One spelling: ASCII where there is one, no spacing commands, `\frac` with braces, no `$`, no final full stop.

    >>> normalise(r"$\dfrac12$.")
    '\\frac{1}{2}'
    """
    text = _fold(text)
    for pattern, instead in _ONE_SPELLING:
        text = pattern.sub(instead, text)
    text = text.strip()
    return text.rstrip(".").strip() if not text.endswith("...") else text


def squeeze(text: str) -> str:
    """`normalise` without any space: two strings equal after this are the same answer."""
    return normalise(text).replace(" ", "")


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of a normalised answer; the unit is in one spelling, "" where there is none."""
    found = _UNIT_TAIL.search(text)
    if found is None:
        return text, ""
    unit = found["unit"]
    power = re.search(r"(\^\s*\{?([23])\}?|squared|cubed)$", unit)
    base = unit[: power.start()].strip() if power else unit
    exponent = "" if power is None else "^2" if power[2] == "2" or power[0] == "squared" else "^3"
    word = base if len(base) == 1 and base.isupper() else base.lower()
    singular = word[:-1] if len(word) > 2 and word.endswith("s") else word
    name = _SPELLINGS.get(singular, singular)
    return text[: found.start()].strip(), name + (exponent if name else "")


@dataclass(frozen=True)
class Number:
    """A plain number: its exact value, decimals written (None for a fraction), and what stood beside it.

    Attributes:
        value: exact; a percent sign is not applied.
        decimals: digits after the point; None for a fraction or mixed number.
        unit: in one spelling, "" for none; "%" is a unit.
    """

    value: Fraction
    decimals: int | None
    unit: str


_DECIMAL = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d{1,3}(?:\{,\}\d{3})+|\d{1,3}(?: \d{3})+|\d*)(?:\.(\d*))?")
_SCIENTIFIC = re.compile(
    r"(.*?)(?:[eE]([+-]?\d{1,3})|\s*(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*\{?\s*([+-]?\d{1,3})\s*\}?)"
)
_FRACTION = re.compile(
    r"([+-]?)\s*(?:(\d+)(?:\s+|(?=\\frac\{\d+\}\{\d+\})))?"
    r"(?:(\d+)\s*/\s*(\d+)|\\frac\{\s*(-?\d+)\s*\}\{\s*(\d+)\s*\})"
)
LONGEST_NUMBER = 200


def plain_number(text: str) -> Number | None:
    r"""The number that a text is, or None: digits, thousands separators, `a/b`, `\frac{a}{b}`, mixed, `1.5e3`, a unit.

    Only ASCII digits count, and no more than `LONGEST_NUMBER` characters.
    """
    text = normalise(text)
    if not text or len(text) > LONGEST_NUMBER or not text.isascii() or not any(c.isdigit() for c in text):
        return None
    text, unit = (text[:-1].strip(), "%") if text.endswith("%") else split_unit(text)
    unit = "%" if unit == "percent" else unit
    text = re.sub(r"^([+-]?)\s+", r"\1", text)
    if fraction := _FRACTION.fullmatch(text):
        sign, whole, *parts = fraction.groups()
        top, bottom = (int(part) for part in parts if part)
        if bottom == 0:
            return None
        value = int(whole or 0) + Fraction(top, bottom)
        return Number(-value if sign == "-" else value, None, unit)
    exponent = 0
    scientific = _SCIENTIFIC.fullmatch(text)
    if scientific and scientific[1]:
        text, exponent = scientific[1].strip(), int(scientific[2] or scientific[3])
    decimal = _DECIMAL.fullmatch(text)
    if decimal is None:
        return None
    sign, whole, part = decimal[1], re.sub(r"[{}, ]", "", decimal[2]), decimal[3] or ""
    if not whole and not part:
        return None
    value = Fraction(int((whole or "0") + part), 10 ** len(part)) * Fraction(10) ** exponent
    return Number(-value if sign == "-" else value, max(0, len(part) - exponent), unit)


LEAST_DECIMALS = 6
"""A decimal with at least this many places may stand for a fraction that it rounds."""


def same_number(gold: Number, given: Number) -> bool:
    """Whether two plain numbers are one answer.

    Values are equal exactly, or one is a fraction and the other its decimals to `LEAST_DECIMALS` places or more:
    0.333333 is 1/3, 0.33 is not, and 10000 is not 10001. A percent sign on one side may belong to the value or the
    question: 50% is 0.5 and, where one side leaves the sign out, 50. Units on both sides have to agree; one side may
    leave its unit out.
    """
    if gold.unit and given.unit:
        return gold.unit == given.unit and _same_value(gold, given)
    return _same_value(gold, given) or _same_value(_applied(gold), _applied(given))


def _applied(number: Number) -> Number:
    """The number with its percent sign, if it has one, applied."""
    if number.unit != "%":
        return number
    return Number(number.value / 100, None if number.decimals is None else number.decimals + 2, "")


def _same_value(a: Number, b: Number) -> bool:
    fraction, decimal = (a, b) if a.decimals is None else (b, a)
    places = (decimal.decimals or 0) if fraction.decimals is None else 0
    rounded = places >= LEAST_DECIMALS and abs(a.value - b.value) * 2 <= Fraction(1, 10**places)
    return a.value == b.value or rounded
