"""R2 and CoreWeave by the commands, under the names that they have: no endpoint is set anywhere."""

from __future__ import annotations

import json

import pytest
from servers.s3 import R2_ACCOUNT
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import NamedStore, S3Store, multipart
from scenarios.cache.forks import ForkedTruss

FILES = {"a.bin": b"a" * 3_000, "sub/b.bin": b"b" * 2_000, "empty.bin": b""}


def given(store: NamedStore, truss: Truss, who: str | None = "ro") -> dict[str, bytes]:
    """Put the files, and write a config with one entry; return what has to be in the model cache."""
    for path, data in FILES.items():
        store.put(f"m/{path}", data)
    store.give(truss, who)
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n")
    return {store.visible("m", path): data for path, data in FILES.items()}


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran
    return ran


def failed(ran: Ran, *words: str) -> None:
    assert ran.code == 1, ran
    assert "Traceback" not in ran.text
    assert ran.err.count("hint: ") == 1, ran.err
    assert not [word for word in words if word not in ran.err], ran.err


def test_files_are_fetched_checked_kept_and_cleaned(service: NamedStore, truss: ForkedTruss) -> None:
    there = given(service, truss)
    assert service.uri("m").partition("://")[2] in done(truss.cli("plan")).text
    assert tree(truss.model_cache) == {}
    ran = done(truss.cli())
    assert "unverified" not in ran.text
    assert tree(truss.model_cache) == there
    service.by.asked.clear()
    for command in ((), ("why", "--check"), ("verify",)):
        done(truss.cli(*command))
    done(truss.doit("cache_weights"))
    assert service.by.asked == []
    service.put("m/a.bin", b"another" * 500)
    done(truss.cli("-a"))
    assert tree(truss.model_cache) == {**there, service.visible("m", "a.bin"): b"another" * 500}
    done(truss.cli("clean"))
    assert tree(truss.model_cache) == {}


def test_doit_fetches_into_the_folder_of_the_bucket(service: NamedStore, truss: ForkedTruss) -> None:
    there = given(service, truss)
    done(truss.doit("cache_weights"))
    root = {"r2": f"{R2_ACCOUNT}.weights", "cw": "weights"}[service.service]
    assert {path.partition("/")[0] for path in tree(truss.model_cache)} == {root}
    assert tree(truss.model_cache) == there
    hosts = {"r2": f"{R2_ACCOUNT}.r2.cloudflarestorage.com:443", "cw": "weights.cwobject.com:443"}
    assert hosts[service.service] in service.by.asked


def test_weights_take_the_named_secret(service: NamedStore, truss: ForkedTruss) -> None:
    given(service, truss, None)
    service.credential(truss.secrets / "bucket_keys", "ro")
    truss.config(f"""
        weights:
          - source: {service.uri("m")}
            mount_location: /models/m
            auth_secret_name: bucket_keys
    """)
    done(truss.cli())
    assert tree(truss.mounts / "models/m") == FILES
    service.credential(truss.secrets / "bucket_keys", "wrong")
    failed(truss.cli(), "secrets/bucket_keys", service.name("m"))


def test_without_a_credential_r2_is_not_asked_and_coreweave_refuses(service: NamedStore, truss: ForkedTruss) -> None:
    given(service, truss, None)
    service.by.asked.clear()
    keys = service.server.identities["ro"].env()
    if service.service == "r2":
        truss.env |= keys
        failed(truss.cli(), "data/r2_credentials.json", "no anonymous access", "r2_credentials.json in the data")
        assert service.by.asked == []
        return
    failed(truss.cli(), "refuses anonymous access", "cw_credentials.json", "AWS_ACCESS_KEY_ID")
    truss.env |= keys
    done(truss.cli())


def test_a_changed_credential_file_costs_a_listing_and_no_bytes(service: NamedStore, truss: ForkedTruss) -> None:
    there = given(service, truss)
    done(truss.cli())
    service.give(truss, "admin")
    assert "the credential file changed" in truss.cli("why").text
    service.front.asked.clear()
    done(truss.cli())
    assert set(service.front.kinds()) <= {"list", "head", "proof"}
    assert service.front.fetched() == []
    service.give(truss, "wrong")
    failed(truss.cli(), f"data/{service.credential_file}", "secret key does not match")
    assert tree(truss.model_cache) == there


def test_a_lock_pins_the_objects_and_says_what_was_replaced(service: NamedStore, truss: ForkedTruss) -> None:
    there = given(service, truss)
    done(truss.cli("lock"))
    lock = json.loads((truss.folder / "model_cache.lock").read_text())
    assert [entry["source"] for entry in lock["entries"]] == [service.uri("m")]
    done(truss.cli(TRUSS_CACHE_LOCKED="1"))
    assert tree(truss.model_cache) == there
    done(truss.cli("lock", "--check", "--remote"))
    done(truss.cli("clean"))
    service.put("m/a.bin", b"other")
    failed(truss.cli(TRUSS_CACHE_LOCKED="1"), "a.bin", "of model_cache.lock")
    done(truss.cli("lock", "--upgrade"))
    done(truss.cli())
    assert tree(truss.model_cache)[service.visible("m", "a.bin")] == b"other"


@pytest.mark.parametrize("algorithm", ["CRC32", None])
def test_a_file_in_parts_is_compared_with_what_the_store_tells_of_them(
    service: NamedStore, truss: ForkedTruss, algorithm: str | None
) -> None:
    service.give(truss)
    parts = [bytes([number]) * (6 << 20) for number in range(2)]
    multipart(service, "big/w.bin", parts, algorithm)
    truss.config(f"model_cache:\n  - repo_id: {service.uri('big')}\n")
    service.front.asked.clear()
    ran = done(truss.cli())
    assert "unverified" not in ran.text
    assert tree(truss.model_cache) == {service.visible("big", "w.bin"): b"".join(parts)}


def test_stores_with_the_same_source_do_not_share_a_credential_or_an_endpoint(
    service: NamedStore, on_seaweed: S3Store, truss: ForkedTruss
) -> None:
    there = given(service, truss)
    on_seaweed.put("m/a.bin", b"of S3")
    on_seaweed.give(truss)
    service.give(truss)
    truss.env["AWS_ENDPOINT_URL_S3"] = "https://s3.test"
    truss.config(f"model_cache:\n  - repo_id: {service.uri('m')}\n  - repo_id: {on_seaweed.uri('m')}\n")
    done(truss.cli())
    assert tree(truss.model_cache) == {**there, on_seaweed.visible("m", "a.bin"): b"of S3"}
    (truss.folder / "data/s3_credentials.json").unlink()
    on_seaweed.put("m/b.bin", b"new")
    failed(truss.cli("-a"), on_seaweed.name("m"), "s3_credentials.json")


def test_no_key_of_a_service_is_written_or_printed(service: NamedStore, truss: ForkedTruss) -> None:
    given(service, truss)
    texts = [done(truss.cli(TRUSS_CACHE_DEBUG="1")).text]
    service.give(truss, "wrong")
    texts.append(truss.cli(TRUSS_CACHE_DEBUG="1").text)
    records = [path.read_bytes() for path in truss.model_cache.rglob("*") if path.is_file()]
    for secret in (*service.secrets(), "SK-wrong-0123456789", service.server.identities["ro"].access):
        assert not [text for text in texts if secret in text]
        assert not [record for record in records if secret.encode() in record]


def test_a_bad_endpoint_of_r2_is_exit_3_for_every_command(truss: ForkedTruss) -> None:
    truss.config("model_cache: [{repo_id: r2://0a1b.weights/m}]\n")
    for command in ((), ("why",), ("key",)):
        ran = truss.cli(*command, TRUSS_CACHE_R2_ENDPOINT="r2.test")
        assert ran.code == 3, ran
        assert ran.err.startswith("TRUSS_CACHE_R2_ENDPOINT: got 'r2.test', expected https://HOST"), ran
