"""Keys of a bucket and what its server says are printed escaped: no terminal obeys them, and no line is forged."""

from __future__ import annotations

import pytest
from terminal import CLI, DOIT, NAME, SHOWN, printed
from trusses import Truss

from scenarios.buckets.stores import Store


@pytest.mark.parametrize("vendor", ["seaweed", "gcs"], indirect=True)  # Azurite cannot list such a name: it answers 500
def test_an_object_is_fetched_whatever_its_key_and_every_command_prints_it_escaped(vendor: Store, truss: Truss) -> None:
    vendor.put(f"m/{NAME}", b"w" * 20_000)
    vendor.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {vendor.uri('m')}\n")
    printed(truss, *CLI)
    path = truss.model_cache / vendor.visible("m", NAME)
    assert path.read_bytes() == b"w" * 20_000

    path.write_bytes(b"x" * 20_000)
    assert f"{SHOWN}: got xxh3-128" in printed(truss, *CLI, "verify", code=1)
    assert f"{SHOWN}: got xxh3-128" in printed(truss, *DOIT, "cache-verify", code=1)
    path.unlink()
    assert SHOWN in printed(truss, *CLI, "why")
    assert SHOWN in printed(truss, *DOIT, "cache-why")
    assert SHOWN in printed(truss, *DOIT, "info", f"cache_weights:{vendor.name('m')}", code=1)
    with vendor.front.watching():
        vendor.front.flips["bin"] = 9
        assert SHOWN in printed(truss, *CLI, code=1)
        assert SHOWN in printed(truss, *DOIT, "cache_weights", code=1)
    printed(truss, *DOIT, "cache_weights")
    printed(truss, *DOIT, "clean", "cache_weights")
