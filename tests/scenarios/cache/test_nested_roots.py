"""A mount of one project in the model cache, or a mount, of another: no clean and no edit takes what others claim."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from servers.hub import Hub
from trusses import Truss, tree

from scenarios.cache.disk import clean_tells, leftovers
from scenarios.cache.upstreams import OnHub, Upstream, beside, run, upstream_of

FILES = {"a.bin": b"a" * 20_000, "b.bin": b"b" * 300, "sub/c.bin": b"c" * 12_000}
INNER = {"a.bin", "sub/c.bin"}  # the inner one selects these


class Nested:
    """Two projects: `outer` shows, in its model cache or a mount, files where `inner` has a mount of its own."""

    def __init__(self, upstream: Upstream, truss: Truss, outer: str) -> None:
        self.upstream, self.outer, self.inner = upstream, truss, beside(truss, "inner")
        self.root = truss.model_cache if outer == "volume" else truss.mounts
        self.kind, self.folder = outer, self.root / "deep" / "m"
        self.inner.env["TRUSS_MOUNT_ROOT"] = str(self.root / "deep")

    def link(self) -> None:
        """Let the inner one come to its mount by a link to the folder of the outer one."""
        (self.root / "deep").mkdir(parents=True)
        way = self.outer.root / "way"
        way.symlink_to(self.root / "deep")
        self.inner.env["TRUSS_MOUNT_ROOT"] = str(way)

    def config_outer(self, **fields: object) -> None:
        if self.kind == "volume":
            self.outer.config("model_cache:\n" + self.upstream.entry("main", "volume", "deep/m", **fields))
        else:  # the mount /deep holds the files of the inner one at /deep/m
            self.outer.config("weights:\n" + self.upstream.entry("main", "mount", "deep", **fields))

    def config_inner(self) -> None:
        uri, revision = self.upstream.uri("main" if self.kind == "volume" else "inner")
        source = f"{uri}@{revision}" if revision else uri
        patterns = '["a.bin", "sub/**"]'
        self.inner.config(f"weights:\n  - source: {source}\n    mount_location: /m\n    allow_patterns: {patterns}\n")

    def fetch(self, order: str) -> None:
        if self.kind == "mount":
            self.upstream.put("inner", FILES)
            self.upstream.put("main", {f"m/{path}": data for path, data in FILES.items()})
        else:
            self.upstream.put("main", FILES)
        self.config_outer()
        self.config_inner()
        for project in (self.outer, self.inner) if order == "outer first" else (self.inner, self.outer):
            run(project)
        for project in (self.outer, self.inner):
            assert_whole(project)

    def shown(self) -> dict[str, bytes]:
        return tree(self.folder)


@pytest.fixture
def nested(request: pytest.FixtureRequest, truss: Truss) -> Nested:
    """`request.param`: the store, and the layout of the outer one."""
    store, outer = request.param.split()
    upstream = upstream_of(request, store)
    upstream.give(truss)
    return Nested(upstream, truss, outer)


def assert_whole(project: Truss) -> None:
    for command in (["why", "--check"], ["verify"]):
        ran = project.cli(*command)
        assert ran.code == 0, ran.text


def pick(paths: set[str]) -> dict[str, bytes]:
    return {path: FILES[path] for path in paths}


def whole(project: Truss) -> None:
    clean_tells(project)


def by_name(project: Truss) -> None:
    (name,) = [line.partition(":")[0] for line in project.cli("why").out.splitlines() if line[0] != " "]
    clean_tells(project, name)


def by_doit(project: Truss) -> None:
    assert project.doit("clean", "cache_weights").code == 0


@pytest.mark.parametrize(
    ("nested", "order", "clean"),
    [
        ("hub volume", "outer first", whole),
        ("hub mount", "inner first", by_doit),
        ("gcs volume", "inner first", by_name),
        ("gcs mount", "outer first", whole),
    ],
    indirect=["nested"],
)
def test_the_outer_ones_clean_keeps_what_the_inner_one_claims(
    clean: Callable[[Truss], None], order: str, nested: Nested
) -> None:
    nested.fetch(order)
    clean(nested.outer)
    assert nested.shown() == pick(INNER)
    assert_whole(nested.inner)
    clean(nested.inner)
    whole(nested.outer)
    assert leftovers(nested.outer, folders=False) == []


@pytest.mark.parametrize(
    ("nested", "order", "clean"),
    [
        ("hub volume", "inner first", whole),
        ("hub mount", "outer first", by_name),
        ("gcs volume", "outer first", by_doit),
        ("gcs mount", "inner first", whole),
    ],
    indirect=["nested"],
)
def test_the_inner_ones_clean_keeps_what_the_outer_one_claims(
    clean: Callable[[Truss], None], order: str, nested: Nested
) -> None:
    nested.fetch(order)
    clean(nested.inner)
    assert nested.shown() == FILES
    assert_whole(nested.outer)
    clean(nested.outer)
    whole(nested.inner)
    assert leftovers(nested.outer, folders=False) == []


@pytest.mark.parametrize("nested", ["hub volume", "gcs mount"], indirect=True)
def test_a_link_on_the_way_to_the_inner_root_changes_nothing_of_this(nested: Nested) -> None:
    nested.link()
    nested.fetch("outer first")
    whole(nested.outer)
    assert nested.shown() == pick(INNER)
    assert_whole(nested.inner)
    run(nested.outer)
    whole(nested.inner)
    assert nested.shown() == FILES
    assert_whole(nested.outer)


@pytest.mark.parametrize("nested", ["hub volume", "gcs mount"], indirect=True)
def test_an_edit_of_the_outer_one_hides_nothing_that_the_inner_one_claims(nested: Nested) -> None:
    nested.fetch("outer first")
    nested.config_outer(ignore_patterns='["*a.bin", "m/a.bin"]')
    run(nested.outer)
    assert nested.shown() == FILES
    assert_whole(nested.outer)
    assert_whole(nested.inner)


@pytest.mark.parametrize("nested", ["hub volume", "gcs mount"], indirect=True)
def test_an_edit_of_the_inner_one_hides_nothing_that_the_outer_one_claims(nested: Nested) -> None:
    nested.fetch("inner first")
    nested.inner.config((nested.inner.folder / "config.yaml").read_text().replace('"a.bin", ', ""))
    run(nested.inner)
    assert nested.shown() == FILES
    assert_whole(nested.outer)
    assert_whole(nested.inner)


def test_a_file_that_only_the_inner_one_has_outlives_the_outer_ones_clean(hub: Hub, truss: Truss) -> None:
    one, other = OnHub(hub), OnHub(hub, "org/other")
    one.put("main", FILES)
    other.put("main", {"d.bin": b"d" * 500})
    truss.config("model_cache:\n" + one.entry("main", "volume", "deep/m"))
    inner = beside(truss, "inner")
    inner.env["TRUSS_MOUNT_ROOT"] = str(truss.model_cache / "deep")
    inner.config("weights:\n" + other.entry("main", "mount", "m/more"))
    run(truss)
    run(inner)
    clean_tells(truss)
    assert tree(truss.model_cache) == {"deep/m/more/d.bin": b"d" * 500}
    assert_whole(inner)
    clean_tells(inner)
    assert leftovers(truss, folders=False) == []
