"""What a message says of a value that no structure takes: the setting, the value, and what is known in its place."""

import enum
from typing import Annotated, Literal

import msgspec
import pytest

from engine import InputError
from engine.struct_file import read_struct, to_struct


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """No unknown names."""


class Walk(Strict, tag_field="method", tag="walk"):
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1
    how: Literal["slow", "fast"] = "slow"


class Run(Strict, tag_field="method", tag="run"):
    speed: Literal[1, 2, None] = 1


class Reward(Strict):
    model: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Odd(Strict):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2 == 0:
            raise ValueError(f"number is {self.number}; give an odd one")


class Tree(Strict):
    methods: tuple[Walk | Run, ...] = ()
    one: str | Walk | Run = "none"
    reward: str | Reward = "votes"
    colour: Colour = Colour.RED
    several: Literal["a", "b"] | tuple[Literal["a", "b"], ...] = "a"
    size: Literal["auto"] | int = "auto"
    by_name: dict[str, Literal["on", "off"]] = {}
    pair: tuple[str, Literal["x"]] = ("", "x")
    odd: tuple[Odd, ...] = ()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"methods": [{"method": "wolk"}]}, "methods[0].method is 'wolk'; did you mean 'walk'? known: 'walk', 'run'"),
        ({"methods": [{}]}, "methods[0].method is missing; known: 'walk', 'run'"),
        ({"methods": [{"method": 3}]}, "methods[0].method is 3: expected `str`, got `int`; known: 'walk', 'run'"),
        ({"methods": ["walk"]}, "methods[0] is 'walk': expected `mapping`, got `str`"),
        (
            {"methods": [{"method": "run"}, {"method": "walk", "how": "Fast"}]},
            "methods[1].how is 'Fast'; did you mean 'fast'? known: 'fast', 'slow'",
        ),
        ({"methods": [{"method": "walk", "steps": 0}]}, "methods[0].steps is 0: expected `int` >= 1"),
        ({"methods": [{"method": "run", "speed": 3}]}, "methods[0].speed is 3; known: null, 1, 2"),
        ({"methods": [{"method": "run", "step": 3}]}, "unknown setting methods[0].step; known: method, speed"),
        ({"methods": [{"method": "walk", "step": 3}]}, "unknown setting methods[0].step; did you mean steps?"),
        ({"one": {"method": "rum"}}, "one.method is 'rum'; did you mean 'run'? known: 'walk', 'run'"),
        ({"one": 4}, 'one is 4: expected `str | mapping`, got `int`; as text it is written "4"'),
        ({"reward": {"modle": "x"}}, "unknown setting reward.modle; did you mean model?"),
        ({"reward": {"model": True}}, 'reward.model is True: expected `str`, got `bool`; as text it is written "true"'),
        ({"colour": "read"}, "colour is 'read'; did you mean 'red'? known: 'red', 'blue'"),
        ({"several": ["a", "c"]}, "several[1] is 'c'; known: 'a', 'b'"),
        ({"several": "c"}, "several is 'c'; known: 'a', 'b'"),
        ({"size": "aut"}, "size is 'aut'; did you mean 'auto'? known: 'auto'"),
        ({"size": 1.5}, "size is 1.5: expected `int | str`, got `float`; known: 'auto'"),
        ({"by_name": {"k": "of"}}, "by_name[...]: Invalid enum value 'of'; known: 'off', 'on'"),
        ({"pair": ["", "y"]}, "pair[1] is 'y'; known: 'x'"),
        ({"pair": 3}, "pair is 3: expected `list`, got `int`"),
        ({"odd": [{"number": 1}, {"number": 2}]}, "odd[1]: number is 2; give an odd one"),
        ([], "Expected `mapping`, got `list`"),
    ],
)
def test_what_cannot_be_names_the_setting_the_value_and_the_way_out(tree, message):
    with pytest.raises(InputError) as told:
        to_struct(tree, Tree)
    assert str(told.value) == message


def test_a_long_list_of_known_values_fits_a_line(tmp_path):
    names = tuple(f"adapter_number_{i}" for i in range(200))
    kind = msgspec.defstruct("Long", [("adapter", Literal[names])])
    (tmp_path / "f.yaml").write_text("adapter: adaptr_number_7\n")
    with pytest.raises(InputError) as told:
        read_struct(tmp_path / "f.yaml", kind)
    text = str(told.value)
    assert "f.yaml: adapter is 'adaptr_number_7'; did you mean 'adapter_number_7'? known: 'adapter_number_0'" in text
    assert len(text) < 700 and text.endswith(" more")
    shown_here = text.count("'adapter_number_") - 1
    assert text.endswith(f" and {200 - shown_here} more") and shown_here > 10
