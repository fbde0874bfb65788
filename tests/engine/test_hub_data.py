"""Data sets by hub id, from a server on 127.0.0.1 that speaks the hub's protocol, and from the cache without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.hub_data import local_files
from tests.hub_server import Hub, running_hub, use_hub

ROWS = {name: b'{"question": "' + name.encode() + b'"}\n' for name in ("a", "b", "c")}
SHARDED = {
    "README.md": b"---\n---\n",
    "dataset_infos.json": b"{}",
    "data/train-00000-of-00002.jsonl": ROWS["a"],
    "data/train-00001-of-00002.jsonl": ROWS["b"],
    "data/test-00000-of-00001.jsonl": ROWS["c"],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        yield hub


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_all_data_files_or_those_of_a_split(hub: Hub) -> None:
    hub.add("owner/name", SHARDED)
    train = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    found = local_files("hub:owner/name", "train")
    assert names(found) == train and [path.read_bytes() for path in found] == [ROWS["a"], ROWS["b"]]
    assert not [line for line in hub.asked if "test-00000" in line], "another split was fetched"
    assert names(local_files("hub:owner/name")) == ["test-00000-of-00001.jsonl", *train]
    before = len(hub.asked)
    assert local_files("hub:owner/name", "train") == found
    assert not [line for line in hub.asked[before:] if "resolve" in line], "what the cache has was fetched again"
    assert names(local_files("hub:owner/name/data", "test")) == ["test-00000-of-00001.jsonl"]
    (one,) = local_files("hub:owner/name/data/test-00000-of-00001.jsonl", "train")
    assert one.read_bytes() == ROWS["c"]


def test_names_that_tell_no_split_are_all_there_is(hub: Hub) -> None:
    hub.add("owner/plain", {"constraints.csv": b"question\n1\n", ".gitattributes": b""})
    for split in (None, "train", "test"):
        assert names(local_files("hub:owner/plain", split)) == ["constraints.csv"]


@pytest.mark.parametrize(
    "parts",
    [
        ["train-00000-of-00002-0123456789abcdef.jsonl", "train-00001-of-00002-fedcba9876543210.jsonl"],
        ["train_1.jsonl", "train_2.jsonl", "train_10.jsonl"],
        ["train/de.jsonl", "train/en.jsonl"],
    ],
)
def test_parts_of_one_set_are_read_together(parts: list[str], hub: Hub) -> None:
    hub.add("o/n", {name: name.encode() for name in parts})
    assert sorted(path.read_text() for path in local_files("hub:o/n", "train")) == sorted(parts)


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (SHARDED, "validation", r"hub:o/n has no file of the split 'validation'; name one .*data/test-00000-of-00001"),
        ({"README.md": b""}, None, r"hub:o/n has no \.csv, \.json, \.jsonl, \.parquet file"),
        (
            {"main/train.jsonl": b"", "socratic/train.jsonl": b""},
            "train",
            r"several folders \(main, socratic\); name one",
        ),
        (
            {"train.jsonl": b"", "train_small.jsonl": b"", "test.jsonl": b""},
            "train",
            r"several sets of files of the split 'train' \(train, train_small\); name the files of one, hub:o/n/FILE: ",
        ),
        (
            {f"data/train_{kind}-0000{i}-of-00002.jsonl": b"" for kind in ("gen", "sft") for i in range(2)},
            "train",
            r"several sets of files of the split 'train' \(train_gen, train_sft\)",
        ),
        ({"train.jsonl": b"", "train.parquet": b""}, "train", r"several formats \(\.jsonl, \.parquet\); name one file"),
    ],
)
def test_what_is_no_set_of_files_is_refused(hub: Hub, files: dict[str, bytes], split: str | None, message: str) -> None:
    hub.add("o/n", files)
    with pytest.raises(InputError, match=message):
        local_files("hub:o/n", split)
    assert not [line for line in hub.asked if "resolve" in line], "something was fetched"


@pytest.mark.parametrize("name", ["hub:owner", "hub:", "hub:owner/", "hub:a b/c", "owner/name"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is not hub:OWNER/NAME or hub:OWNER/NAME/FILE"):
        local_files(name)


def test_without_a_hub_the_cache_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once fetched, a data set is there when nobody answers, in the network or because one asked for no network."""
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path)
        hub.add("o/n", SHARDED)
        found = local_files("hub:o/n", "train")
        single = hub.add("o/single", SHARDED)
        assert single and local_files("hub:o/single/data/train-00001-of-00002.jsonl")
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    assert local_files("hub:o/n", "train") == found
    with pytest.raises(InputError, match=r"hub:o/n has no file of the split 'test'") as caught:
        local_files("hub:o/n", "test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_files("hub:o/n", "train") == found
    with pytest.raises(InputError, match=r"hub:o/single: 1 of 2 parts are there"):
        local_files("hub:o/single", "train")
    with pytest.raises(
        InputError, match=r"hub:o/other cannot be fetched .*; check the name, log in .* or give the path"
    ):
        local_files("hub:o/other")
    assert "\n" not in str(caught.value)


def test_a_private_set_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/secret", {"a.jsonl": ROWS["a"]}).private = True
    monkeypatch.delenv("HF_TOKEN")
    for name in ("hub:o/secret", "hub:o/secret/a.jsonl"):
        with pytest.raises(InputError, match=r"cannot be fetched \(401 .*log in with `hf auth login`"):
            local_files(name)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    assert names(local_files("hub:o/secret")) == ["a.jsonl"]
