"""Cards: what stands in their heads, what no text breaks, and which ones are refused before anything is uploaded."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from engine.errors import InputError
from engine.hub_card import card, card_head, check_card, licence_fields, licence_of
from engine.hub_upload import push_folder
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
    assert card_head(tmp_path / "README.md") == {"license": "mit"} and licence_of(tmp_path / "README.md") == "mit"
    assert card_head(tmp_path / "none.md") == {} and licence_of(tmp_path / "none.md") is None
