"""Wrong grids, as people write them: the message alone, one line, names what is wrong, its value and the way out."""

import pytest

from bench import evaluate

OWN = "name: mine, path: q.jsonl"
CASES = [
    # tasks
    ("task", "{name: gsm8kk}", "tasks[0]", "'gsm8kk'", "did you mean 'gsm8k'?", "path: FILE"),
    ("task", "{name: mine}", "tasks[0]", "'mine'", "known: 's1_nano', 'gsm8k'", "path: FILE"),
    ("task", "{name: mine, path: nowhere.csv}", "task mine", "nowhere.csv is no file", "hub:OWNER/NAME/FILE"),
    ("task", "{name: mine, path: q.txt}", "task mine", "unknown kind of file '.txt'", ".csv, .json, .jsonl, .parquet"),
    ("task", f"{{{OWN}, question: text}}", "row 1", "column 'text' is missing", "the row has question, answer"),
    ("task", f"{{{OWN}, kind: nummer}}", "kind is 'nummer'", "did you mean 'number'?", "python:MODULE.FUNCTION"),
    ("task", f"{{{OWN}, kind: choice}}", "row 1", "'1', which is no letter", "options: COLUMN"),
    ("task", f"{{{OWN}, kind: 'python:no_where.check'}}", "python:no_where.check", "PYTHONPATH"),
    ("task", f"{{{OWN}, count: 99}}", "task mine", "count is 99", "there are 1 problems; lower it"),
    (
        "task",
        "{name: mine, path: 'hub:mine'}",
        "task mine",
        "'hub:mine'",
        "is not hub:OWNER/NAME or hub:OWNER/NAME/FILE",
    ),
    ("task", f"{{{OWN}, sha256: abc}}", "task mine", "the grid says abc", "correct the grid"),
    ("task", "{name: s1_nano, families: [chess]}", "family 'chess' is unknown", "known families: countdown3"),
    ("task", "{name: s1_nano, count: two}", "tasks[0].count is 'two'", "expected `int | null`"),
    ("task", "{name: s1_nano, cuont: 2}", "tasks[0].cuont", "did you mean count?"),
    ("task", "{name: gsm8k, question: problem}", "task gsm8k", "question is given", "another name"),
    # methods
    ("method", "{method: budgets, budgets: [8]}", "methods[0].method is 'budgets'", "did you mean 'budget'?", "known:"),
    ("method", "{method: budget}", "methods[0].budgets is missing"),
    ("method", "{method: budget, budgets: 8}", "methods[0].budgets is 8", "expected `list`"),
    ("method", "{method: budget, budgets: [-8]}", "thinking_token_budget is -8", "give a whole number from 0"),
    ("method", "{method: budget, budgets: [8, 8]}", "'budget 8' stands in the grid twice", "leave one out"),
    ("method", "{method: budget, budgets: [40000]}", "budget 40000", "max_tokens 32768", "raise max_tokens"),
    ("method", "{budgets: [8]}", "methods[0].method is missing", "known:", "'budget'"),
    (
        "method",
        "{method: extensions, extensions: [1], budget: 0.5}",
        "methods[0].budget is 0.5",
        "expected `int | null`",
    ),
    ("method", "{method: parallel, samples: 1}", "method parallel", "samples at least 2"),
    ("method", "{method: class_conditional, classes: [medium]}", "methods[0].classes[0] is 'medium'", "'short'"),
    ("method", "{method: rebase, widths: [2], reward: orakel}", "reward is 'orakel'", "oracle", "{model: FOLDER}"),
    ("method", "{method: rebase, widths: [2], reward: {modell: x}}", "methods[0].reward.modell", "did you mean model?"),
    ("method", "{method: beam, counts: [2], reward: oracle, choice: wighted}", "'wighted'", "did you mean 'weighted'?"),
    # model, its engine, and the rest
    ("model", "nowhere/here/there", "'nowhere/here/there' is no directory", "check the path"),
    ("model", "q.jsonl", "'q.jsonl' is a file", "give its directory, or a .gguf file"),
    ("model", "folder", "folder/tokenizer.json is missing", "give a checkpoint directory"),
    ("top", "engine: {dtype: bf16}", "dtype is 'bf16'", "auto, float32, bfloat16, float16"),
    ("top", "engine: {dtpye: float32}", "unknown field 'dtpye'", "dtype"),
    ("top", "engine: {device: gpu}", "device is 'gpu'", "auto, cpu, cuda"),
    ("top", "engine: {quantization: int3}", "quantization is 'int3'", "none, int8, fp8"),
    ("top", "engine: {max_num_seqs: many}", "max_num_seqs is 'many'", "expected `int`"),
    ("top", "engine: {adapter: nowhere}", "nowhere/adapter_config.json", "cannot be read"),
    ("top", "thinking_format: s2", "thinking_format is 's2'", "auto, s1, qwen3"),
    ("top", "prompt: s3", "prompt is 's3'", "'simple_evals'"),
    ("top", "endpoint: {url: localhost, model: m}", "url is 'localhost'", "http://HOST:PORT/v1"),
    ("top", "temprature: 1", "temprature", "did you mean temperature?"),
    ("top", "temperature: hot", "temperature is 'hot'", "expected `float`"),
]


@pytest.mark.parametrize(("kind", "text", "words"), [(kind, text, words) for kind, text, *words in CASES])
def test_the_message_alone_lets_one_mend_it(kind, text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "q.jsonl").write_text('{"question": "q?", "answer": "1"}\n')
    (tmp_path / "q.txt").write_text("x")
    said = {"task": "{name: s1_nano, count: 2}", "method": "{method: budget, budgets: [8]}", "model": "s1-nano"}
    said |= {kind: text}
    grid = f"model: {said['model']}\ntasks: [{said['task']}]\nmethods: [{said['method']}]\n{said.get('top', '')}\n"
    (tmp_path / "g.yaml").write_text(grid)
    assert evaluate.main(["g.yaml", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert all(word in told for word in words), told
    assert not (tmp_path / "run" / "run.json").exists()
