"""GCP_OIDC in `weights` entries: a token of the machine is exchanged, or another credential of it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from servers.gcs import LIST_ONLY, READER
from servers.google_sts import FEDERATED, MACHINE_TOKEN, PROVIDER, GoogleSts, google_sts
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import GcsStore


@pytest.fixture
def sts() -> Iterator[GoogleSts]:
    with google_sts() as sts:
        yield sts


def entry(truss: Truss, store: GcsStore, *, account: str = READER, provider: str = PROVIDER) -> dict[str, bytes]:
    """Put a file, let the config have it as an entry with GCP_OIDC, and return what a fetch shows below the mounts."""
    store.put("m/a.bin", b"a" * 300)
    store.give(truss, None)
    auth = f"{{auth_method: gcp_oidc, gcp_oidc_service_account: {account}, gcp_oidc_workload_id_provider: {provider}}}"
    truss.config(f"weights:\n  - source: {store.uri('m')}\n    mount_location: /models/m\n    auth: {auth}\n")
    return {"models/m/a.bin": b"a" * 300}


def give(truss: Truss, sts: GoogleSts, **more: Any) -> None:
    truss.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(sts.credential_file(truss.root, **more))


def failed(ran: Ran, *words: str) -> None:
    """One cause and one remedy, no traceback, and no token."""
    assert ran.code == 1, ran
    assert "Traceback" not in ran.text
    assert ran.err.count("hint: ") == 1, ran.err
    assert MACHINE_TOKEN not in ran.text
    for word in words:
        assert word in ran.err, (word, ran.err)


@pytest.mark.parametrize("own", [READER, "another@test.iam.gserviceaccount.com"])
@pytest.mark.parametrize("prefix", ["", "//iam.googleapis.com/", "https://iam.googleapis.com/"])
def test_the_machines_token_is_exchanged_and_the_account_of_the_entry_impersonated(
    on_gcs: GcsStore, truss: Truss, sts: GoogleSts, own: str, prefix: str
) -> None:
    there = entry(truss, on_gcs, provider=prefix + PROVIDER)
    give(truss, sts, account=own)
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert (sts.exchanged, sts.impersonated) == ([f"//iam.googleapis.com/{PROVIDER}"], [READER])
    assert truss.cli("why", "--check").code == 0
    assert len(sts.exchanged) == 1


def test_a_file_for_another_provider_is_used_as_it_is(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    there = entry(truss, on_gcs, account="deployment@test.iam.gserviceaccount.com", provider=f"{PROVIDER}-of-truss")
    give(truss, sts, account=READER)
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there
    assert sts.impersonated == [READER]


def test_a_file_without_a_service_account_reads_with_the_exchanged_token(
    on_gcs: GcsStore, truss: Truss, sts: GoogleSts
) -> None:
    entry(truss, on_gcs)
    give(truss, sts)
    failed(truss.cli(), "storage.objects.get", PROVIDER)  # the token of the exchange may only list
    assert sts.impersonated == []


def test_a_federated_login_reads_entries_without_auth_too(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    on_gcs.put("m/a.bin", b"a")
    on_gcs.give(truss, None)
    truss.config(f"model_cache:\n  - repo_id: {on_gcs.uri('m')}\n")
    give(truss, sts, account=READER)
    ran = truss.cli()
    assert ran.code == 0, ran
    assert len(sts.exchanged) == 1  # and the name of the project is not asked for


@pytest.mark.parametrize("where", ["variable", "data"])
def test_another_credential_of_the_machine_reads_for_gcp_oidc(on_gcs: GcsStore, truss: Truss, where: str) -> None:
    there = entry(truss, on_gcs)
    path = truss.root / "key.json" if where == "variable" else truss.folder / "data" / "service_account.json"
    on_gcs.credential(path, "ro")
    ran = truss.cli(**({"GOOGLE_APPLICATION_CREDENTIALS": str(path)} if where == "variable" else {}))
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there


def test_a_machine_that_has_nothing_fails_and_is_told_what_to_set(on_gcs: GcsStore, truss: Truss) -> None:
    on_gcs.gcs.public.add(on_gcs.bucket)  # an anonymous request would get it
    entry(truss, on_gcs)
    with on_gcs.front.watching() as front:
        ran = truss.cli()
    failed(
        ran,
        "found no credential of Google",
        f"GOOGLE_APPLICATION_CREDENTIALS to a credential file for {PROVIDER}",
        READER,
    )
    assert front.asked == []
    assert tree(truss.mounts) == {}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "invalid_grant", "error_description": MACHINE_TOKEN}, "(invalid_grant)"),
        ({"error": "invalid_target"}, "(invalid_target)"),
        ({"error": {"message": MACHINE_TOKEN}}, "(no code)"),
        ({"what": MACHINE_TOKEN}, "(no code)"),
    ],
)
def test_a_refused_exchange_names_the_provider_and_not_the_token(
    on_gcs: GcsStore, truss: Truss, sts: GoogleSts, answer: Any, words: str
) -> None:
    entry(truss, on_gcs)
    give(truss, sts, account=READER)
    sts.faults.append((400, answer))
    failed(truss.cli(TRUSS_CACHE_DEBUG="1"), "the token service refuses the token", words, PROVIDER)


def test_an_account_that_may_not_be_impersonated_is_named(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    entry(truss, on_gcs, account="nobody@test.iam.gserviceaccount.com")
    give(truss, sts, account=READER)
    failed(truss.cli(), "nobody@test.iam.gserviceaccount.com", "roles/iam.workloadIdentityUser")


def test_an_account_without_rights_is_told_which_is_missing(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    entry(truss, on_gcs, account=LIST_ONLY)
    give(truss, sts, account=READER)
    failed(truss.cli(), LIST_ONLY, "storage.objects.get")


def test_a_busy_token_service_is_asked_again(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    there = entry(truss, on_gcs)
    give(truss, sts, account=READER)
    sts.faults.extend([(503, {}), (429, {})])
    ran = truss.cli()
    assert ran.code == 0, ran
    assert tree(truss.mounts) == there


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"credential_source": {"file": "/nowhere/token"}}, "the token file /nowhere/token cannot be read"),
        ({"credential_source": {}}, "cannot be used as a credential"),
        ({"credential_source": "sekrit"}, "cannot be used as a credential"),
        ({"credential_source": None}, "cannot be used as a credential"),
        ({"audience": 5}, ""),
        ({"token_url": ["sekrit"]}, ""),
        ({"service_account_impersonation_url": 5}, ""),
    ],
)
def test_a_malformed_file_fails_the_entry_by_name(
    on_gcs: GcsStore, truss: Truss, sts: GoogleSts, fields: dict[str, Any], words: str
) -> None:
    entry(truss, on_gcs)
    give(truss, sts, **{"account": READER, **fields})
    ran = truss.cli()
    failed(ran, words)
    assert "sekrit" not in ran.text


def test_a_variable_that_names_no_file_fails_the_entry(on_gcs: GcsStore, truss: Truss) -> None:
    entry(truss, on_gcs)
    failed(truss.cli(GOOGLE_APPLICATION_CREDENTIALS="/nowhere.json"), "/nowhere.json cannot be used as a credential")


def test_no_token_is_in_any_output_or_record(on_gcs: GcsStore, truss: Truss, sts: GoogleSts) -> None:
    entry(truss, on_gcs)
    give(truss, sts, account=READER)
    env = {"TRUSS_CACHE_DEBUG": "1", "TRUSS_CACHE_EVENTS": str(truss.root / "events.jsonl")}
    said = [truss.doit("cache_weights", **env).text, truss.cli("run", "-a", **env).text, truss.cli("why").text]
    written = [path.read_bytes() for path in truss.root.rglob("*") if path.is_file() and path.name != "machine-token"]
    for secret in (MACHINE_TOKEN, f"Bearer {FEDERATED}", "Bearer good"):
        assert secret not in "".join(said)
        assert secret.encode() not in b"".join(written)
    assert b"a" * 300 in b"".join(written)
    assert json.loads((truss.root / "events.jsonl").read_text().splitlines()[0])
