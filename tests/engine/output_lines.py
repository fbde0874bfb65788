"""Output lines without an engine: a finished request made up, and the record of it."""

from engine.command.jsonl import InputLine, Origin, output_record
from engine.request import Completion, RequestOutput, ThinkingReport, Timing, Usage


def output_of(line: InputLine, finish_reason="stop", **completion) -> RequestOutput:
    sample = Completion(0, "t", "r", "a", [1, 2], [1], finish_reason, ThinkingReport(1, 1, 0, "budget"), **completion)
    return RequestOutput("0", line.index, [5], [sample], Usage(1, 0, 2, 1, 1), Timing(0.0, 0.1, 0.2))


def record_of(line: InputLine, **options) -> dict:
    return output_record(line, output_of(line, **options), Origin("m", {}))
