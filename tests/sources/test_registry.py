"""Every row of the registry opens a source."""

from __future__ import annotations

import inspect

import pytest
from entries import entry, open_with, settings

from truss_cache_tasks.model.stores import Store, store_of, stores
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.sources.registry import open_source

URIS = {
    "hf": "org/name",
    "gs": "gs://b/m",
    "s3": "s3://b/m",
    "r2": "r2://0a1b.bucket/m",
    "cw": "cw://bucket/m",
    "azure": "azure://acc/box/m",
    "file": "file://weights",
    "https": "https://host/m.bin",
}


@pytest.mark.parametrize("store", stores(), ids=lambda store: store.scheme)
def test_each_row_opens_a_class_with_the_methods_of_a_source(store: Store) -> None:
    source = open_with(open_source, entry(URIS[store.scheme]), settings())
    assert store.opens.endswith(f":{type(source).__name__}")
    for name in ("listing", "locate", "explain"):
        promised = inspect.signature(getattr(Source, name))
        assert inspect.signature(getattr(type(source), name)).parameters.keys() == promised.parameters.keys()


def test_no_two_rows_have_a_scheme_or_a_kind_in_common() -> None:
    rows = stores()
    assert len({scheme for row in rows for scheme in row.schemes}) == sum(len(row.schemes) for row in rows)
    kinds = [row.kind for row in rows if row.kind]
    assert len(set(kinds)) == len(kinds)


def test_a_scheme_without_a_row_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="no store is registered for none://"):
        store_of("none")
