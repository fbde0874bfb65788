"""A conversation: what was said, how the next answer is sampled, and the commands that change either."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from engine.command.append_log import json_line
from engine.errors import InputError, plain, refuse, shown
from engine.request import SamplingParams
from engine.whole_file import write_whole

T = TypeVar("T")

HELP = """\
/budget N|off    at most N thinking tokens; while it thinks: for this answer alone
/min N           at least N thinking tokens
/wait N [TEXT]   N ends of thinking become TEXT; while it thinks, /wait alone: one more
/temp X          temperature; 0 is greedy
/seed N|off      seed of the draws
/max N|off       at most N tokens an answer, those of its thinking included
/end             while it thinks: answer now, as the first Ctrl-C does; the second aborts the answer
/retry           ask the last question again
/undo            take back the last question and its answer
/clear           take back all of them
/system [TEXT]   the system message; without TEXT the chat template's own
/show            what is set
/save FILE       write the messages as JSON
/quit            end, as Ctrl-D does
A line that ends with \\ goes on in the next one. A question may begin with / behind a space."""

_FIELDS = {
    "/budget": "thinking_token_budget",
    "/min": "min_thinking_tokens",
    "/wait": "thinking_extensions",
    "/temp": "temperature",
    "/seed": "seed",
    "/max": "max_tokens",
}
"""What commands set."""
_BARE = ("/end", "/undo", "/clear", "/show", "/help", "/retry", "/quit")
"""Commands that take nothing."""


@dataclass
class Conversation:
    """`turns` are questions and their answers, which hold no thinking."""

    params: SamplingParams
    system: str | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)
    unanswered: str | None = None
    """A question that was refused, or whose answer was not kept: /retry asks it."""

    def messages(self, kept: int, question: str | None = None) -> list[dict[str, str]]:
        """The system message, the first `kept` turns, and a question."""
        said = [("system", self.system)] if self.system else []
        for asked, answer in self.turns[:kept]:
            said += [("user", asked), ("assistant", answer)]
        said += [("user", question)] if question is not None else []
        return [{"role": role, "content": text} for role, text in said]

    def keep(self, kept: int, question: str, answer: str) -> None:
        """The answer to a question that was asked behind the first `kept` turns, instead of what stood there."""
        self.turns[kept:] = [(question, answer)]
        self.unanswered = None

    def again(self) -> tuple[str, int]:
        """The question to ask again, and behind how many turns. Raises InputError where there is none."""
        if self.unanswered is not None:
            return self.unanswered, len(self.turns)
        refuse((not self.turns, "/retry: nothing was asked yet"))
        return self.turns[-1][0], len(self.turns) - 1

    def obey(self, name: str, rest: str) -> str:
        """Do what a command with `rest` behind it says; returns what to tell. Raises InputError, with nothing changed,
        for commands that are unknown or malformed."""
        match name:
            case "/budget" | "/seed" | "/max":
                self._set({_FIELDS[name]: whole_or_off(name, rest)})
            case "/min":
                self._set({_FIELDS[name]: _number(name, rest, int)})
            case "/temp":
                self._set({_FIELDS[name]: _number(name, rest, float)})
            case "/wait":
                number, *text = rest.split(maxsplit=1) or [""]
                written = {"thinking_extension_str": text[0]} if text else {}
                self._set({_FIELDS[name]: _number(name, number, int), **written})
            case "/system":
                self.system = rest or None
            case "/undo":
                refuse((not self.turns, "/undo: nothing was answered yet"))
                return f"taken back: {shown(self.turns.pop()[0])}"
            case "/clear":
                self.turns.clear()
            case "/end":
                return "/end is for while it thinks: type it and Enter, or press Ctrl-C, and it answers"
            case "/show":
                return self._shown()
            case "/help":
                return HELP
            case "/save":
                return self._save(rest)
            case _:
                raise InputError(f"{shown(name)} is no command; /help lists them, and behind a space it is a question")
        return ""

    def _set(self, changed: dict[str, Any]) -> None:
        self.params = replace(self.params, **changed)

    def _shown(self) -> str:
        """Every command with its value, and what flags have set beside."""
        values = {each.name: getattr(self.params, each.name) for each in fields(self.params)}
        behind = {"/wait": f" {plain(values.pop('thinking_extension_str'))}"}
        set_here = {name: values.pop(field) for name, field in _FIELDS.items()}
        lines = [f"{name} {'off' if v is None else v}{behind.get(name, '')}" for name, v in set_here.items()]
        lines.append(f"/system {plain(self.system)}" if self.system else "/system (the chat template's own)")
        for name, value in values.items():
            if value != getattr(SamplingParams, name):
                lines.append(f"--{name.replace('_', '-')} {shown(value)}")
        count = len(self.turns)
        return "\n".join([*lines, f"{count} question{'' if count == 1 else 's'} answered"])

    def _save(self, name: str) -> str:
        """One line, as the input of engine.generate has it."""
        messages = self.messages(len(self.turns))
        path = Path(os.path.expanduser(name))
        refuse(
            (not name, "/save needs the name of a file"),
            (not self.turns, "/save: nothing was answered yet"),
            (os.path.lexists(path), f"/save: {plain(name)} is there already; choose another name"),
        )
        try:
            write_whole(path, json_line({"messages": messages}))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"/save: {plain(name)} cannot be written: {why}; choose another name") from error
        return f"{len(messages)} messages are in {plain(name)}"


def command_of(text: str) -> tuple[str, str]:
    """A command's name, and what is behind it. Raises InputError for something behind one that takes nothing."""
    name, *rest = text.split(maxsplit=1)
    refuse((rest and name in _BARE, f"{name} takes nothing behind it; leave out {shown(''.join(rest).strip())}"))
    return name, "".join(rest).strip()


def whole_or_off(name: str, text: str) -> int | None:
    """The value of a command that can be off. Raises InputError for any other word."""
    return None if text == "off" else _number(name, text, int, " or off")


def _number(name: str, text: str, kind: Callable[[str], T], other: str = "") -> T:
    noun = f"a {'whole ' if kind is int else ''}number{other}"
    refuse((not text, f"{name} needs {noun}"))
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name} is {shown(text)}; give {noun}") from None
