"""Endpoints that work, fail, limit, stall, talk garbage or are not there; and a trace stage killed half-way."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from curate.config import load_config
from curate.models.asking import Ask, EndpointDown, Sampling
from curate.models.endpoint import EndpointConfig, EndpointModel
from curate.models.opened import check_model_config, open_model
from curate.models.prompt import Prompt
from curate.models.store import Store
from curate.run import Arguments
from curate.run import run as curate
from curate.stages.attempts import attempt
from tests.curate.endpoints import Endpoint

SAMPLING = Sampling(max_tokens=100)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    endpoint = Endpoint(tmp_path_factory.mktemp("endpoint") / "calls.jsonl")
    yield endpoint
    endpoint.stop()


def asks(count: int, first: int = 0) -> list[Ask]:
    prompt = Prompt.load("question")
    return [
        Ask(f"q{i}", prompt.messages(question=f"Question {i}?"), SAMPLING, prompt.version)
        for i in range(first, first + count)
    ]


def model_of(endpoint: Endpoint, name: str, store: Store, **settings) -> EndpointModel:
    quick = {"first_wait_s": 0.01, "longest_wait_s": 0.05, "max_tries": 4, "timeout_s": 30.0, "concurrency": 8}
    return EndpointModel(EndpointConfig(model=name, base_url=endpoint.url, **{**quick, **settings}), store)


def test_a_good_endpoint_is_asked_once_for_each_question(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        model = model_of(endpoint, "good", store)
        answers = {answer.id: answer for answer in model.ask(asks(40))}
        assert len(answers) == 40 and len(endpoint.calls("good")) == 40
        one = answers["q3"]
        assert one.text.startswith("Answer: ") and one.reasoning.startswith("step ") and one.finish_reason == "stop"
        assert one.prompt_tokens == len("Question 3?") and one.reasoning_tokens == len(one.reasoning)
        assert one.reported_model == "good-2026"
        again = {answer.id: answer for answer in model.ask(asks(41))}
        assert {id: again[id] for id in answers} == answers and len(endpoint.calls("good")) == 41
        (totals,) = store.totals()
        assert (totals.model, totals.calls, totals.errors, totals.tries) == ("good", 41, 0, 41)
        assert totals.reasoning_tokens == sum(answer.reasoning_tokens for answer in again.values())
    body = endpoint.calls("good")[0]["body"]
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}, "thinking fields unasked"


def test_one_key_is_one_call_and_samples_differ(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        model = model_of(endpoint, "good", store)
        before = len(endpoint.calls("good"))
        (ask,) = asks(1, first=500)
        twins = [Ask(id, ask.messages, ask.sampling, ask.prompt_version) for id in ("a", "b", "c")]
        twins.append(Ask("d", ask.messages, ask.sampling, ask.prompt_version, sample=1))
        answers = {answer.id: answer for answer in model.ask(twins)}
        assert set(answers) == {"a", "b", "c", "d"} and len(endpoint.calls("good")) == before + 2
        assert answers["a"].key == answers["b"].key != answers["d"].key
        seeds = [call["body"]["seed"] for call in endpoint.calls("good")[before:]]
        assert len(set(seeds)) == 2


def test_thinking_fields_go_into_the_body(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        (ask,) = asks(1, first=600)
        sampling = Sampling(max_tokens=7, thinking_token_budget=32, thinking_extensions=2)
        list(model_of(endpoint, "good", store).ask([Ask("x", ask.messages, sampling, "question-1")]))
    body = endpoint.calls("good")[-1]["body"]
    assert body["thinking_token_budget"] == 32 and body["thinking_extensions"] == 2 and body["max_tokens"] == 7


@pytest.mark.parametrize(
    "name, error, tries, detail",
    [
        ("broken", "server", 4, "status 503"),
        ("strict", "bad_request", 1, "prompt too long"),
        ("packed", "garbage", 4, "longer than 16 MiB"),
        ("superscript", "rate_limit", 4, "status 429"),
        *((f"garbage{i}", "garbage", 4, "") for i in range(7)),
    ],
)
def test_what_fails_for_good_is_a_row_and_is_not_asked_again(endpoint, tmp_path, name, error, tries, detail):
    with Store(tmp_path / "store.sqlite") as store:
        model = model_of(endpoint, name, store)
        (answer,) = model.ask(asks(1))
        assert answer.error == error and detail in answer.detail and answer.finish_reason is None
        assert len(endpoint.calls(name)) == tries
        assert list(model.ask(asks(1))) == [answer] and len(endpoint.calls(name)) == tries
        assert store.errors() == [(name, "q0", error, answer.detail)]
    with Store(tmp_path / "store.sqlite", retry_errors=True) as store:
        list(model_of(endpoint, name, store).ask(asks(1)))
        assert len(endpoint.calls(name)) == 2 * tries


def test_text_that_no_file_can_hold_is_kept_as_far_as_it_goes(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        (first,) = model_of(endpoint, "odd", store).ask(asks(1))
        (again,) = model_of(endpoint, "odd", store).ask(asks(1))
    assert first == again and first.text.endswith(" \N{REPLACEMENT CHARACTER}\0\n")


def test_a_rate_limit_is_waited_out(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        started = time.monotonic()
        answers = list(model_of(endpoint, "limited", store).ask(asks(12)))
        assert all(answer.error is None for answer in answers) and time.monotonic() - started >= 2 * 0.05
        assert len(endpoint.calls("limited")) == 36 and store.totals()[0].tries == 36
        (late,) = model_of(endpoint, "limited", store, max_tries=2).ask(asks(1, first=50))
        assert late.error == "rate_limit" and "slow down" in late.detail


def test_no_more_calls_are_open_at_once_than_asked_for(endpoint, tmp_path):
    before = len(endpoint.calls("flaky"))
    with Store(tmp_path / "store.sqlite") as store:
        assert len(list(model_of(endpoint, "flaky", store, concurrency=3).ask(asks(60, first=5000)))) == 60
    assert max(call["open"] for call in endpoint.calls("flaky")[before:]) == 3


def test_a_slow_endpoint_times_out(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        started = time.monotonic()
        answers = list(model_of(endpoint, "slow", store, timeout_s=0.2, max_tries=2).ask(asks(8)))
        assert [answer.error for answer in answers] == ["timeout"] * 8 and "0.2 s" in answers[0].detail
        assert time.monotonic() - started < 10


def test_an_endpoint_that_is_down_is_an_error_and_leaves_no_rows(endpoint, tmp_path):
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        for count in (2, 100):
            config = EndpointConfig(model="m", base_url=url, max_tries=2, first_wait_s=0.01, concurrency=4)
            with Store(tmp_path / "store.sqlite") as store:
                with pytest.raises(EndpointDown, match=r"answered none of the last \d+ calls .*connection.*is kept"):
                    list(EndpointModel(config, store).ask(asks(count)))
                assert store.totals() == []
    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(EndpointDown, match="wrong key"):
            list(model_of(endpoint, "locked", store).ask(asks(100)))
        assert len(endpoint.calls("locked")) < 20, "a wrong key is noticed before every question is asked"


def test_an_endpoint_that_dies_half_way_leaves_only_answers_and_may_move(tmp_path):
    first, second = Endpoint(tmp_path / "first.jsonl"), Endpoint(tmp_path / "second.jsonl")
    try:
        with Store(tmp_path / "store.sqlite") as store:
            came = 0
            with pytest.raises(EndpointDown, match="connection"):
                for _ in model_of(first, "good", store, max_tries=2).ask(asks(60)):
                    came += 1
                    if came == 20:
                        first.stop()
            (totals,) = store.totals()
            assert (totals.calls, totals.errors) == (came, 0) and 20 <= came < 60
            answers = list(model_of(second, "good", store).ask(asks(60)))
            assert len(answers) == 60 and len(second.calls("good")) == 60 - came
    finally:
        first.stop()
        second.stop()


def test_leaving_early_cancels_and_keeps_what_came(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        model = model_of(endpoint, "flaky", store, concurrency=2)
        iterator = model.ask(asks(200, first=2000))
        before = len(endpoint.calls("flaky"))
        first = next(iterator)
        iterator.close()
        assert store.get(first.key) is not None
        time.sleep(0.3)  # what was under way when it was cancelled may still arrive
        asked = len(endpoint.calls("flaky"))
        time.sleep(0.5)
        assert asked - before < 50 and len(endpoint.calls("flaky")) == asked


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "model is None"),
        ({"model": "engine:"}, "model is 'engine:'"),
        ({"model": "m"}, "base_url"),
        ({"model": "m", "base_url": "http://x", "retries": 3}, "retries"),
        ({"model": "m", "base_url": "http://x", "concurrency": "many"}, "concurrency"),
        ({"model": "engine:models/s1-nano", "batch": 3}, "'batch'; known: .*max_waiting, name, "),
        ({"model": "engine:models/s1-nano", "max_num_seqs": "8"}, "max_num_seqs"),
    ],
)
def test_bad_model_sections_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        check_model_config(values)


def test_settings_that_cannot_work_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with Store(tmp_path / "store.sqlite") as store:
        for values, message in (
            ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
            ({"concurrency": 0}, "concurrency"),
            ({"max_tries": 0}, "max_tries"),
        ):
            with pytest.raises(ValueError, match=message):
                open_model({"model": "m", "base_url": "http://x", **values}, store).__enter__()
    with pytest.raises(ValueError, match="no response store"):
        bad = tmp_path / "bad.sqlite"
        bad.write_bytes(b"not a database" * 100)
        Store(bad)


QUESTIONS = 200
CONCURRENCY = 8
CONFIG = """
run: {run}
seed: 1
collect:
  sources:
    - {{adapter: procedural, name: procedural/all, rows: {rows}, families: {{countdown4: 1, chains: 1, residues: 1}}}}
trace: &asked
  model:
    {{model: flaky, base_url: "{url}", concurrency: {concurrency}, max_tries: 4, first_wait_s: 0.01,
      longest_wait_s: 0.05}}
  sampling: {{max_tokens: 100}}
attempt: {{models: [*asked]}}
format: {{tokenizer: models/s1-nano}}
"""


def config_of(folder: Path, endpoint: Endpoint) -> Path:
    config = folder / "config.yaml"
    folder.mkdir(exist_ok=True)
    text = CONFIG.format(run=folder / "run", url=endpoint.url, rows=QUESTIONS, concurrency=CONCURRENCY)
    config.write_text(text)
    return config


def test_kill_at_half_of_the_trace_stage_then_rerun(tmp_path):
    def run(folder: Path, endpoint: Endpoint) -> None:
        config = config_of(folder, endpoint)
        curate(load_config(config), Arguments(config), Console(quiet=True))

    unbroken, killed = Endpoint(tmp_path / "unbroken.jsonl"), Endpoint(tmp_path / "killed.jsonl")
    one, two = tmp_path / "one", tmp_path / "two"
    try:
        run(one, unbroken)  # its attempts are the traces' calls: the store knows them
        questions = {call["prompt"] for call in unbroken.calls("flaky")}
        assert len(questions) > QUESTIONS // 2
        process = subprocess.Popen([sys.executable, "-m", "curate.run", str(config_of(two, killed))])
        while len({call["prompt"] for call in killed.calls("flaky")}) < len(questions) // 2:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # for requests that are still on the wire
        before = killed.calls("flaky")
        asked_before = {call["prompt"] for call in before}
        assert len(asked_before) < len(questions) and not list(two.rglob("traces*.parquet"))
        run(two, killed)
        after = killed.calls("flaky")[len(before) :]
        repeated = {call["prompt"] for call in after} & asked_before
        assert len(repeated) <= CONCURRENCY
        assert {call["prompt"] for call in after} | asked_before == questions
        assert len(before) + len(after) <= len(unbroken.calls("flaky")) + 4 * CONCURRENCY
    finally:
        for endpoint in (unbroken, killed):
            endpoint.stop()
    tables = [sorted(path.relative_to(folder) for path in folder.rglob("*.parquet")) for folder in (one, two)]
    assert tables[0] == tables[1] and len(tables[0]) > 11
    for path in (*tables[0], Path("run/format/train.jsonl")):
        assert (one / path).read_bytes() == (two / path).read_bytes(), path
    (path,) = [path for path in tables[0] if path.stem.startswith("traces") or path.parent.name.startswith("traces")]
    table = pl.read_parquet(one / path)
    assert set(table["error"].drop_nulls()) == {"bad_request", "garbage"}, "both kinds that last"
    assert table.filter(pl.col("error").is_null())["attempt"].str.starts_with("Answer: ").all()
    assert table.filter(pl.col("error").is_not_null())["attempt"].null_count() == table["error"].count()


def test_progress_is_told_of_every_row(endpoint, tmp_path):
    told: list[int] = []
    questions = pl.DataFrame({"qid": ["a", "b"], "question": ["Question 1?", "Question 2?"]})
    with Store(tmp_path / "store.sqlite") as store:
        table = attempt(questions, model_of(endpoint, "good", store), SAMPLING, progress=told.append)
        assert table["qid"].to_list() == ["a", "b"] and sum(told) == 2
        attempt(questions, model_of(endpoint, "good", store), SAMPLING, progress=told.append)
    assert sum(told) == 4, "rows from the store count too"
