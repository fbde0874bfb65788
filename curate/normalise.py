"""Forms of a question that are compared: one for equality, one as words, one as numbers."""

import hashlib
import unicodedata

import polars as pl

WORD = r"\d+(?:\.\d+)?|[^\W\d_]+|[+\-*/=<>^]"
"""A number, a run of letters or an operator. Punctuation and LaTeX's backslashes, braces and dollars fall away."""
NUMBER = r"\d+(?:\.\d+)?"


def canonical(text: str) -> str:
    """`text` for the test of equality: NFKC, lower case, white space collapsed. Signs stay: x+1 is not x-1."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def question_id(text: str) -> str:
    """Key of a question in every table: SHA-256 (hex) of its canonical form."""
    return hashlib.sha256(canonical(text).encode("utf-8", "surrogatepass")).hexdigest()


def s1_hash(text: str) -> str:
    """s1's own key: the first 16 hex digits of SHA-256 of the raw text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def words(column: str) -> pl.Expr:
    """Words of a column of questions, as lists."""
    return pl.col(column).str.to_lowercase().str.extract_all(WORD)


def numbers(column: str) -> pl.Expr:
    """The numbers of a question, sorted, in one string: questions that differ here are different questions."""
    return pl.col(column).str.extract_all(NUMBER).list.sort().list.join(" ")
