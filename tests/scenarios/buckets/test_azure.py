"""Azure through the commands: what only Azure has. What all buckets share is in the other files, by their `vendor`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trusses import Truss, tree

from scenarios.buckets.stores import AzureStore

MIB = 1 << 20


def manifest(truss: Truss) -> dict[str, Any]:
    """Return the files of the one manifest, by path."""
    (path,) = (truss.model_cache / ".truss_cache/manifests").glob("*.json")
    return {file["path"]: file for file in json.loads(path.read_bytes())["files"]}


def test_an_entry_is_planned_fetched_explained_locked_verified_and_cleaned(on_azure: AzureStore, truss: Truss) -> None:
    on_azure.put("m/a.bin", b"a" * 3000)
    on_azure.put("m/sub/b.bin", b"b" * 2000)
    on_azure.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n    kind: azure\n")
    with on_azure.front.watching() as front:
        plan = truss.cli("plan")
        assert plan.code == 0, plan
        assert "5.0 kB" in plan.text
        assert set(front.kinds()) == {"list"}
    assert tree(truss.model_cache) == {}
    assert "not fetched yet" in truss.cli("why").out
    ran = truss.doit("cache_weights")
    assert ran.code == 0, ran
    assert "(all verified)" in ran.err
    there = {on_azure.visible("m", "a.bin"): b"a" * 3000, on_azure.visible("m", "sub/b.bin"): b"b" * 2000}
    assert tree(truss.model_cache) == there
    assert truss.cli("path", on_azure.name("m")).out == f"{truss.model_cache}/{on_azure.bucket}/{on_azure.base}/m\n"
    with on_azure.front.watching() as front:
        assert truss.cli("why", "--check").code == 0
        assert truss.cli("lock").code == 0
        assert truss.cli("verify").code == 0
        assert truss.doit("cache_weights").code == 0
        assert front.kinds() == []
    assert truss.cli("why", "--remote").code == 0
    assert truss.doit("clean", "cache_weights").code == 0
    assert tree(truss.model_cache) == {}
    with on_azure.front.watching() as front:
        assert truss.cli(TRUSS_CACHE_LOCKED="1").code == 0
        assert front.kinds() == ["get", "get"]  # the lock is the listing
    assert tree(truss.model_cache) == there


def test_weights_with_a_secret_of_their_own_land_in_their_mount(on_azure: AzureStore, truss: Truss) -> None:
    on_azure.put("m/a.bin", b"a")
    on_azure.put("m/b.json", b"b")
    on_azure.give(truss, None)
    on_azure.credential(truss.secrets / "azure_credentials", "ro", use_emulator=False)  # as Truss's own tests have it
    uri = on_azure.uri("m").replace("azure://", "az://")
    truss.config(
        f"weights:\n  - source: {uri}\n    mount_location: /models/a\n    allow_patterns: ['*.bin']\n"
        "    auth: {auth_method: CUSTOM_SECRET, auth_secret_name: azure_credentials}\n"
    )
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.mounts) == {"models/a/a.bin": b"a"}


def test_a_blob_of_blocks_is_unverified_and_a_wrong_md5_of_its_uploader_shows_nothing(
    on_azure: AzureStore, truss: Truss
) -> None:
    azure, container = on_azure.azure, on_azure.container
    body = bytes(range(256)) * (20 * MIB // 256)  # is fetched in parts
    azure.put_in_blocks(container, f"{on_azure.base}/m/large.bin", body[:MIB], body[MIB:])
    on_azure.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    assert "1 unverified" in ran.err
    assert tree(truss.model_cache) == {on_azure.visible("m", "large.bin"): body}
    azure.put_in_blocks(container, f"{on_azure.base}/m/told.bin", b"other", md5=hashlib.md5(b"told").digest())
    ran = truss.cli("run", "-a")
    assert ran.code == 1, ran
    assert "told.bin: got md5 " in ran.err
    assert tree(truss.model_cache) == {on_azure.visible("m", "large.bin"): body}


def test_a_blob_in_the_archive_tier_fails_its_entry_unless_a_pattern_leaves_it_out(
    on_azure: AzureStore, truss: Truss
) -> None:
    on_azure.put("m/cold.bin", b"cold")
    on_azure.put("m/warm.bin", b"warm")
    on_azure.azure.archive(on_azure.container, f"{on_azure.base}/m/cold.bin")
    on_azure.give(truss)
    entry = f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n"
    truss.config(entry)
    ran = truss.cli()
    assert ran.code == 1, ran
    assert "m/cold.bin: the blob is in the archive tier and cannot be read" in ran.err
    truss.config(f"{entry}    ignore_patterns: [cold.bin]\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {on_azure.visible("m", "warm.bin"): b"warm"}


def test_new_metadata_give_a_new_etag_and_the_locked_bytes_are_found_under_it(
    on_azure: AzureStore, truss: Truss
) -> None:
    on_azure.put("m/a.bin", b"a" * 1000)
    on_azure.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n")
    assert truss.cli("lock").code == 0
    on_azure.azure.put(on_azure.container, f"{on_azure.base}/m/a.bin", b"a" * 1000, metadata="note")
    ran = truss.cli(TRUSS_CACHE_LOCKED="1")
    assert ran.code == 0, ran
    assert tree(truss.model_cache) == {on_azure.visible("m", "a.bin"): b"a" * 1000}


def test_no_library_logs_a_signature_at_any_level(on_azure: AzureStore, truss: Truss) -> None:
    on_azure.put("m/a.bin", b"a" * 1000)
    on_azure.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n")
    said = truss.python(
        """
        import logging
        logging.basicConfig(level=logging.DEBUG)
        from truss_cache_tasks.app.cli import main
        assert main(["plan"]) == 0
        assert main([]) == 0
        assert main(["run", "-a"]) == 0
        """
    )
    assert said.code == 0, said
    assert "urllib3.connectionpool" in said.err
    for secret in on_azure.secrets():
        assert secret not in said.text


def test_azure_asks_for_no_azure_identity_where_there_is_a_key(on_azure: AzureStore, truss: Truss) -> None:
    on_azure.put("m/a.bin", b"a")
    on_azure.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {on_azure.uri('m')}\n")
    said = truss.python(
        """
        import sys
        from truss_cache_tasks.app.cli import main
        assert main([]) == 0
        print(sorted({"azure", "msal", "requests", "botocore", "google", "huggingface_hub"} & set(sys.modules)))
        """
    )
    assert said.out == "[]\n", said
