"""What a person sees: thinking dim, the answer bright, what the engine wrote marked, and one line of statistics."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from engine.request import Delta, RequestOutput, TokenKind

_STYLES = {
    TokenKind.PLAIN: "bold",
    TokenKind.OPENER: "dim italic",
    TokenKind.REASONING: "dim",
    TokenKind.DELIMITER: "dim italic",
    TokenKind.ANSWER: "bold",
}
_FORCED = "reverse not dim"
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}
"""A model must not be able to steer the terminal."""


class StreamView:
    """Shows requests one after the other, each as it is written. On a terminal with styles, elsewhere the bare text."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total

    def question(self, number: int, prompt: str) -> None:
        """What is asked, where there are several or a person watches."""
        if self._console.is_terminal or self._total > 1:
            label = f"[{number}/{self._total}] " if self._total > 1 else ""
            self._print(f"{label}{prompt}\n", "cyan")

    def delta(self, delta: Delta) -> None:
        """One piece of the stream. It is marked as forced where the engine wrote all of its tokens."""
        if delta.text:
            forced = bool(delta.token_ids) and len(delta.forced) == len(delta.token_ids)
            self._print(delta.text, f"{_STYLES[delta.kind]} {_FORCED}" if forced else _STYLES[delta.kind])

    def sample(self, index: int, text: str) -> None:
        """A further sample (n > 1), shown whole once the first one has been streamed."""
        self._print(f"\n--- sample {index}\n", "cyan")
        self._print(text, "")

    def end(self, output: RequestOutput) -> None:
        """The last line of a request: why thinking ended, and how much there was of it."""
        self._print("\n", "")
        if self._console.is_terminal:
            first = output.outputs[0]
            report = first.thinking
            parts = [_count(len(first.token_ids), "token")]
            if report.stop_reason is not None:
                parts += [
                    f"{report.tokens:,} thinking",
                    f"{report.forced_tokens:,} forced",
                    _count(report.extensions, "extension"),
                    f"thinking ended: {report.stop_reason}",
                ]
            self._print(" · ".join([*parts, f"finished: {first.finish_reason}"]) + "\n\n", "green dim")
        elif self._total > 1:
            self._print("\n", "")

    def _print(self, text: str, style: str) -> None:
        if self._console.is_terminal:
            self._console.print(Text(text.translate(_CONTROLS), style=style), end="", soft_wrap=True)
        else:
            self._console.file.write(text)
            self._console.file.flush()


def progress_bar(console: Console) -> Progress:
    """Requests done of all, on standard error; nothing where that is no terminal."""
    return Progress(
        TextColumn("generating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class Totals:
    """Counts over the finished requests of a run."""

    def __init__(self) -> None:
        self.requests = self.prompt = self.completion = self.reasoning = self.forced = self.errors = 0
        self.stop_reasons: Counter[str] = Counter()

    def add(self, output: RequestOutput) -> None:
        """Count one finished request."""
        self.requests += 1
        self.prompt += output.usage.prompt_tokens
        self.completion += output.usage.completion_tokens
        self.reasoning += output.usage.reasoning_tokens
        self.forced += output.usage.forced_tokens
        self.errors += sum(sample.finish_reason == "error" for sample in output.outputs)
        self.stop_reasons.update(s.thinking.stop_reason for s in output.outputs if s.thinking.stop_reason is not None)

    def rate(self, seconds: float) -> str:
        """Generated tokens per second."""
        return f"{self.completion / max(seconds, 1e-9):,.0f} tok/s"

    def line(self, seconds: float, stats: Mapping[str, Any]) -> str:
        """`seconds` of wall time since the model was ready; `stats` are the engine's."""
        parts = [
            f"{_count(self.requests, 'request')}",
            f"{self.prompt:,} prompt + {self.completion:,} generated tokens",
            f"{self.reasoning:,} thinking",
            f"{self.forced:,} forced",
            f"{seconds:.2f} s",
            self.rate(seconds),
        ]
        if self.stop_reasons:
            parts.append("thinking ended: " + " ".join(f"{n} {name}" for name, n in self.stop_reasons.most_common()))
        if stats.get("preemptions"):
            parts.append(_count(stats["preemptions"], "preemption"))
        if self.errors:
            parts.append(_count(self.errors, "error"))
        return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
