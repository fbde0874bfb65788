"""Cards: what stands in their heads, what no text breaks, and which ones are refused before anything is uploaded."""

from html import escape
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from engine.errors import InputError
from engine.hub_card import card, card_head, check_card, is_edited, licence_fields, licences_of, write_card
from engine.hub_upload import check_target, push_folder
from tests.hub_server import running_hub, use_hub

GOOD = "---\nlicense: mit\n---\n# A model\n"


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC-SA 4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("unknown", {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("llama3.1", {"license": "llama3.1"}),
        ("see the MAA", {"license": "other", "license_name": "see-the-maa"}),
    ],
)
def test_licences_in_the_hubs_words(licence: str, fields: dict[str, str]) -> None:
    assert licence_fields(licence) == fields


def test_several_licences_stay_several(tmp_path: Path) -> None:
    assert licence_fields("MIT", "Apache-2.0") == {"license": ["mit", "apache-2.0"]}
    assert licence_fields("mit", "house rules") == {"license": ["mit", "other"], "license_name": "house-rules"}
    (tmp_path / "README.md").write_text("---\nlicense: [mit, unknown, apache-2.0]\n---\n")
    assert licences_of(tmp_path / "README.md") == ["mit", "apache-2.0"]
    (tmp_path / "README.md").write_text("---\nlicense: [mit, other]\nlicense_name: house-rules\n---\n")
    assert licences_of(tmp_path / "README.md") == ["mit", "house-rules"]


@pytest.mark.parametrize("text", ["![p](http://evil/x.png)", "[a](b)", "*a* **b**", "\\[a](b)", "<img>", "`a`", "a\\"])
def test_values_of_a_card_are_no_markdown(text: str, tmp_path: Path) -> None:
    template = tmp_path / "a.md.jinja"
    template.write_text("{{ name }}\n")
    rendered = MarkdownIt().renderInline(card(template, {}, name=text).rpartition("---\n\n")[2].strip())
    assert rendered == escape(text.replace("`", "'"), quote=False)


def test_a_card_that_its_owner_edited_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    assert write_card(tmp_path, GOOD) and not is_edited(tmp_path) and readme.read_text().startswith(GOOD)
    check_card(tmp_path, "model")
    assert write_card(tmp_path, GOOD + "More.\n") and "More." in readme.read_text() and not capfd.readouterr().err
    for edited in (readme.read_text().replace("More.", "Mine."), readme.read_text() + "Mine.\n", GOOD + "Mine.\n"):
        readme.write_text(edited)
        assert is_edited(tmp_path) and not write_card(tmp_path, GOOD) and readme.read_text() == edited
        assert f"{readme} was edited and stays as it is; remove it" in capfd.readouterr().err
    readme.unlink()
    assert write_card(tmp_path, GOOD)


def test_no_text_breaks_a_card(tmp_path: Path) -> None:
    template = tmp_path / "a.md.jinja"
    template.write_text("| {{ name }} |\n")
    hostile = 'a | b <img src=x> `x`\n---\nlicense: "mit"\u202e'
    text = card(template, {"license": "mit", "pretty_name": hostile, "datasets": [], "base_model": None}, name=hostile)
    head = ModelCard(text).data.to_dict()
    assert head == {"license": "mit", "pretty_name": hostile}
    body = text.rpartition("---\n\n")[2].strip()
    assert body.count("\n") == 0 and "<" not in body and body.replace("\\|", "").count("|") == 2 and "`" not in body


BAD = {
    "": "does not begin with a head of YAML",
    "# A model\n": "does not begin with a head of YAML",
    "---\n[torn\n---\n": "its head cannot be read",
    "---\n- a\n---\n": "its head cannot be read",
    "---\nlicense: My Licence\n---\n": "license is 'My Licence'; give an id of the hub's list, such as mit, or `other`",
    "---\nlicense: [mit, 3]\n---\n": "license is 3; give an id",
    "---\nbase_model: /home/me/base\n---\n": "base_model is '/home/me/base', which is no hub id; take it out",
    "---\ndatasets: [o/n, a/b/c]\n---\n": "datasets is 'a/b/c', which is no hub id",
}


@pytest.mark.parametrize("text", BAD)
def test_what_the_hub_would_refuse_is_refused_here(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "README.md").write_text(text)
    with pytest.raises(InputError) as caught:
        check_card(folder, "model")
    assert BAD[text] in str(caught.value) and "README.md" in str(caught.value)
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        assert push_folder(folder, "me/model", "model", False, ["python", "-m", "this program"]) == 1
        assert not hub.asked and not hub.repositories
    said = capfd.readouterr().err
    assert BAD[text] in said and said.endswith("it stays: run `python -m 'this program'` again\n")


def test_a_good_card_and_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md is missing; run the command that writes"):
        check_card(tmp_path, "dataset")
    (tmp_path / "README.md").write_text(GOOD)
    check_card(tmp_path, "model")
    check_card(tmp_path, "dataset")
    assert card_head(tmp_path / "README.md") == {"license": "mit"} and licences_of(tmp_path / "README.md") == ["mit"]
    assert card_head(tmp_path / "none.md") == {} and licences_of(tmp_path / "none.md") == []


def test_named_files_go_up_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("README.md", "data/a[1].parquet", "data/a1.parquet", "private.txt", "data/README.md"):
        (tmp_path / name).write_text(GOOD)
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        assert push_folder(tmp_path, "me/data", "dataset", False, [], only=("README.md", "data/a[1].parquet")) == 0
        assert set(hub.repositories["datasets", "me/data"].files) == {"README.md", "data/a[1].parquet"}


@pytest.mark.parametrize(
    "name", ["datasets/x", "models/x", "spaces/x", "x", "a/b/c", "a/", "/b", "a b/c", "a/b.git", ""]
)
def test_wrong_names_are_refused_before_anything_is_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    check_target("my-name/datasets", False)
    with pytest.raises(InputError, match=r"--push-to-hub is '.*'; give OWNER/NAME"):
        check_target(name, False)
