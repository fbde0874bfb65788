"""The adapter of models/smollm2_s1 on the real model: it thinks in s1's format, and its card names the file."""

import hashlib
import re
from pathlib import Path

from engine import Engine, SamplingParams

RECIPE = Path(__file__).parents[2] / "models" / "smollm2_s1"
QUESTION = "Tom has 3 boxes of 4 apples each and eats 2 apples. How many apples are left?"


def test_it_thinks_ends_and_goes_on(model: Path) -> None:
    adapter = str(RECIPE / "adapter")
    with Engine(model, adapter=adapter, device="cpu", dtype="float32", max_num_seqs=4, kv_cache_tokens=2048) as engine:
        params = SamplingParams(max_tokens=300, thinking_format="s1")
        waits = SamplingParams(max_tokens=300, thinking_format="s1", thinking_extensions=2)
        cut = SamplingParams(max_tokens=300, thinking_format="s1", thinking_token_budget=6)
        messages = [{"role": "user", "content": QUESTION}]
        free, longer, short = (
            output.outputs[0] for output in engine.generate([{"messages": messages}] * 3, [params, waits, cut])
        )
    assert free.thinking.stop_reason == "natural" and free.finish_reason == "stop"
    assert re.fullmatch(r"Answer: -?[\d,.]+", free.answer or ""), free.answer
    assert longer.thinking.extensions == 2 and (longer.reasoning or "").count("Wait") >= 2
    assert longer.thinking.tokens > free.thinking.tokens > short.thinking.tokens == 6
    assert short.thinking.stop_reason == "budget" and short.answer


def test_the_card_names_the_file() -> None:
    digest = hashlib.sha256((RECIPE / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert digest in (RECIPE / "README.md").read_text()
