"""lm-evaluation-harness, in an environment of its own, against the real server: likelihoods and generation.

S1_LM_EVAL=/path/to/python    one that has lm_eval; without it a fresh one is made (a minute or two)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
DATA = Path(os.environ.get("S1_DATA", Path(__file__).parents[3] / "shared/data"))
LIMIT = 6


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> str:
    """Its Python."""
    if "S1_LM_EVAL" in os.environ:
        return os.environ["S1_LM_EVAL"]
    folder = tmp_path_factory.mktemp("lm_eval")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "lm_eval[api]==0.4.13"], check=True)
    return python


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two small tasks on local files: which option follows a question, and what is said to one."""
    folder = tmp_path_factory.mktemp("tasks")
    choice, words = DATA / "agieval/aqua-rat.jsonl", DATA / "gsm8k/test.jsonl"
    for task, path, more in (
        (
            "local_choice",
            choice,
            'output_type: multiple_choice\ndoc_to_text: "{{question}}\\nAnswer:"\n'
            "doc_to_choice: \"{{options}}\"\ndoc_to_target: \"{{['A', 'B', 'C', 'D', 'E'].index(label)}}\"\n"
            "metric_list: [{metric: acc}]\n",
        ),
        (
            "local_words",
            words,
            'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
            'generation_kwargs: {until: ["no\\n"], max_gen_toks: 120, do_sample: false}\n'
            "metric_list: [{metric: exact_match}]\n",
        ),
    ):
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}}}}}\ntest_split: test\n"
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{data}{more}")
    return folder


def run(harness: str, server, tasks: Path, out: Path, model: str, route: str, task: str, *flags: str) -> list[dict]:
    """The samples that the harness logged."""
    arguments = f"model=s1-nano,base_url={server.url}{route},num_concurrent=2,max_retries=1"
    command = [
        *(harness, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--include_path", str(tasks)),
        *("--tasks", task, "--limit", str(LIMIT), "--log_samples", "--output_path", str(out), *flags),
    ]
    environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hub")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = out.rglob(f"samples_{task}*.jsonl")
    samples = [json.loads(line) for line in found.read_text().splitlines()]
    assert len(samples) == LIMIT
    return samples


@pytest.mark.parametrize("backend", ["remote"])
def test_likelihoods_are_the_engine_s(harness, server, engine, tasks, tmp_path, backend):
    """Summed over an option's tokens, and whether each was the likeliest: `local-completions` asks with echo."""
    samples = run(
        *(harness, server, tasks, tmp_path, "local-completions", "/v1/completions", "local_choice"),
        *("--batch_size", "4"),
    )
    compared = 0
    for sample in samples:
        for asked, (said,) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context, option = asked["arg_0"], asked["arg_1"]
            whole, begins = (engine.tokenizer.encode(text) for text in (context + option, context))
            likely = engine.prompt_logprobs(whole, 1)[len(begins) - 1 :]
            assert float(said[0]) == pytest.approx(sum(one.logprob for one in likely), rel=1e-5)
            greedy = all(one.logprob == one.top[0][1] for one in likely)
            assert str(said[1]) == str(greedy)
            compared += 1
    assert compared >= 4 * LIMIT


def test_completions_are_the_engine_s(harness, server, engine, tasks, tmp_path):
    samples = run(harness, server, tasks, tmp_path, "local-completions", "/v1/completions", "local_words")
    params = SamplingParams(max_tokens=120, stop=("no\n",))
    prompts = [{"text": sample["arguments"]["gen_args_0"]["arg_0"]} for sample in samples]
    expected = [output.outputs[0].text for output in engine.generate(prompts, params)]
    assert [sample["resps"][0][0] for sample in samples] == expected


def test_chats_are_the_engine_s(harness, server, engine, tasks, tmp_path):
    samples = run(
        *(harness, server, tasks, tmp_path, "local-chat-completions", "/v1/chat/completions", "local_words"),
        "--apply_chat_template",
    )
    params = SamplingParams(max_tokens=120, stop=("no\n",))
    questions = [sample["doc"]["question"] for sample in samples]
    expected = [output.outputs[0].answer for output in engine.generate(questions, params)]
    assert [sample["resps"][0][0] for sample in samples] == expected
