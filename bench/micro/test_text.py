"""Text: tokens to deltas, as they come."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.request import TokenKind
from engine.text.output import OutputStream
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import resolve_format


@pytest.mark.parametrize("stop", [(), ("Final Answer:", "\n\n\n")], ids=["no_stop", "two_stops"])
def test_detokenizer(benchmark: BenchmarkFixture, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    """1,000 tokens of reasoning, one at a time."""
    format = resolve_format("s1", tokenizer)
    ids = tokenizer.encode("Let us count the ways, one at a time; there are 144 of them. " * 40)[:1000]

    def run() -> OutputStream:
        stream = OutputStream(tokenizer, [1, 2, 3], format, stop, tokenizer.eos_token_ids, False)
        for token in ids:
            stream.push(token, TokenKind.REASONING)
        stream.finish()
        return stream

    assert benchmark(run).text == tokenizer.decode(ids)
