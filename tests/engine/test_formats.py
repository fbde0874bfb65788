"""Which thinking format `auto` is, for checkpoints as their makers publish them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine import Engine, InputError, SamplingParams
from engine.text.tokenizer import Tokenizer, names_of
from engine.thinking.formats import PRESETS, choose_format
from engine.thinking.plan import format_strings
from tests.checkpoints import write_random_checkpoint

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@dataclass
class Published:
    """A checkpoint's name, its added tokens and its template."""

    names: Sequence[str]
    specials: Sequence[str] = ()
    template_source: str | None = CHATML
    ids: dict[str, int] = field(default_factory=dict)

    def special_id(self, text: str) -> int | None:
        return 7 if text in self.specials else None

    def encode(self, text: str, specials: bool = False) -> list[int]:
        raise AssertionError("a preset is chosen without encoding")

    def token_bytes(self, token_id: int) -> bytes:
        raise AssertionError("a preset is chosen without encoding")


@pytest.mark.parametrize(
    ("checkpoint", "preset", "because"),
    [
        (Published(["s1-32B"]), "s1", "the model is called s1-32b"),
        (Published(["s1.1-7B"]), "s1", "called s1.1-7b"),
        (Published(["export", "simplescaling/s1.1-1.5B"]), "s1", "called simplescaling/s1.1-1.5b"),
        (Published(["nano"], template_source="{# You are s1-nano. #}" + CHATML), "s1", "the chat template says s1"),
        (Published(["Qwen2.5-32B-Instruct"]), "none", "thinking_format chooses another"),
        (Published(["gps1-32B"]), "none", "neither"),
        (Published(["LIMO-v2"], template_source=None), "none", "neither"),
        (Published(["Qwen3-32B"], ["<think>", "</think>"]), "qwen3", "<think> is a token of its own"),
        (Published(["QwQ-32B"], ["<think>"]), "qwen3", "a token of its own"),
        (Published(["QwQ-32B-Preview"]), "none", "neither"),
        (Published(["Qwen3-4B-Instruct-2507"], ["<think>"]), "none", "qwen3-4b-instruct-2507 does not write it"),
        (Published(["Qwen3-4B-Thinking-2507"], ["<think>"]), "qwen3", "a token of its own"),
        (Published(["DeepSeek-R1-Distill-Llama-8B"], ["<think>"]), "qwen3", "a token of its own"),
        (Published(["OpenThinker-7B"]), "sky_t1", "called openthinker-7b"),
        (Published(["OpenThinker3-7B"]), "qwen3", "called openthinker3-7b"),
        (Published(["Sky-T1-32B-Flash"]), "sky_t1", "called sky-t1-32b-flash"),
        (Published(["Bespoke-Stratos-32B"]), "sky_t1", "called"),
        (Published(["AM-Thinking-v1"]), "am_thinking", "called"),
        (Published(["AM-Thinking-v1"], ["<think>"]), "am_thinking", "am-thinking-v1"),
        (Published(["EXAONE-Deep-7.8B"]), "exaone", "called"),
        (Published(["Magistral-Small-2506"]), "magistral", "called"),
        (Published(["mine"], template_source="<|begin_of_thought|>" + CHATML), "sky_t1", "template says <|begin_of_"),
        (Published(["mine"], template_source="{{ '<think>' }}" + CHATML), "qwen3", "template says <think>"),
        (Published(["mine"], template_source="[THINK]" + CHATML), "magistral", "template says [THINK]"),
    ],
    ids=lambda value: value.names[-1] if isinstance(value, Published) else None,
)
def test_auto(checkpoint: Published, preset: str, because: str) -> None:
    chosen = choose_format(checkpoint)
    assert chosen.preset == preset and because in chosen.reason
    assert format_strings("auto", checkpoint) == PRESETS[preset]


def test_names_of_a_folder_and_of_a_hub_cache(tmp_path: Path) -> None:
    folder = tmp_path / "models--simplescaling--s1-32B" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    assert names_of(folder) == ("models--simplescaling--s1-32B",)
    (folder / "config.json").write_text('{"_name_or_path": "simplescaling/s1-32B"}')
    assert names_of(folder) == ("models--simplescaling--s1-32B", "simplescaling/s1-32B")
    assert names_of(tmp_path) == (tmp_path.name,)


def test_the_engine_says_what_auto_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = write_random_checkpoint(tmp_path / "Qwen2.5-0.5B-Instruct", qwen_tokenizer=True, hidden=32, heads=2)
    with Engine(directory, device="cpu", dtype="float32", kv_cache_tokens=256) as engine:
        assert "note: thinking_format auto is none: neither tokenizer, name" in capfd.readouterr().err
        with pytest.raises(InputError, match="thinking_token_budget is set and the thinking format is none"):
            engine.generate(["Hi"], SamplingParams(thinking_token_budget=5))
    with Engine(directory, device="cpu", dtype="float32", kv_cache_tokens=256, thinking_format="s1") as engine:
        assert "thinking_format" not in capfd.readouterr().err
        assert engine.tokenizer.names == Tokenizer.load(directory).names


def test_fields_of_a_custom_format() -> None:
    tokenizer = Published(["x"])
    strings = {"opener": "<a>", "end": "</a>", "budget_end": "</a>\n", "triggers": ["</a>"]}
    assert format_strings(strings, tokenizer).answer_opener == ""
    assert format_strings({**strings, "answer_end": "</b>"}, tokenizer).answer_end == "</b>"
    with pytest.raises(InputError, match=r"give \['budget_end', 'end', 'opener', 'triggers'\] and, if need be"):
        format_strings({**strings, "closer": "x"}, tokenizer)
    with pytest.raises(InputError, match="answer_opener and answer_end are strings"):
        format_strings({**strings, "answer_end": 5}, tokenizer)
