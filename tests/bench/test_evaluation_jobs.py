"""Jobs and backends on s1-nano: rejection, private tasks, endpoints, and what happens when something fails."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from evaluation_data import ENGINE, MODEL, SAME, SWEEP, make, rows_of, write_gpqa

from bench.evaluation import accuracy as report
from bench.evaluation import grade, outcomes, run, tables, tasks
from bench.evaluation.endpoint import _sample
from bench.evaluation.engine_backend import EngineBackend
from bench.evaluation.jobs import Setting, jobs
from bench.evaluation.log import Log, key_of, read_rows
from bench.evaluation.samples import Request, Sample, prompt_hash
from engine import Engine, EngineDead, InputError, SamplingParams


def test_rejection_draws_until_one_fits_and_counts_every_draw(tmp_path):
    run.run(make({"method": "rejection", "limits": [40], "tries": 4, "temperature": 1.3}, count=16), tmp_path)
    rows = rows_of(tmp_path).values()
    assert len(rows) == 16
    for row in rows:
        assert 1 <= row["tries"] <= 4 and row["thinking_tokens"] <= 40
        assert row["generated"] >= row["completion_tokens"]
        assert row["tries"] == 4 or row["left_thinking"]
        if row["tries"] == 1:
            assert row["generated"] == row["completion_tokens"]
    assert any(row["left_thinking"] for row in rows) and any(row["tries"] > 1 for row in rows)
    grade.grade(tmp_path)
    found = report.report(outcomes.load(tmp_path), "s1-engine", "answer")
    (condition,) = found["tasks"][0]["conditions"]
    assert condition["control"] == 1.0 and condition["tries"] > 1
    assert condition["never_left_thinking"] == sum(not row["left_thinking"] for row in rows)
    assert "| tries |" in tables.markdown(found)


def test_a_model_that_never_leaves_thinking_is_refused_by_name(tmp_path):
    run.run(make({"method": "none"}, count=4, max_tokens=6), tmp_path)
    assert all(row["stop_reason"] == "truncated" and not row["left_thinking"] for row in read_rows(tmp_path))
    grade.grade(tmp_path)
    with pytest.raises(InputError, match="'no forcing': none of the 4 responses of s1-nano ever left thinking"):
        outcomes.load(tmp_path)


def test_private_tasks_leave_no_text(tmp_path):
    digest = write_gpqa(tmp_path / "g.csv")
    what = make(*SWEEP, tasks=[{"name": "gpqa_diamond", "path": str(tmp_path / "g.csv"), "sha256": digest, "count": 6}])
    folder = tmp_path / "run"
    run.run(what, folder)
    text = (folder / "samples.jsonl").read_text()
    assert "question" not in text.lower() and "wrong" not in text
    for row in read_rows(folder):
        assert row["token_ids"] == [] and row["forced"] == [] and row["reasoning"] == row["answer"] == ""
        assert sorted(row["permutation"]) == [0, 1, 2, 3] and len(row["prompt_hash"]) == 16
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:-7]))
    run.run(what, folder)  # a trace that is not kept is made again
    keys = [key_of(row) for row in read_rows(folder)]
    assert len(keys) == len(set(keys)) == 6 * 13
    grade.grade(folder)
    assert outcomes.load(folder).missing == 0
    with pytest.raises(InputError, match="keeps no text"):
        grade.grade(folder, "s1-grader")


class Server:
    """Chat completions over the real engine on a port of its own.

    With `plain` as servers are that know nothing of this engine's fields: reasoning under its newer name, without a
    count, and /tokenize, which counts.
    """

    def __init__(self, engine: Engine, failures: int = 0, plain: bool = False, tokenize: bool = True) -> None:
        self.failures, self.calls = failures, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.calls += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.calls <= server.failures:
                    self.send_error(503, "busy")
                elif self.path == "/v1/chat/completions":
                    self.reply(completion(engine, body, plain))
                elif self.path == "/tokenize" and tokenize:
                    self.reply({"count": len(engine.tokenizer.encode(body["prompt"]))})
                else:
                    self.send_error(404)

            def reply(self, values) -> None:
                data = json.dumps(values).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def completion(engine: Engine, body, plain: bool):
    messages, _ = body.pop("messages"), body.pop("model")
    output = engine.generate([{"messages": messages}], SamplingParams.from_dict(body))[0]
    one = output.outputs[0]
    message = {"content": one.answer, "reasoning" if plain else "reasoning_content": one.reasoning}
    choice = {"message": message, "finish_reason": one.finish_reason}
    if not plain:
        choice |= {
            "token_ids": one.token_ids,
            "forced": one.forced,
            "thinking": {
                "tokens": one.thinking.tokens,
                "extensions": one.thinking.extensions,
                "stop_reason": one.thinking.stop_reason,
            },
        }
    usage = {"prompt_tokens": output.usage.prompt_tokens, "completion_tokens": output.usage.completion_tokens}
    return {"choices": [choice], "usage": usage}


def test_an_endpoint_gives_the_engines_samples(tmp_path):
    methods = [{"method": "budget", "budgets": [16, 64]}, {"method": "extensions", "extensions": [1], "budget": 256}]
    run.run(make(*methods, count=8), tmp_path / "here")
    with Engine(MODEL, **ENGINE) as engine:
        server = Server(engine, failures=2)
        there = make(*methods, count=8, endpoint={"url": server.url, "model": "nano", "concurrency": 4})
        run.run(there, tmp_path / "there")
        server.http.shutdown()
    here, rows = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert len(rows) == 24
    for key, row in rows.items():
        for name in ("token_ids", "forced", "reasoning", "answer", "thinking_tokens", "stop_reason", "seed"):
            assert row[name] == here[key][name]
    grade.grade(tmp_path / "there")
    assert outcomes.load(tmp_path / "there").model == "nano"


def test_a_plain_server_gives_the_same_answers_and_its_own_token_counts(tmp_path):
    method = {"method": "none"}
    run.run(make(method, count=8, max_tokens=400), tmp_path / "here")
    with Engine(MODEL, **ENGINE) as engine:
        server = Server(engine, plain=True)
        endpoint = {"url": server.url, "model": "nano", "thinking_fields": False}
        run.run(make(method, count=8, max_tokens=400, endpoint=endpoint), tmp_path / "there")
        server.http.shutdown()
        decode = engine.tokenizer.decode
    here, rows = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert len(rows) == 8
    for key, row in rows.items():
        assert (row["reasoning"], row["answer"]) == (here[key]["reasoning"], here[key]["answer"])
        thought = here[key]["token_ids"][: here[key]["thinking_tokens"]]
        cut = len(decode(thought)) - len(decode(thought).strip())  # white space at the ends is not sent
        assert 0 < row["thinking_tokens"] <= here[key]["thinking_tokens"] <= row["thinking_tokens"] + cut


def test_a_server_that_cannot_count_or_speaks_no_json_is_refused(tmp_path):
    with Engine(MODEL, **ENGINE) as engine:
        server = Server(engine, plain=True, tokenize=False)
        endpoint = {"url": server.url, "model": "nano", "thinking_fields": False, "retries": 0}
        with pytest.raises(InputError, match="do not count its tokens, and /tokenize does not either"):
            run.run(make({"method": "none"}, count=2, max_tokens=400, endpoint=endpoint), tmp_path / "a")
        wrong = {**endpoint, "url": server.url.removesuffix("/v1")}
        with pytest.raises(InputError, match="status 404"):
            run.run(make({"method": "none"}, count=2, max_tokens=400, endpoint=wrong), tmp_path / "b")
        server.http.shutdown()


def test_endpoints_that_cannot_are_refused(tmp_path):
    nowhere = {"url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}
    with pytest.raises(InputError, match="is the server there"):
        run.run(make({"method": "budget", "budgets": [8]}, count=2, endpoint=nowhere), tmp_path / "a")
    plain = {**nowhere, "thinking_fields": False}
    with pytest.raises(InputError, match="'budget 8' forces thinking"):
        run.run(make({"method": "budget", "budgets": [8]}, count=2, endpoint=plain), tmp_path / "b")


def test_a_sample_that_fails_is_tried_again_then_flagged(tmp_path):
    """A server whose reply brings an error: the row says so, counts as wrong, and the run goes on."""
    bad = make({"method": "budget", "budgets": [8]}, count=2)

    class Failing:
        slots, asked = 4, 0

        def prompt(self, messages, opener, params):
            return Request((1, 2), params)

        def submit(self, request, done):
            self.asked += 1
            done(Sample((), (), "", "", "error", 0, 0, None, 2, 0, 0, error="the logits are NaN"))

    backend = Failing()
    loaded = [tasks.load(spec) for spec in bad.tasks]
    with Log(tmp_path, run.identity(bad, loaded), {"name": "x"}) as log:
        setting = Setting(log, backend, "s1", None, 0)
        assert sum(run.drive(jobs(setting, loaded, bad.conditions(), []), backend)) == 2
    assert backend.asked == 2 * (1 + run.RETRIES)
    rows = list(read_rows(tmp_path))
    assert all(row["error"] == "the logits are NaN" for row in rows)
    grade.grade(tmp_path)
    verdicts = grade.read_grades(grade.grades_file(tmp_path, "s1-engine", "answer"))
    assert {v.rule for v in verdicts.values()} == {"error"} and not any(v.correct for v in verdicts.values())


def test_a_trace_that_fails_leaves_its_conditions_to_themselves(tmp_path):
    """A fault injected into the engine's answers: nothing may be forked from half a trace."""
    what = make(count=2)
    loaded = [tasks.load(spec) for spec in what.tasks]
    families, alone = run.sharing(what)

    class Faulty(EngineBackend):
        def submit(self, request, done):
            trace = replace(request.params, seed=None) == families[0].params
            broken = {"error": "injected", "thinking_tokens": 3, "stop_reason": None}
            super().submit(request, lambda sample: done(replace(sample, **broken) if trace else sample))

    apart = make(count=2, reuse=False)
    run.run(apart, tmp_path / "apart")
    with (
        Log(tmp_path / "faulty", run.identity(what, loaded), {"name": "x"}) as log,
        Engine(MODEL, **ENGINE) as engine,
    ):
        backend = Faulty(engine)
        work = jobs(Setting(log, backend, "s1", None, 0), loaded, alone, families)
        assert sum(run.drive(work, backend)) == 24
    rows, without = rows_of(tmp_path / "faulty"), rows_of(tmp_path / "apart")
    longest = families[0].params
    for key, row in without.items():
        if row["source"] == rows[key]["source"] and rows[key]["error"] is None:
            assert {name: rows[key][name] for name in SAME} == {name: row[name] for name in SAME}
    failed = {key.condition for key in without if rows[key]["error"]}
    same = {c.label for c in what.conditions() if replace(c.params, thinking_format=None) == longest}
    assert failed == same == {"4x Wait"}  # the one that is the trace itself


def test_a_dead_engine_ends_the_run_and_loses_nothing(tmp_path):
    what = make({"method": "budget", "budgets": [8, 64]}, count=16)
    loaded = [tasks.load(spec) for spec in what.tasks]
    families, alone = run.sharing(what)
    with Log(tmp_path, run.identity(what, loaded), {"name": "x"}) as log:
        engine = Engine(MODEL, **ENGINE)
        backend = EngineBackend(engine)
        steps = run.drive(jobs(Setting(log, backend, "s1", None, 0), loaded, alone, families), backend)
        next(steps)
        engine.close()
        with pytest.raises(EngineDead):
            list(steps)
        assert 0 < len(log) < 48
    run.run(what, tmp_path)
    assert len(rows_of(tmp_path)) == 48


def test_the_seed_of_a_sample_does_not_depend_on_its_condition(tmp_path):
    run.run(make({"method": "parallel", "samples": 3, "budgets": [16, 32]}, count=2), tmp_path)
    rows = rows_of(tmp_path)
    seeds = {}
    for key, row in rows.items():
        seeds.setdefault((key.problem, key.sample), set()).add(row["seed"])
    assert len(seeds) == 6 and all(len(found) == 1 for found in seeds.values())
    assert len({next(iter(found)) for found in seeds.values()}) == 6
    assert all(row["mean_logprob"] < 0 for row in rows.values())


def test_step_conditional_prompts_open_with_the_bare_token(tmp_path):
    """The template's own `<|im_start|>assistant` is no opener; T starts behind the one that is."""
    with Engine(MODEL, **ENGINE) as engine:
        backend = EngineBackend(engine)
        (condition,) = make({"method": "step_conditional", "limits": [16], "forced": True}).conditions()
        request = backend.prompt([{"role": "user", "content": "1+1?"}], condition.opener, condition.params)
        assert engine.tokenizer.decode(request.prompt).endswith("<|im_start|>assistant\n<|im_start|>")
        plan = backend.prepare(request).plan
        assert plan.thinking == 0 and plan.phase.name == "THINK"
        digest = hashlib.sha256(json.dumps(list(request.prompt)).encode()).hexdigest()[:16]
        assert prompt_hash(request) == digest


GOOD = {"choices": [{"message": {"content": "4", "reasoning": "2 + 2"}}], "usage": {"completion_tokens": 9}}


@pytest.mark.parametrize(
    "choice",
    [
        {"thinking": {"stop_reason": "<script>alert(1)</script>"}},
        {"thinking": {"stop_reason": {"__html__": "<b>"}}},
        {"thinking": {"tokens": -1}},
        {"thinking": {"tokens": float("inf")}},
        {"thinking": {"tokens": 10**400}},
        {"thinking": {"extensions": "1"}},
        {"thinking": {"extensions": True}},
        {"token_ids": ["<b>"]},
        {"token_ids": 7},
        {"forced": [1.5]},
        {"finish_reason": ["stop"]},
        {"message": {"content": 4}},
        {"message": {"content": ["4"]}},
        {"message": None},
        {"logprobs": {"content": [{"logprob": float("nan")}]}},
        {"logprobs": {"content": [{"logprob": "0"}]}},
        {"logprobs": [1]},
    ],
)
def test_a_reply_of_other_types_is_none(choice):
    """Kinds of errors that the client takes for a reply that cannot be used; nothing of it reaches the log."""
    assert _sample(GOOD)[0].answer == "4"
    reply = {**GOOD, "choices": [GOOD["choices"][0] | choice]}
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        _sample(reply)
