"""`generation_config.json` gives sampling defaults where the caller asks for them, and only there."""

import json
from pathlib import Path

import pytest

from engine import Engine, InputError, SamplingParams
from engine.generate import main
from engine.model.generation_config import default_params
from tests.checkpoints import write_random_checkpoint


def params_of(folder: Path, values: object, generation_config: str = "auto") -> SamplingParams:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return default_params(folder, generation_config)


@pytest.mark.parametrize(
    ("values", "params"),
    [
        (
            {
                "do_sample": True,
                "temperature": 0.6,
                "top_p": 0.95,
                "top_k": 20,
                "eos_token_id": [1],
                "max_new_tokens": 9,
            },
            SamplingParams(temperature=0.6, top_p=0.95, top_k=20),
        ),
        ({"do_sample": True, "top_p": 0.8, "top_k": None}, SamplingParams(temperature=1.0, top_p=0.8)),
        ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.05}, SamplingParams(repetition_penalty=1.05)),
        ({"temperature": 0.6}, SamplingParams()),
        ({}, SamplingParams()),
    ],
)
def test_defaults_are_those_of_transformers(tmp_path: Path, values: dict[str, object], params: SamplingParams) -> None:
    """`do_sample` alone means temperature 1; without it the others do not make a run random."""
    assert params_of(tmp_path, values) == params
    assert params_of(tmp_path, values, "none") == SamplingParams()


def test_a_missing_file_gives_none(tmp_path: Path) -> None:
    assert default_params(tmp_path, "auto") == SamplingParams()


@pytest.mark.parametrize("values", [{"do_sample": True, "temperature": "hot"}, {"top_p": 7}, {"min_p": True}, [1], 3])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, values: object) -> None:
    with pytest.raises(InputError, match=r"generation_config\.json (cannot be used for defaults|holds)") as caught:
        params_of(tmp_path, values)
    assert "\n" not in str(caught.value)


def test_flags_and_lines_go_before_the_file(tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path)  # its file says: do_sample, temperature 0.7
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "params": {"temperature": 0.25}}\n')
    words = [
        "--model",
        str(model),
        "--input",
        str(tmp_path / "in.jsonl"),
        "--output",
        str(tmp_path / "out.jsonl"),
        "--device",
        "cpu",
        "--max-tokens",
        "12",
        "--thinking-token-budget",
        "2",
    ]
    seen = []
    for extra in ([], ["--generation-config", "auto"], ["--generation-config", "auto", "--temperature", "0.5"]):
        assert main([*words, "--overwrite", *extra]) == 0
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        seen.append([line["params"].get("temperature", 0.0) for line in lines])
    assert seen == [[0.0, 0.25], [0.7, 0.25], [0.5, 0.25]]
    with Engine(model, device="cpu", generation_config="auto", max_model_len=64) as engine:
        assert engine.default_params == SamplingParams(temperature=0.7)
