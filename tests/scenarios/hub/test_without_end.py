"""The bytes of a Hub file, where the CDN's answers never end: the command ends, and the file comes where it can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.faults import FaultServer, fault_server
from servers.hub import Hub
from trusses import Truss, tree

BODY = bytes(range(256)) * 100
CONFIG = "model_cache:\n  - repo_id: org/name\n    use_volume: true\n    volume_folder: v\n"


@pytest.fixture
def cdn() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture
def weights(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/name").commit({"w.safetensors": BODY})
    truss.config(CONFIG)
    return truss


@pytest.mark.parametrize("fault", ["continue", "huge-head", "trailers", "flood:503", "flood:302 /there", "416"])
def test_an_answer_without_an_end_costs_a_request(weights: Truss, hub: Hub, cdn: FaultServer, fault: str) -> None:
    cdn.add("/there", BODY)
    url = cdn.add("/lfs", BODY, fault)
    hub.fail("w.safetensors", f"302 Location={url}")
    ran = weights.cli()
    assert ran.code == 0, ran
    assert tree(weights.model_cache) == {"v/w.safetensors": BODY}
    assert cdn.asked[0].path == "/lfs"


def test_a_refusal_without_an_end_is_one_error(weights: Truss, hub: Hub, cdn: FaultServer) -> None:
    hub.fail("w.safetensors", f"302 Location={cdn.add('/lfs', BODY, 'flood:403')}", "403")
    ran = weights.cli()
    assert ran.code == 1, ran
    assert ran.err.count("hint: ") == 1
    assert "Traceback" not in ran.text
    assert tree(weights.model_cache) == {}
