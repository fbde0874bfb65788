"""Response: whatever is read when, deltas add up to the output, which does not depend on who reads."""

from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import Event
from engine.prepare import Preparer
from engine.request import Delta, RequestOutput, SamplingParams, TokenKind
from engine.response import Response
from engine.text.tokenizer import Tokenizer
from kernels.thinking import Finish, Stop
from tests.conformance.scripted import make_tokenizer, write_tokenizer

TEXTS = ["a", "b c", "\n", "é", "漢", "🙂", "<|im_start|>", "think", "answer", "<think>", "<|im_end|>"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, make_tokenizer(["<think>", "</think>"]))
    return Tokenizer.load(directory)


def run(
    tokenizer: Tokenizer, params: SamplingParams, records: list[list[int]], reads: list[bool]
) -> tuple[RequestOutput, list[Delta], int]:
    """(output, deltas, records read) of a request that commits `records`; somebody reads from the first True on."""
    deltas: list[Delta] = []
    prepared = Preparer(tokenizer, "s1", 4096).prepare("why", params)
    response = Response("0", 0, prepared, tokenizer, deltas.append)
    sequence: Any = SimpleNamespace(sample=0, seated_at=0.0, cached=0)
    at = 0
    for record, read in zip(records, reads, strict=True):
        at += 1
        response.streams |= read
        if response.push(Event(sequence, record)) or response.done:
            break
    else:
        response.abort()
    assert deltas[-1].output is not None and all(delta.output is None for delta in deltas[:-1])
    return deltas[-1].output, deltas, at


@st.composite
def requests(draw: st.DrawFn, tokenizer: Tokenizer) -> list[list[int]]:
    """Records of one request: whole texts, cut characters, delimiters; kinds in order, forced tokens anywhere."""
    ids: list[int] = []
    for text in draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=50)):
        encoded = tokenizer.encode(text, specials=True)
        ids += encoded[: draw(st.integers(1, len(encoded)))] if draw(st.integers(0, 5)) == 0 else encoded
    kinds = sorted(draw(st.lists(st.sampled_from([*TokenKind]), min_size=len(ids), max_size=len(ids))))
    forced = draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=len(ids), max_size=len(ids)))
    records = [
        [t, int(k), f, Finish.RUNNING, Stop.NONE, 1, 0, 0, 0] for t, k, f in zip(ids, kinds, forced, strict=True)
    ]
    records[-1][3] = draw(st.sampled_from([Finish.RUNNING, Finish.STOP, Finish.LENGTH]))
    return records


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_deltas_add_up_to_the_output_whoever_reads(tokenizer: Tokenizer, data: st.DataObject) -> None:
    records = data.draw(requests(tokenizer))
    params = SamplingParams(stop=data.draw(st.sampled_from([(), ("b ca", "\n\n"), ("<|im_start|>",)])))
    first = data.draw(st.integers(0, len(records)))
    reads = [at == first for at in range(len(records))]
    calm, _, ended = run(tokenizer, params, records, [False] * len(records))
    output, deltas, also_ended = run(tokenizer, params, records, reads)
    sample, want = output.outputs[0], calm.outputs[0]
    assert (sample, also_ended) == (want, ended) and sample.token_ids == [r[0] for r in records[:ended]]
    assert "".join(delta.text for delta in deltas) == sample.text
    assert [token for delta in deltas for token in delta.token_ids] == sample.token_ids
    assert [at for delta in deltas for at in delta.forced] == sample.forced
    seen = 0
    for delta in deltas:
        seen += len(delta.token_ids)
        assert all(seen - len(delta.token_ids) <= at < seen for at in delta.forced)
    spoken = [(kind, "".join(d.text for d in same)) for kind, same in groupby(deltas, lambda d: d.kind)]
    by_kind = {kind: "".join(text for k, text in spoken if k is kind) for kind in TokenKind}
    assert by_kind[TokenKind.REASONING].strip() == sample.reasoning
    assert sample.answer in {by_kind[TokenKind.ANSWER].strip(), by_kind[TokenKind.PLAIN].strip()}


def test_each_token_comes_at_once_with_its_own_text(tokenizer: Tokenizer) -> None:
    """Only what may turn out otherwise waits: half a character, half a delimiter."""
    pieces = ["a", "é", "b", "\n"]
    ids = [token for text in pieces for token in tokenizer.encode(text)]
    half = tokenizer.encode("漢")[0]
    assert tokenizer.whole_text(half) is None, "a byte of three"
    script = [*ids, *tokenizer.encode("漢"), tokenizer.encode("a")[0]]
    records = [[t, int(TokenKind.REASONING), 0, Finish.RUNNING, Stop.NONE, 1, 0, 0, 0] for t in script]
    deltas: list[Delta] = []
    prepared = Preparer(tokenizer, "s1", 4096).prepare("why", SamplingParams())
    response = Response("0", 0, prepared, tokenizer, deltas.append)
    response.streams = True
    sequence: Any = SimpleNamespace(sample=0, seated_at=0.0, cached=0)
    shown = []
    for record in records:
        response.push(Event(sequence, record))
        shown.append("".join(delta.text for delta in deltas))
    assert shown[-1] == "aéb\n漢a"
    assert shown == [tokenizer.decode(script[: at + 1]).rstrip("\ufffd") for at in range(len(script))]
