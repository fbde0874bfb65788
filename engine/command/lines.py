"""What a person types, or a file or pipe holds: one line after the other, also while something else is shown."""

import io
import os
import select
import sys
from collections import deque
from contextlib import suppress

from engine.errors import InputError, tell
from engine.input_file import read_lines

with suppress(ImportError):  # where Python was built without it, lines have no history
    import readline  # noqa: F401  # input() uses it


class Lines:
    """Lines of standard input, typed at a prompt or from a file or pipe."""

    def __init__(self) -> None:
        """Raises InputError where standard input or output is closed."""
        if sys.stdin is None or sys.stdout is None:
            raise InputError("standard input or output is closed; give a terminal, a file or a pipe")
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")
        self.typed = sys.stdin.isatty()
        """Whether a person types them."""
        self._prompts = self.typed and sys.stdout.isatty()
        self._early: deque[str] = deque()
        """Lines typed while an answer was written, for after it."""
        self._ended = False
        """Whether Ctrl-D came while an answer was written."""
        self._piped = read_lines(sys.stdin.buffer, "standard input")

    def turn(self) -> str:
        """The next line, and those that it goes on in. Raises EOFError behind the last."""
        text, prompt = "", "> "
        try:
            while (line := self._next(prompt if self._prompts else "")).endswith("\\"):
                text, prompt = f"{text}{line[:-1]}\n", ". "
        except EOFError:
            if not text:
                raise
            return text
        return text + line

    def ready(self) -> list[str]:
        """Lines that were typed and not read; a terminal gives none before its Enter."""
        lines: list[str] = []
        while self.typed and not self._ended and select.select([sys.stdin], [], [], 0)[0]:
            data = os.read(sys.stdin.fileno(), 1 << 16)
            self._ended = not data
            lines += data.decode("utf-8", "replace").splitlines()
        return lines

    def later(self, line: str) -> None:
        """A line of `ready` that is for after the answer."""
        self._early.append(line)

    def _next(self, prompt: str) -> str:
        if self._early:
            line = self._early.popleft()
            if prompt:
                print(prompt + line)
            return line
        if self._ended:
            raise EOFError
        while self.typed:
            try:
                return input(prompt)
            except UnicodeDecodeError:
                tell("the line is not UTF-8 text; type it again")
        for number, data in self._piped:
            try:
                return data.decode().removesuffix("\r")
            except UnicodeDecodeError as error:
                raise InputError(f"standard input:{number}: is not UTF-8 text ({error.reason})") from error
        raise EOFError
