"""Wrong training configurations: the one line that is said names setting and value, and what to do about it."""

import json
from pathlib import Path

import pytest

from tests.hub_server import use_hub
from tests.train.support import write_config, write_model, write_tokens
from train.sft import main

WRONG: dict[str, tuple[str, ...]] = {
    # unknown names, with the nearest known one
    "optim.lrr=1": ("unknown setting optim.lrr", "did you mean lr?"),
    "optimizer=x": ("unknown setting optimizer", "did you mean optim?"),
    "data.batchsize=4": ("unknown setting data.batchsize", "did you mean batch_size?"),
    "model.weights=x": ("unknown setting model.weights", "known: init, path, tokenizer"),
    # unknown values, with the nearest and all known ones
    "compute.dtype=bf16": ("compute.dtype is 'bf16'", "did you mean 'bfloat16'?", "'auto'", "'float32'"),
    "compute.checkpointing=ful": ("compute.checkpointing is 'ful'", "did you mean 'full'?", "'selective'", "'none'"),
    "optim.kind=adam": ("optim.kind is 'adam'", "did you mean 'adamw'?", "'adamw8bit'"),
    "lora={targets: [qproj]}": ("lora.targets[0] is 'qproj'", "did you mean 'q_proj'?", "'down_proj'"),
    "data.on_too_long=skip": ("data.on_too_long is 'skip'", "known: ", "'error'", "'drop'"),
    # numbers beyond their bounds, and other types
    "epochs=-1": ("epochs is -1", "expected `int` >= 1"),
    "data.batch_size=0": ("data.batch_size is 0", "expected `int` >= 1"),
    "optim.lr=fast": ("optim.lr is 'fast'", "expected `float`"),
    "optim.lr=.inf": ("optim.lr is inf", "expected `float` <= 1"),
    "optim.betas=[0.9,1.5]": ("optim.betas[1] is 1.5", "expected `float` < 1.0"),
    "lora={rank: 0}": ("lora.rank is 0", "expected `int` >= 1"),
    "seed=-1": ("seed is -1", "expected `int` >= 0"),
    "optim=3": ("optim is 3", "expected `mapping`"),
    "optim.min_lr=0.5": ("optim: min_lr is 0.5 and lr is 0.01", "lower it"),
    # the model
    "model.path=/nowhere": ("model.path: ", "'/nowhere' is no directory", "check the path"),
    "model.path=maker/none": (
        "model.path: ",
        "'maker/none' is no directory and cannot be fetched",
        "give the directory",
    ),
    "model.init=x.json": ("model: path is ", "init is 'x.json'", "give one of them"),
    "model.path=null": ("model: path is None and init is None", "give one of them"),
    "model.tokenizer=/nowhere": ("/nowhere/tokenizer.json is missing", "give a checkpoint directory"),
    "model={init: /nowhere.json}": ("/nowhere.json is missing", "give a checkpoint directory"),
    # the data
    "data.train=[]": ("data.train is []", "expected `list` of length >= 1"),
    "data.train=a.jsonl": ("data.train is 'a.jsonl'", "expected `list`"),
    "data.train=[/no/file.jsonl]": (
        "data.train: data file /no/file.jsonl does not exist",
        "a pattern, or hub:OWNER/NAME",
    ),
    "data.train=[simplescaling/s1K]": ("data.train: data file simplescaling/s1K", "is written hub:simplescaling/s1K"),
    "data.train=['hub:s1K']": ("data.train: 'hub:s1K' is not hub:OWNER/NAME or hub:OWNER/NAME/FILE",),
    "data.train=['hub:o/n']": ("data.train: hub:o/n cannot be fetched", "hf auth login", "give the path of a file"),
    "data.train=[/no/*.jsonl]": ("data.train: the pattern /no/*.jsonl matches no file", "give a file"),
    "data.train=[/proc]": ("data.train: /proc is a folder", "name its files, /proc/*.jsonl"),
    "data.heldout=[/no/held.jsonl]": ("data.heldout: data file /no/held.jsonl does not exist", "hub:OWNER/NAME"),
    "data={train: [x], heldout: [y], heldout_share: 0.1}": (
        "data: heldout is ['y'] and heldout_share is 0.1",
        "give one of them",
    ),
    "data.heldout_share=0.99": ("data.heldout_share is 0.99 and all of 2 samples", "give another share"),
    "data.train=[a": ("override 'data.train=[a': not YAML",),
    # the machine and the command line
    "parallel.context=3": ("parallel.context = 3 does not divide the world of 1 ranks",),
    "compute.gpu_gb=0.0001": ("the plan needs", "use more ranks"),
    "run=''": ("run is ''", "name a folder for it"),
    "run='  '": ("run is '  '", "name a folder for it"),
    "run=/proc/nowhere": ("/proc/nowhere: cannot be written: No such file", "choose another folder"),
    "epochs": ("override 'epochs' must look like section.name=value",),
    "--public": ("--public says who sees an upload", "give --push-to-hub OWNER/NAME too"),
    "--push-to-hub=datasets/x": ("--push-to-hub is 'datasets/x'; give OWNER/NAME",),
    "--push-to=x": ("unrecognized options: --push-to=x", "did you mean --push-to-hub?"),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_setting_is_refused_in_words_that_mend_it(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line, nothing written. Nobody answers where the hub should be."""
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    model, data = write_model(tmp_path / "m"), write_tokens(tmp_path / "d.jsonl", [10, 12])
    assert main([str(write_config(tmp_path / "run.yaml", model, data)), word]) == 2
    said = capfd.readouterr().err
    assert said.startswith("train: ") and said.count("\n") == 1 and not (tmp_path / "run").exists()
    for words in WRONG[word]:
        assert words in said, (words, said)


def test_text_without_a_tokenizer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m")
    (model / "tokenizer.json").unlink()
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "Hello"}) + "\n")
    assert main([str(write_config(tmp_path / "run.yaml", model, tmp_path / "d.jsonl"))]) == 2
    said = capfd.readouterr().err
    assert "d.jsonl:1: text records need a tokenizer" in said and "set model.tokenizer" in said
