"""Mappings that only Python can write, and names that no field has, as prompts, parameters and thinking formats."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from engine.errors import InputError
from engine.model.embedded import EMBEDDED
from engine.prepare import Preparer
from engine.request import SamplingParams
from engine.text.tokenizer import Tokenizer

ODD: tuple[Any, ...] = ("", 1, None, (1, 2), "\ud800\n\x1b[1m", 10**5000, float("nan"), b"n", "x" * 10**6)
FORMAT = {"opener": "<|im_start|>think", "end": "<|im_start|>answer", "budget_end": "<|im_start|>answer\n"}


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(Tokenizer.load(EMBEDDED), "auto", 256)


@pytest.mark.parametrize("key", ODD, ids=range(len(ODD)))
def test_odd_names_are_refused_in_a_line(key: Any, preparer: Preparer) -> None:
    odd = {"n": 1, key: 2}
    formats: list[Mapping[Any, Any]] = [
        odd,
        {**FORMAT, "triggers": ["<|im_start|>"], key: 1},
        {**FORMAT, "triggers": odd},
    ]
    for make in (
        lambda: SamplingParams.from_dict(odd),
        lambda: preparer.prepare("x", SamplingParams(logit_bias={1: 1.0, key if key != 1 else "1": 2.0})),
        lambda: preparer.prepare({"messages": [], key: 1}, SamplingParams()),
        *(lambda format=format: preparer.prepare("x", SamplingParams(thinking_format=format)) for format in formats),
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [None, 5, [1], "n", b"n"])
def test_what_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"params is .*; give an object"):
        SamplingParams.from_dict(value)


def test_a_mapping_of_another_kind_is_as_good(preparer: Preparer) -> None:
    format = {**FORMAT, "triggers": ("<|im_start|>",)}
    assert preparer.format(MappingProxyType(format)) is preparer.format(format)
