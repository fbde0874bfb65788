"""The configurations in docs/curation.md are read by what reads configurations."""

import re
from pathlib import Path

import pytest
import yaml

from curate.config import load_config
from curate.models.local import LocalConfig
from curate.models.opened import check_model_config

DOC = (Path(__file__).resolve().parents[2] / "docs" / "curation.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)
ASKED = {"model": {"model": "m", "base_url": "http://127.0.0.1:1/v1"}}
REST = {"run": "runs/x", "collect": {"sources": [{"adapter": "probability"}]}, "trace": ASKED}


def config_of(block, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(REST | yaml.safe_load(block)))
    return load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_shown_is_one(block, tmp_path):
    """And its sections are in what was read of it."""
    config = config_of(block, tmp_path)
    assert all(getattr(config, section) is not None for section in yaml.safe_load(block))


def test_every_use_of_another_model_is_shown_by_endpoint_and_in_process(tmp_path):
    shown = set()
    for block in BLOCKS:
        given, config = yaml.safe_load(block), config_of(block, tmp_path)
        asked = {"trace": config.trace, "attempt": config.attempt and config.attempt.models[0]}
        asked |= {"grade": config.grade.judge, "domain": config.domain}
        for use in asked.keys() & given.keys():
            assert len(block.splitlines()) <= 3 or "collect" in given
            shown.add((use, isinstance(check_model_config(asked[use].model), LocalConfig)))
    assert shown == {(use, local) for use in ("trace", "attempt", "grade", "domain") for local in (True, False)}
