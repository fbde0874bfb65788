"""The same stages as Ray Data tasks: two nodes on this machine give the manifests of a run in one process."""

import json
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from rich.console import Console

from curate.config import load_config
from curate.run import Arguments, run
from curate.stages.executor import RayData
from tests.curate.endpoints import Endpoint

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed; nothing here can run without it")
cluster_utils = pytest.importorskip("ray.cluster_utils")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address():
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    assert len(cluster.list_all_nodes()) == 2
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def launched(folder, url, **changes):
    """Manifests, by stage, of a run whose models are the fake endpoint."""
    model = {
        "model": "flaky",
        "base_url": url,
        "concurrency": 8,
        "max_tries": 5,
        "first_wait_s": 0.01,
        "longest_wait_s": 0.05,
    }
    families = {"countdown4": 1, "chains": 1, "residues": 1, "clocks": 1}
    tree = {
        "run": str(folder / "run"),
        "collect": {
            "sources": [
                {
                    "adapter": "procedural",
                    "name": "AIME",
                    "rows": 60,
                    "families": families,
                    "style": "theme",
                    "copies": 3,
                    "damaged": 3,
                },
                {"adapter": "probability", "rows": 20},
            ]
        },
        "trace": {"model": model},
        "attempt": {"models": [{"model": model | {"model": "good"}}], "samples": 2},
        "domain": {"model": model | {"model": "classifier"}},
        "select": {"count": 10},
        "format": {"tokenizer": str(ROOT / "models" / "s1-nano")},
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(tree | changes))
    run(load_config(folder / "config.yaml"), Arguments(Path()), Console(quiet=True))
    return {path.parent.name: json.loads(path.read_text()) for path in (folder / "run").glob("*/manifest.json")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_and_one_process_give_identical_manifests(address, tmp_path):
    endpoint = Endpoint(tmp_path / "log.jsonl")
    try:
        local = launched(tmp_path / "local", endpoint.url)
        on_ray = launched(tmp_path / "ray", endpoint.url, ray={"address": address, "batch_rows": 17})
    finally:
        endpoint.stop()
    assert len(local) == 11 and local["trace"]["counts"]["rows"] > 17
    assert local == on_ray


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_are_done_on_both_nodes_and_come_back_in_order(address):
    def where(rows, advance):
        time.sleep(0.5)  # long enough that one node cannot have done it all
        return rows.with_columns(pl.lit(ray.get_runtime_context().get_node_id()).alias("node"))

    told = []
    table = pl.DataFrame({"qid": [f"q{i:02}" for i in range(40)]})
    made = RayData(address, batch_rows=4).map(where, table.reverse(), ["qid"], told.append)
    assert made.select("qid").equals(table) and sum(told) == 40
    assert made["node"].n_unique() == 2
