"""A vocabulary of letters, for tests of what happens to token ids."""

from kernels.thinking_tables import traits_of

VOCAB, EOS, NEWLINE = 24, (1, 2), 3
TEXTS = {NEWLINE: b"\n", 4: b".\n", 14: b" "}
"""Of the tokens that are no letter."""
TRAITS = [traits_of(TEXTS.get(token, b"a")) for token in range(VOCAB)]


class Letters:
    """A tokenizer of single letters: token i is the letter chr(97 + i), the newline is a token too."""

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [NEWLINE if c == "\n" else ord(c) - 97 for c in text]

    def special_id(self, text: str) -> int | None:
        return self.encode(text)[0]

    def token_bytes(self, token_id: int) -> bytes:
        return TEXTS.get(token_id, bytes([97 + token_id]))


class Spelled(Letters):
    """A vocabulary without special tokens, in which `<o>` and `</t>` can be spelled in many ways."""

    PIECES = (
        "\0",
        "\1",
        "\2",
        "\n",
        ".\n",
        "<",
        "/",
        "t",
        ">",
        "o",
        "</",
        "/t",
        "t>",
        "a",
        " ",
        "</t",
        "/t>",
        ">b",
        "b<",
    )
    PIECES += ("q", "r<o", "</t>c", "o>", "r")

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [self.PIECES.index(c) for c in text]

    def special_id(self, text: str) -> int | None:
        return None

    def token_bytes(self, token_id: int) -> bytes:
        return self.PIECES[token_id].encode()
