"""Forms of a question that are compared for equality. Those that are compared by words are in `curate.words`."""

import hashlib
import unicodedata


def canonical(text: str) -> str:
    """`text` for the test of equality: NFKC, lower case, white space collapsed. Signs stay: x+1 is not x-1."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def question_id(text: str) -> str:
    """Key of a question in every table: SHA-256 (hex) of its canonical form."""
    return hashlib.sha256(canonical(text).encode("utf-8", "surrogatepass")).hexdigest()


def s1_hash(text: str) -> str:
    """s1's own key: the first 16 hex digits of SHA-256 of the raw text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
