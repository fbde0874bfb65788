"""What models are asked for: traces, attempts, grades, domains, difficulty; by the engine in process and by HTTP."""

from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from curate.families import problems
from curate.grading.grade import AnswerKind, Grader, Item
from curate.grading.judge import Judge
from curate.models.asking import Answer, Ask, Sampling
from curate.models.endpoint import EndpointConfig, EndpointModel
from curate.models.local import LocalConfig, LocalModel, engine_config, engine_params
from curate.models.opened import open_model
from curate.models.prompt import Prompt
from curate.models.store import Store
from curate.selection.difficulty import DIFFICULTY_SCHEMA, difficulty, lengths
from curate.selection.domains import DOMAIN_SCHEMA, agreement, classify, code_in, fallback, subjects
from curate.stages.attempts import ATTEMPT_SCHEMA, GRADE_SCHEMA, attempt, grade_attempts
from tests.curate.endpoints import Endpoint

SETTINGS = {"device": "cpu", "dtype": "float32", "max_num_seqs": 16, "max_model_len": 512}
NANO = {"model": "engine:models/s1-nano", **SETTINGS}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    endpoint = Endpoint(tmp_path_factory.mktemp("endpoint") / "calls.jsonl")
    yield endpoint
    endpoint.stop()


@pytest.fixture(scope="module")
def questions():
    drawn = list(islice(problems("heldout", 5), 24))
    return pl.DataFrame(
        {
            "qid": [f"q{i:02}" for i in range(len(drawn))],
            "question": [p.prompt for p in drawn],
            "answer": [p.answer for p in drawn],
            "answer_type": ["family"] * len(drawn),
            "family": [p.family for p in drawn],
        }
    )


def http(endpoint: Endpoint, name: str, store: Store) -> EndpointModel:
    return EndpointModel(EndpointConfig(model=name, base_url=endpoint.url, first_wait_s=0.01), store)


@pytest.fixture(scope="module")
def traces(questions, tmp_path_factory):
    """Traces of the engine in process, and the store they came through."""
    path = tmp_path_factory.mktemp("engine") / "store.sqlite"
    with Store(path) as store, open_model(NANO, store) as model:
        half = attempt(questions.head(12), model, Sampling(max_tokens=128, thinking_token_budget=64))
        table = attempt(questions, model, Sampling(max_tokens=128, thinking_token_budget=64))
    assert half.equals(table.head(12)), "asked in two parts, answered as one"
    return table, path


def test_traces_by_the_engine_in_process(questions, traces):
    table, path = traces
    assert table.schema == pl.Schema(dict(ATTEMPT_SCHEMA)) and table["qid"].equals(questions["qid"])
    assert table["error"].null_count() == 24 and set(table["model"]) == {"s1-nano"}
    assert table["thinking_tokens"].max() <= 64 and table["completion_tokens"].max() <= 128
    assert table["thinking"].str.len_chars().min() > 0
    assert table["sampling"][0] == '{"max_tokens": 128, "thinking_token_budget": 64}'
    with Store(path) as store:
        model = LocalModel(LocalConfig(engine_config("models/s1-nano", SETTINGS)), store)
        assert attempt(questions, model, Sampling(max_tokens=128, thinking_token_budget=64)).equals(table)
        assert not model.started, "everything was in the store"
        assert store.totals()[0].completion_tokens == table["completion_tokens"].sum()


@pytest.mark.slow
def test_two_ranks_answer_as_one(questions, traces, tmp_path):
    with Store(tmp_path / "store.sqlite") as store, open_model({**NANO, "tensor_parallel_size": 2}, store) as model:
        two = attempt(questions.head(4), model, Sampling(max_tokens=128, thinking_token_budget=64))
    assert two.drop("key").equals(traces[0].head(4).drop("key")), "sums in another order: a key of its own"


def test_samples_differ_and_errors_are_rows(questions, tmp_path):
    with Store(tmp_path / "store.sqlite") as store, open_model({**NANO, "name": "nano-hot"}, store) as model:
        two = attempt(questions.head(6), model, Sampling(max_tokens=96, temperature=3.0), samples=2)
        assert two["sample"].to_list() == [0, 1] * 6 and two["key"].n_unique() == 12
        assert two.filter(sample=0)["thinking"].to_list() != two.filter(sample=1)["thinking"].to_list()
        long = pl.DataFrame({"qid": ["long"], "question": ["word " * 2000]})
        (row,) = attempt(long, model, Sampling()).to_dicts()
        assert row["error"] == "bad_request" and row["thinking"] is None and row["error_detail"]
        assert store.totals()[0].model == "nano-hot" and store.totals()[0].errors == 1


def test_every_call_has_a_seed_of_its_own():
    ask = Ask("a", ({"role": "user", "content": "x"},), Sampling(seed=3), "question-1")
    keys = [ask.key("m"), Ask("b", ask.messages, ask.sampling, "question-1").key("m")]
    assert keys[0] == keys[1], "the caller's id is no part of it"
    others = [
        ask.key("n"),
        Ask("a", ask.messages, Sampling(seed=4), "question-1").key("m"),
        Ask("a", ask.messages, ask.sampling, "question-2").key("m"),
        Ask("a", ask.messages, ask.sampling, "question-1", sample=1).key("m"),
        Ask("a", ({"role": "user", "content": "y"},), ask.sampling, "question-1").key("m"),
    ]
    assert len({keys[0], *others}) == 6
    assert len({engine_params(ask.sampling, key).seed for key in (keys[0], *others)}) == 6


def test_family_attempts_are_graded_from_the_question(questions, traces):
    table, _ = traces
    told: list[int] = []
    with Grader() as grader:
        grades = grade_attempts(table, questions, grader, told.append)
    assert grades.schema == pl.Schema(dict(GRADE_SCHEMA)) and grades["key"].equals(table["key"]) and sum(told) == 24
    assert set(grades["verdict"]) <= {"yes", "no"} and (grades["verdict"] == "yes").sum() >= 6
    assert grades.filter(verdict="yes")["grader"].str.ends_with("/family").all()


def attempts_of(rows: list[tuple[str, str | None, str | None]]) -> pl.DataFrame:
    """Attempts (qid, text, error)."""
    base = dict.fromkeys(ATTEMPT_SCHEMA)
    values = [
        base | {"key": f"k{i}", "qid": q, "sample": 0, "model": "m", "attempt": text, "error": error}
        for i, (q, text, error) in enumerate(rows)
    ]
    return pl.DataFrame(values, schema=dict(ATTEMPT_SCHEMA))


def test_grades_by_answer_type():
    questions = pl.DataFrame(
        {
            "qid": ["n", "l", "c", "t", "e", "code", "none"],
            "question": ["?", "?", "(A) one (B) two", "?", "?", "?", "?"],
            "answer": ["1,000", "x^2-1", "B", "Paris", "Ann, Bob", None, None],
            "answer_type": ["number", "latex", "choice", "text", "exact", "code", "none"],
        }
    )
    rows = [
        ("n", "so \\boxed{1000}", None, "yes", "boxed/number"),
        ("n", "1001", None, "no", "whole/number"),
        ("l", "Answer: $(x-1)(x+1)$", None, "yes", "answer_line/expression"),
        ("c", "two", None, "yes", "whole/option_text"),
        ("c", "Answer: A", None, "no", "answer_line/choice"),
        ("t", "paris.", None, "yes", "whole/text"),
        ("t", "London", None, "ungradable", "ungradable"),
        ("code", "print(1)", None, "ungradable", "ungradable"),
        ("none", "1", None, "ungradable", "ungradable"),
        ("n", None, "timeout", "ungradable", "ungradable"),
        ("n", "", None, "no", "no_answer"),
        ("e", "Answer: **ann,  bob**.", None, "yes", "answer_line/exact"),
        ("e", "Answer: Bob, Ann", None, "no", "answer_line/exact"),
        ("e", "Ann, Bob", None, "yes", "whole/string"),
        ("e", "?!", None, "no", "whole/exact"),
        ("e", "I do not know.\nSorry.", None, "no", "no_answer"),
    ]
    attempts = attempts_of([row[:3] for row in rows])
    with Grader() as grader:
        grades = grade_attempts(attempts, questions, grader)
        with pytest.raises(ValueError, match="'elsewhere'"):
            grade_attempts(attempts_of([("elsewhere", "1", None)]), questions, grader)
        with pytest.raises(ValueError, match="'essay'"):
            strange = questions.with_columns(pl.lit("essay").alias("answer_type"))
            grade_attempts(attempts, strange, grader)
    assert grades.select("verdict", "grader").rows() == [row[3:] for row in rows]
    assert grades["reason"][9] == "no attempt: timeout"


def test_a_question_that_any_model_solved_is_dropped():
    verdicts = {
        "both": [("a", "yes"), ("b", "yes")],
        "one": [("a", "no"), ("b", "yes")],
        "none": [("a", "no"), ("b", "no")],
        "unknown": [("a", "ungradable"), ("b", "no")],
        "known": [("a", "ungradable"), ("b", "yes")],
    }
    grades = pl.DataFrame(
        [(qid, model, verdict) for qid, pairs in verdicts.items() for model, verdict in pairs],
        schema=["qid", "model", "verdict"],
        orient="row",
    ).sample(fraction=1, shuffle=True, seed=1)
    questions = pl.DataFrame({"qid": [*verdicts, "never"]})
    table = difficulty(questions, grades)
    assert table.schema == pl.Schema(dict(DIFFICULTY_SCHEMA))
    assert table.rows() == [
        ("both", False, "solved", "a, b"),
        ("one", False, "solved", "b"),
        ("none", True, "hard", "0 of 2 attempts"),
        ("unknown", False, "ungradable", "1 of 2 attempts"),
        ("known", False, "solved", "b"),
        ("never", False, "no_attempt", "no attempt at it"),
    ]
    kept = difficulty(questions, grades, ungradable="keep").filter("keep")["qid"].to_list()
    assert kept == ["none", "unknown"]
    with pytest.raises(ValueError, match="'ignore'"):
        difficulty(questions, grades, ungradable="ignore")


def test_lengths_in_tokens(traces, tmp_path):
    table, _ = traces
    own = lengths(table)
    counted = lengths(table, Path("models/s1-nano"))
    assert own["qid"].equals(table["qid"]) and own["trace_tokens"].to_list() == table["thinking_tokens"].to_list()
    difference = (own["trace_tokens"] - counted["trace_tokens"]).abs()
    assert difference.max() <= 2, "the model's own tokens, but for the newlines at both ends"
    missing = lengths(attempts_of([("a", None, "timeout"), ("b", "x", None)]), Path("models/s1-nano/tokenizer.json"))
    assert missing["trace_tokens"].to_list() == [None, None]
    with pytest.raises(ValueError, match="no tokenizer at"):
        lengths(table, tmp_path)


def test_the_classes_are_those_of_msc2020():
    known = subjects()
    codes = [subject.code for subject in known]
    assert len(known) == 63 and codes == sorted(set(codes))
    assert all(len(code) == 2 and code.isdigit() for code in codes)
    titles = {subject.code: subject.title for subject in known}
    assert (titles["11"], titles["60"]) == ("Number theory", "Probability theory and stochastic processes")


EXAMPLES = {
    "11": "Find the remainder when $7^{100}$ is divided by the prime 13.",
    "51": "A triangle has sides 3, 4 and 5. What is the radius of its circumscribed circle?",
    "60": "A fair coin is tossed ten times. What is the probability of exactly three heads?",
    "15": "Compute the determinant of the matrix and its eigenvalues.",
    "20": "From a course on group theory and permutations: which elements have order 2?",
    "92": "Which enzyme unwinds DNA in the cell?",
}


def test_the_fallback_finds_plain_cases_and_marks_itself():
    table = fallback(pl.DataFrame({"qid": [*EXAMPLES, "odd"], "question": [*EXAMPLES.values(), "??? \\alpha 12"]}))
    assert table.schema == pl.Schema(dict(DOMAIN_SCHEMA)) and set(table["source"]) == {"fallback"}
    assert table["code"].to_list()[:-1] == list(EXAMPLES)
    assert table.row(-1)[1] == "00" and table.row(-1)[4] == 0.0 and "no word" in table.row(-1)[5]
    reverse = fallback(pl.DataFrame({"qid": [*EXAMPLES][::-1], "question": [*EXAMPLES.values()][::-1]}))
    assert reverse.reverse().equals(table.head(-1)), "a label depends on its own question alone"


def test_a_model_classifies_and_the_rubric_is_a_shared_prefix(endpoint, tmp_path):
    texts = [f"What of {i} triangles?" for i in range(40)]
    questions = pl.DataFrame({"qid": [f"q{i}" for i in range(40)], "question": texts})
    with Store(tmp_path / "store.sqlite") as store:
        table = classify(questions, http(endpoint, "classifier", store))
    assert table["qid"].equals(questions["qid"]) and table.schema == pl.Schema(dict(DOMAIN_SCHEMA))
    named, unnamed = table.filter(source="model"), table.filter(source="fallback")
    assert set(named["code"]) == {"11", "51", "60"} and named["score"].null_count() == named.height
    assert unnamed.height > 0, "one reply in four names a class that does not exist"
    assert set(unnamed["code"]) == {"51"} and unnamed["detail"].str.starts_with("the model named no class").all()
    prompts = [call["prompt"] for call in endpoint.calls("classifier")]
    shared = next(i for i, pair in enumerate(zip(prompts[0], prompts[1], strict=False)) if pair[0] != pair[1])
    assert shared > 5000 and all(len(prompt) - shared < 60 for prompt in prompts)
    found = agreement(table, fallback(questions))
    assert (found.rows, found.equal) == (named.height, named.filter(code="51").height) and found.kappa == 0.0


@pytest.mark.parametrize(
    "reply, code",
    [
        ("11", "11"),
        ("because.\n**51**", "51"),
        ("Code: 05.", "05"),
        ("99", None),
        ("11 or 12", None),
        ("", None),
        ("11\nI am sure", None),
    ],
)
def test_where_the_code_stands(reply, code):
    assert code_in(reply, {subject.code: subject.title for subject in subjects()}) == code


def test_agreement_by_hand():
    def labels(codes: str, source: str) -> pl.DataFrame:
        rows = [(str(i), code, "", source, None, "") for i, code in enumerate(codes.split())]
        return pl.DataFrame(rows, schema=dict(DOMAIN_SCHEMA), orient="row")

    found = agreement(labels("11 11 51 51", "model"), labels("11 51 51 51", "fallback"))
    # chance: 2/4 * 1/4 + 2/4 * 3/4 = 1/2; kappa = (3/4 - 1/2) / (1 - 1/2)
    assert (found.rows, found.equal, found.share, found.kappa) == (4, 3, 0.75, 0.5)
    assert found.confused == (("11", "51", 1),)
    nothing = agreement(labels("11", "fallback"), labels("11", "fallback"))
    assert (nothing.rows, nothing.share, nothing.kappa) == (0, None, None)


def test_a_judge_is_blind_and_its_verdicts_are_kept(endpoint, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        judge = Judge(http(endpoint, "judge", store))
        items = [
            Item("Answer: Bell Alexander", "Alexander Bell", AnswerKind.TEXT, "Who?"),
            Item("Answer: Meucci", "Alexander Bell", AnswerKind.TEXT, "Who?"),
            Item("Answer: puzzled", "Alexander Bell", AnswerKind.TEXT, "Who?"),
            Item("Answer: alexander bell", "Alexander Bell", AnswerKind.TEXT, "Who?"),
        ]
        with Grader(judge=judge) as grader:
            grades = grader.grade(items)
        assert [grade.correct for grade in grades] == [True, False, None, True]
        assert [grade.rule for grade in grades] == ["judge:judge", "judge:judge", "ungradable", "answer_line/text"]
        assert "neither Yes nor No" in grades[2].detail and grades[1].detail == "I compared them."
        swapped = Item("Alexander Bell", "Bell Alexander", AnswerKind.TEXT, "Who?")
        assert judge([swapped])[0].correct
        assert len(endpoint.calls("judge")) == 6, "a pair is asked in both orders, once"
    with Store(tmp_path / "other.sqlite") as store, Grader(judge=Judge(http(endpoint, "strict", store))) as grader:
        (grade,) = grader.grade(items[:1])
        assert (grade.correct, grade.rule) == (None, "ungradable") and "bad_request" in grade.detail


def test_a_judge_that_goes_by_the_place_decides_nothing():
    class Biased:
        name, identity, prompts = "biased", "biased", []

        def ask(self, requests):
            for ask in requests:
                (message,) = ask.messages
                self.prompts.append(message["content"])
                first = message["content"].split("First answer:\n\n")[1]
                yield Answer(ask.id, ask.key("biased"), f"Well.\n{'Yes' if first.startswith('gold') else 'No'}")

    model = Biased()
    items = [
        Item("words given", "gold words", AnswerKind.TEXT, "Which?"),
        Item("a b", "c d", AnswerKind.TEXT, "Which?"),
    ]
    first, second = Judge(model)(items)
    assert (first.correct, first.rule) == (None, "judge_undecided") and "swapped" in first.detail
    assert (second.correct, second.rule) == (False, "judge:biased") and len(model.prompts) == 4
    assert not any("reference" in prompt or "right" in prompt.split("You are not told")[0] for prompt in model.prompts)


def test_prompts_take_their_fields_as_they_are(tmp_path):
    prompt = Prompt("p-1", "A {{first}} B {{second}}")
    (message,) = prompt.messages(first="{{second}} \\frac{1}{2}", second="{first}")
    assert message == {"role": "user", "content": "A {{second}} \\frac{1}{2} B {first}"}
    with pytest.raises(ValueError, match="p-1 takes"):
        prompt.messages(first="x")
    with pytest.raises(ValueError, match="there are: domain, question, same_answer"):
        Prompt.load("nope")
    (tmp_path / "bad.txt").write_text("no version\n")
    with pytest.raises(ValueError, match="version: N"):
        Prompt.load("bad", tmp_path)
