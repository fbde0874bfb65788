"""`python -m engine.chat`: a conversation in the terminal, with budgets that can be moved while the model thinks.

    python -m engine.chat --thinking-token-budget 256
    printf 'What is 3 + 4?\nAnd times 2?\n' | python -m engine.chat > answers.txt

Every line is a question, or a command: /help lists them. Standard output has what the model writes, standard error the
rest. Exit codes: 0 the conversation was ended, 1 the engine or an answer failed, 2 bad flags or bad input (one line on
standard error), 130 and 143 interrupted and terminated.
"""

import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from engine.command.arguments import ModelFlags, read_model_flags, refuse_of_requests
from engine.command.conversation import Conversation, command_of, whole_or_off
from engine.command.lines import Lines
from engine.command.stop import Terminated, exit_code, stopped, terminable
from engine.command.view import StreamView
from engine.errors import EngineDead, InputError, tell
from engine.model.checkpoint import resolve
from engine.model.generation_config import default_params
from engine.request import RequestOutput, TokenKind

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.handle import Handle
    from engine.schedule.sequence import Prepared


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelFlags):
    """Talk with a model: how long it thinks is yours to say, before it does and while it does."""

    system: str | None = None
    """The system message; without it, the chat template's own."""


class Chat:
    """A conversation between the lines of standard input and an engine."""

    def __init__(self, engine: "Engine", conversation: Conversation, lines: Lines) -> None:
        self._engine, self._conversation, self._lines = engine, conversation, lines
        self._view = StreamView(Console(highlight=False), 1)
        self._failed = False

    def run(self) -> int:
        """Until the lines end; returns the exit code. Raises InputError for lines of a file or pipe that are no text,
        KeyboardInterrupt where nobody is there to say what is meant by it."""
        while True:
            try:
                text = self._lines.turn()
                if text.rstrip() == "/quit":
                    break
                try:
                    self._turn(text)
                except InputError as error:
                    tell(error)
            except EOFError:
                break
            except KeyboardInterrupt as stop:
                if isinstance(stop, Terminated) or not self._lines.typed:
                    raise
                print("\n/quit or Ctrl-D ends the conversation", file=sys.stderr)
        return 1 if self._failed else 0

    def _turn(self, text: str) -> None:
        conversation = self._conversation
        if text.startswith("/"):
            name, rest = command_of(text)
            if name == "/retry":
                self._ask(*conversation.again())
            elif said := conversation.obey(name, rest):
                print(said, file=sys.stderr)
        elif text.strip():
            conversation.unanswered = text.strip()
            self._ask(text.strip(), len(conversation.turns))

    def _ask(self, question: str, kept: int) -> None:
        """Ask behind the first `kept` turns; the answer takes the place of what stands behind them."""
        conversation = self._conversation
        try:
            prepared = self._prepare(question, kept)
        except InputError as error:
            try:
                self._prepare(question, 0)
            except InputError:
                raise error from None
            raise InputError(f"{error}; /undo or /clear makes room for it, then /retry") from error
        if not self._lines.typed:
            self._view.question(1, question)
        output = self._answered(prepared)
        self._view.end(output)
        done = output.outputs[0]
        if done.finish_reason == "error":
            self._failed = True
            tell(done.error)
        elif done.finish_reason == "abort" or not done.answer:
            print("not kept, since there is no whole answer; /retry asks again", file=sys.stderr)
        else:
            conversation.keep(kept, question, done.answer)

    def _prepare(self, question: str, kept: int) -> "Prepared":
        messages = self._conversation.messages(kept, question)
        return self._engine.prepare({"messages": messages}, self._conversation.params)

    def _answered(self, prepared: "Prepared") -> RequestOutput:
        """Show the answer as it is written, and do what is typed meanwhile."""
        handle = self._engine.submit_prepared(prepared)
        try:
            interrupts = _Interrupts(handle, prepared.plan.format.thinks, self._lines.typed)
            before = signal.signal(signal.SIGINT, interrupts)
            try:
                for delta in handle:
                    self._view.delta(delta)
                    if delta.kind in (TokenKind.DELIMITER, TokenKind.ANSWER):
                        interrupts.thinks = False
                    for line in self._lines.ready():
                        self._steer(handle, line)
            finally:
                signal.signal(signal.SIGINT, before)
            return handle.result()
        finally:
            if not handle.done:
                handle.abort()

    def _steer(self, handle: "Handle", line: str) -> None:
        """A line that was typed while an answer is written: for this answer, or for after it."""
        try:
            match line.split(maxsplit=1):
                case ["/end"]:
                    handle.end_thinking()
                case ["/wait"]:
                    handle.extend()
                case ["/budget", rest]:
                    handle.set_budget(whole_or_off("/budget", rest.strip()))
                case _:
                    self._lines.later(line)
        except InputError as error:
            tell(error)


class _Interrupts:
    """Ctrl-C while an answer is written: the first ends the thinking, the next the answer, one more the wait for it."""

    def __init__(self, handle: "Handle", thinks: bool, typed: bool) -> None:
        self.thinks = thinks
        """Whether there is thinking to end."""
        self._handle, self._aborts = handle, typed

    def __call__(self, *_of_the_signal: object) -> None:
        """Acts on the engine right away: no delta may come for long."""
        if self.thinks:
            self.thinks = False
            self._handle.end_thinking()
        elif self._aborts:
            self._aborts = False
            self._handle.abort()
        else:
            raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    try:
        flags = read_model_flags(Arguments, sys.argv[1:] if argv is None else argv, "python -m engine.chat")
        refuse_of_requests(flags, "chats")
        os.environ.setdefault("S1_TRITON", "cuda")  # for the ranks that it starts too
        with terminable():
            return _chat(flags)
    except (InputError, EngineDead) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt as stop:
        print(stopped(stop), file=sys.stderr)
        return exit_code(stop)
    except OSError as error:  # whoever read standard output has gone, or a full disk
        if not isinstance(error, BrokenPipeError):
            tell(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing may be written to it at exit either
        return 1


def _chat(flags: Arguments) -> int:
    """Start the engine and talk. Raises InputError, before the weights are read, for flags that no answer can have."""
    config = flags.engine_config()
    directory = resolve(config.model)
    params = flags.sampling_params(default_params(directory, config.generation_config))
    conversation, lines = Conversation(params, flags.system or None), Lines()
    # These take torch's seconds: not for --help, nor for bad flags.
    from engine.build import context_limit, refuse_scorer
    from engine.engine import Engine
    from engine.model.config import ModelConfig
    from engine.prepare import Preparer
    from engine.text.tokenizer import Tokenizer

    tokenizer, model = Tokenizer.load(directory), ModelConfig.load(directory, config.dtype, config.device)
    refuse_scorer(model, config.model)
    preparer = Preparer(tokenizer, config.thinking_format, context_limit(config, model))
    preparer.prepare({"messages": conversation.messages(0, "?")}, params)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character
    with Engine(config=config, tokenizer=tokenizer) as engine:
        print(*engine.start_lines(), f"{flags.model_name}: /help lists the commands", sep="\n", file=sys.stderr)
        return Chat(engine, conversation, lines).run()


if __name__ == "__main__":
    sys.exit(main())
