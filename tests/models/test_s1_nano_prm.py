"""s1-nano's reward model in small: labels, training, measures, and the checkpoint in the engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.families import check
from engine import Engine, InputError
from engine.model.config import ModelConfig
from engine.search.branch import Branch
from models.s1_nano_prm.measures import auroc, best_threshold, calibration, f1, label_accuracy, measure
from models.s1_nano_prm.traces import Trace, questions, read, roll_out, sample, sampling, write
from models.s1_nano_prm.training import Recipe, judged, labels_of, train, write_checkpoint
from tests.rounding import decoder_roundings, likely

BASE = Path(__file__).parents[2] / "models" / "s1-nano"


@pytest.fixture(scope="module")
def policy():
    with Engine(BASE, device="cpu", dtype="float32", max_num_seqs=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def traces(policy: Engine) -> list[Trace]:
    return roll_out(policy, sample(policy, questions("train", 24, 5), 2, 100), 900)


def test_traces_are_labelled(policy: Engine, traces: list[Trace]) -> None:
    assert len(traces) == 48 and {trace.prompt for trace in traces} == {
        prompt for _, prompt in questions("train", 24, 5)
    }
    for trace in traces:
        last = len(trace.ends) - 1
        assert len(trace.steps) == len(trace.ends) and trace.ends[-1] == len(trace.token_ids)
        texts = [
            policy.tokenizer.decode(trace.token_ids[a:b]) for a, b in zip((0, *trace.ends), trace.ends, strict=False)
        ]
        assert all(text.count("\n") == 1 and text.endswith("\n") for text in texts[:-1])
        assert trace.right == check(
            trace.family, trace.prompt, texts[-1].split("answer")[-1].removesuffix("<|im_end|>").strip()
        )
        assert trace.first_dead is not None and 0 <= trace.first_dead <= last
        exact, rolled = (dict(labels_of(trace, kind)) for kind in ("exact", "rollouts"))  # type: ignore[arg-type]
        ends = [len(trace.prompt_ids) + end - 1 for end in trace.ends]
        assert exact[ends[-1]] == rolled[ends[-1]] == trace.right
        if trace.first_error is not None:
            assert exact[ends[trace.first_error]] == 0 and not {*ends[trace.first_error + 1 : -1]} & exact.keys()
        assert [rolled[end] for end in ends[: trace.first_dead]] == [1] * trace.first_dead
    assert any(trace.first_error is not None for trace in traces) and any(trace.right for trace in traces)


def test_steps_end_where_a_branch_ends_them(policy: Engine, traces: list[Trace]) -> None:
    for number, trace in enumerate(traces[:6:2]):
        branch = Branch(policy, trace.prompt_ids, replace(sampling(100 + number, 1), seed=100 + number))
        while not branch.finished:
            branch.step(stop=("\n",))
        assert (branch.token_ids, branch.ends) == (trace.token_ids, trace.ends)


def test_traces_are_read_as_they_were_written(traces: list[Trace], tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    write(file, traces)
    assert list(read(file)) == traces
    file.write_text(file.read_text() + '{"family": "chains"}\n')
    with pytest.raises(InputError, match="line 49 is no trace"):
        list(read(file))


def test_the_engine_scores_what_was_trained(traces: list[Trace], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    scorer = train(BASE, traces[:32], Recipe(epochs=6, batch_tokens=2048, learning_rate=1e-3))
    again = train(BASE, traces[:32], Recipe(epochs=6, batch_tokens=2048, learning_rate=1e-3))
    assert all(
        torch.equal(a, b) for a, b in zip(scorer.state_dict().values(), again.state_dict().values(), strict=True)
    )
    told = judged(scorer, traces[:32])
    goods = [good for trace in traces[:32] for _, good in labels_of(trace, "exact")]
    says = [
        dict(zip(t.ends, s, strict=True))[p - len(t.prompt_ids) + 1]
        for t, s in zip(traces, told, strict=False)
        for p, _ in labels_of(t, "exact")
    ]
    assert auroc(np.array(says), np.array(goods)) > 0.8, "it has learned nothing"
    write_checkpoint(scorer, BASE, tmp_path / "prm")
    rounded = {name: tensor.bfloat16().float() for name, tensor in scorer.state_dict().items()}
    scorer.load_state_dict(rounded)
    bound = likely(decoder_roundings(ModelConfig.load(tmp_path / "prm"), 200) + 128) * 128
    with Engine(tmp_path / "prm", device="cpu", dtype="float32") as engine:
        for trace, exact in zip(traces[32:], judged(scorer, traces[32:]), strict=True):
            steps = [trace.token_ids[a:b] for a, b in zip((0, *trace.ends), trace.ends, strict=False)]
            assert engine.score(trace.prompt_ids, steps).values == pytest.approx(exact, abs=bound)
    head = train(BASE, traces[:8], Recipe(whole=False, epochs=1))
    base = train(BASE, traces[:8], Recipe(whole=False, epochs=0))
    assert all(
        torch.equal(head.state_dict()[name], tensor)
        for name, tensor in base.state_dict().items()
        if "score" not in name
    )


def test_the_committed_model_finds_errors_in_the_engine(policy: Engine) -> None:
    """On traces of held-out questions that its card does not count: right lines above wrong ones, right answers too."""
    traces = sample(policy, questions("heldout", 100, 77), 2, 5_000)
    with Engine(BASE.parent / "s1-nano-prm", device="cpu", dtype="float32") as engine:
        asked = [
            engine.submit_score(
                trace.prompt_ids, [trace.token_ids[a:b] for a, b in zip((0, *trace.ends), trace.ends, strict=False)]
            )
            for trace in traces
        ]
        scores = [list(scoring.result().values) for scoring in asked]
    found = measure(traces, scores, best_threshold(traces, scores))
    assert found.auroc > 0.9 and found.answer_auroc > 0.93 and found.f1 > 0.6, found


def trace_of(steps: tuple[int | None, ...], first_dead: int | None = None) -> Trace:
    return Trace("chains", "?", (1,), tuple(range(len(steps))), tuple(range(1, len(steps) + 1)), steps, first_dead)


def test_measures_are_what_they_are_called() -> None:
    traces = [trace_of((1, 1, 0, 1, 0)), trace_of((1, 1, 1)), trace_of((0, 1)), trace_of((1, None, 1))]
    scores = [[0.9, 0.8, 0.2, 0.9, 0.1], [0.9, 0.4, 0.8], [0.3, 0.2], [0.7, 0.1, 0.9]]
    assert f1(traces, scores, 0.5) == pytest.approx((0.0, 1.0, 0.0))
    assert f1(traces, scores, 0.35) == pytest.approx((2 * 0.5 / 1.5, 1.0, 0.5))
    assert best_threshold(traces, scores) == pytest.approx(0.4, abs=0.1)
    found = measure(traces, scores, 0.35)
    # Lines up to the first error that can be read: right 0.9 0.8 0.9 0.4 0.7, wrong 0.2 0.3.
    assert found.auroc == 1.0 and found.answer_auroc == 1.0
    chance = np.random.default_rng(0)
    values, goods = chance.integers(0, 9, 200) / 8, chance.integers(0, 2, 200)
    pairs = [(a > b) + (a == b) / 2 for a in values[goods == 1] for b in values[goods == 0]]
    assert auroc(values, goods) == pytest.approx(np.mean(pairs))
    assert calibration(np.array([0.05, 0.95, 0.95]), np.array([0, 1, 0])) == pytest.approx((0.05 + 0.9) / 3)
    assert label_accuracy([trace_of((1, 0, 1, 0), 1), trace_of((1, 1, 1), 1)]) == pytest.approx((3 / 4, 1.0))
