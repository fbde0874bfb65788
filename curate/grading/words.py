"""Words that mean something in an answer: functions, units, numbers, and what joins or turns a statement around."""

import re


def listed(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FUNCTIONS = listed(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan log ln lg exp gcd "
    "lcm max min cis arcsec arccsc arcsinh arccosh arctanh arsinh arcosh artanh det dim deg arg Re Im sgn "
    "floor ceil abs"
)
INVERTED = listed("sin cos tan cot sec csc sinh cosh tanh coth")
"""Functions whose exponent -1 is their inverse."""
_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: value for value, word in enumerate(_COUNTED.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), 3)
}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"lakh": 10**5, "crore": 10**7} | {word + "s": value for word, value in SCALES.items()}
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth"
PARTS = {word: value for value, word in enumerate(_PARTS.split(), 2)}
PARTS |= {"fourth": 4, "twelfth": 12, "hundredth": 100, "thousandth": 1000, "halve": 2}
PARTS |= {word + "s": value for word, value in PARTS.items()}
"""Fractions in words: 3 quarters."""
BASES = {**NUMBERS, "binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16}
COMMON = listed("no on is it of to in at by as an so up us we he me my be do go or if ok")
"""Words of two letters that are no product of two names."""
REFUSED = listed(
    "not no nor than less more fewer least most only except but if unless when where for from with without "
    "until between january february march april may june july august september october november december is "
    "are was be does do cannot mod modulo remainder over under minus plus times divided by squared cubed "
    "factorial root negative point doubled tripled halved score gross double twice then either neither about "
    "approximately roughly base to choose undefined wrong incorrect false otherwise inverse reciprocal tens "
    "ones off loss debt deficit below noon"
)
"""Words that change what stands beside them, so that nothing with them is a number and its unit."""

_LENGTHS = {
    "mm": (1, 1000), "millimeter": (1, 1000), "millimetre": (1, 1000),
    "cm": (1, 100), "centimeter": (1, 100), "centimetre": (1, 100),
    "m": (1, 1), "meter": (1, 1), "metre": (1, 1),
    "km": (1000, 1), "kilometer": (1000, 1), "kilometre": (1000, 1),
}  # fmt: skip
_KINDS: dict[str, dict[str, tuple[int, int]]] = {
    "length": _LENGTHS,
    "inch": {"inch": (1, 1), "inche": (1, 1), "foot": (12, 1), "feet": (12, 1), "ft": (12, 1), "yard": (36, 1),
             "yd": (36, 1), "mile": (63360, 1), "mi": (63360, 1)},
    "mass": {"mg": (1, 1000), "g": (1, 1), "gram": (1, 1), "kg": (1000, 1), "kilogram": (1000, 1)},
    "time": {"s": (1, 1), "sec": (1, 1), "second": (1, 1), "min": (60, 1), "minute": (60, 1), "h": (3600, 1),
             "hr": (3600, 1), "hour": (3600, 1), "hrs": (3600, 1), "secs": (1, 1),
             "mins": (60, 1), "day": (86400, 1), "week": (604800, 1)},
    "gallon": {"gallon": (16, 1), "gal": (16, 1), "quart": (4, 1), "qt": (4, 1), "pint": (2, 1), "pt": (2, 1)},
    "ounce": {"ounce": (1, 1), "oz": (1, 1)},
    "volume": {"ml": (1, 1000), "milliliter": (1, 1000), "l": (1, 1), "liter": (1, 1), "litre": (1, 1)},
    "dollar": {"dollar": (1, 1), "usd": (1, 1), "cent": (1, 100), "buck": (1, 1)},
    "degree": {"degree": (1, 1), "deg": (1, 1)},
    "year": {"year": (1, 1), "yr": (1, 1), "month": (1, 12)},
    "newton": {"n": (1, 1), "newton": (1, 1)},
    "joule": {"j": (1, 1), "joule": (1, 1), "kj": (1000, 1), "kilojoule": (1000, 1)},
    "watt": {"w": (1, 1), "watt": (1, 1), "kw": (1000, 1), "kilowatt": (1000, 1)},
    "volt": {"v": (1, 1), "volt": (1, 1)},
    "hertz": {"hz": (1, 1), "hertz": (1, 1)},
    "pascal": {"pa": (1, 1), "pascal": (1, 1), "kpa": (1000, 1)},
    "kelvin": {"k": (1, 1), "kelvin": (1, 1)},
    "mole": {"mol": (1, 1), "mole": (1, 1)},
    "euro": {"euro": (1, 1), "eur": (1, 1)},
    "pound": {"pound": (1, 1), "lb": (1, 1), "lbs": (1, 1)},
    "radian": {"radian": (1, 1), "rad": (1, 1)},
}  # fmt: skip
KINDS = frozenset(_KINDS)
KNOWN = {word: (kind, *factor) for kind, words in _KINDS.items() for word, factor in words.items()}
"""Unit in the singular to (kind, numerator, denominator of the factor to the kind's own)."""
UNITS = (
    frozenset(u for u in KNOWN if len(u) > 1)
    | frozenset(u + "s" for u in KNOWN if len(u) > 2)
    | listed("inches mph kph degrees units unit percent pct percentage square cubic sq cu")
)
FUSED = listed("mg ml lb lbs ft mi pa kpa yd hr hrs oz pt qt hz kw kj mol rad")
"""Units that are letters of names too, unless they stand apart in plain text: 2mg is twice m times g."""
_PHRASES = (
    (r"\bmph\b", "mile/hour"),
    (r"\b(?:kph|kmh)\b", "km/hour"),
    (r"\b(?:sq|square)\.?\s+(\w+)", r"\1^2"),
    (r"\b(?:cu|cubic)\.?\s+(\w+)", r"\1^3"),
    (r"\bcc\b", "cm^3"),
    (r"(\w+)\s+squared\b", r"\1^2"),
    (r"(\w+)\s+cubed\b", r"\1^3"),
    (r"\s*(?:/|\bper\b|\bevery\b)\s*", "/"),
)


def singular(word: str) -> str:
    """A word without its plural ending, in lower case; one letter as it stands."""
    if len(word) == 1:
        return word
    word = word.lower()
    if word in ("feet", "inches"):
        return {"feet": "foot", "inches": "inch"}[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def unit(text: str) -> tuple[str, int, int] | None:
    """(unit in one spelling, numerator and denominator of its factor) of words and powers such as "square cm", "km/h",
    "m^2"; an unknown word is a unit of its own. None where the words turn a statement around and are no unit.

    >>> unit("centimeters"), unit("apples")
    (('length', 1, 100), ('apple', 1, 1))
    """
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", text)]
    turned = any(word in REFUSED - {"squared", "cubed"} for word in words) or words[:1] in (["squared"], ["cubed"])
    if (
        turned
        or any(word in NUMBERS or word in PARTS or word in SCALES for word in words)
        or re.search(r"[^\w\s/^{}.*()'-]", text)
    ):
        return None
    text = " ".join(re.sub(r"[{}().]", " ", text).split())
    text = re.sub(r"^(square |cubic |sq |cu )?in(?=$|\^|/)", r"\1inch", text)
    text = re.sub(
        r"^degrees? (?:celsius|c)$",
        "degree C",
        re.sub(r"^degrees? (?:fahrenheit|f)$", "degree F", text, flags=re.I),
        flags=re.I,
    )
    if text in ("degree C", "degree F"):
        return text, 1, 1
    for pattern, instead in _PHRASES:
        text = re.sub(pattern, instead, text, flags=re.IGNORECASE)
    parts, top, bottom = [], 1, 1
    for i, quotient in enumerate(text.split("/")):
        for factor in re.split(r"\*|-|\s+", quotient.strip()):
            base, _, power = factor.partition("^")
            one = singular(base)
            if not one or (not power and one in ("a", "an", "the", "of", "each", "total", "all")):
                continue
            try:
                exponent = int(power or 1) * (-1 if i else 1)
            except ValueError:
                return None
            if abs(exponent) > 9:
                return None
            if base in ("M", "B", "T"):
                return None  # millions, or what?
            exactly = base if base[1:].lower() != base[1:] and one not in KNOWN else one  # MHz is not mHz
            kind, *scale = KNOWN.get(exactly, (exactly, 1, 1))
            if exponent < 0:
                scale = scale[::-1]
            top, bottom = top * scale[0] ** abs(exponent), bottom * scale[1] ** abs(exponent)
            parts.append(f"{kind}^{exponent}" if exponent != 1 else kind)
    return " ".join(sorted(parts)), top, bottom
