"""Forms of a question that are compared: as words, and as numbers."""

import polars as pl

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts without spaces between words: each character, with its marks, is taken for one."""
WORD = rf"\d+(?:\.\d+)?|[{_UNSPACED}]\p{{M}}*|[[^\W\d_]--[{_UNSPACED}]]+|[+\-*/=<>^]"
"""A number, a run of letters or an operator. Punctuation and LaTeX's backslashes, braces and dollars fall away."""
NUMBER = r"\d+(?:\.\d+)?"

_DEGREES = r"\s*(?:[°º˚]|\^\s*\{?\s*\\circ\b\s*\}?|\\?\bdegrees?\b)\s*"
_RAISED = r"([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
)
_SIGNS = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", (f" {name} " for name in _GREEK.split()), strict=True)) | {
    "\u2212": "-", "\u2044": "/", "\u00d7": " times ", "·": " cdot ", "⋅": " cdot ", "÷": " div ", "±": " pm ",
    "√": " sqrt ", "∞": " infty ", "∠": " angle ", "△": " triangle ", "≤": " leq ", "≥": " geq ", "≠": " neq ",
}  # fmt: skip
"""Unicode's mathematics by the names that LaTeX has for it."""


def plain(column: str) -> pl.Expr:
    """A column of questions in lower case and NFKC, with one form of what Unicode and LaTeX write differently: 60°,
    60^\\circ and 60 degrees; x² and x^2; π and \\pi."""
    text = pl.col(column).str.to_lowercase().str.replace_all(_DEGREES, " degrees ").str.replace_all(_RAISED, "^$1")
    return text.str.normalize("NFKC").str.replace_many(_SIGNS)


def words(column: str) -> pl.Expr:
    """Words of a column of `plain` texts, as lists."""
    return pl.col(column).str.extract_all(WORD)


def numbers(column: str) -> pl.Expr:
    """The numbers of a `plain` text, sorted, in one string: questions that differ here are different questions."""
    return pl.col(column).str.extract_all(NUMBER).list.sort().list.join(" ")
