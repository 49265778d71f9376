"""Digests against vectors that others published, or that boto3 was answered with."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truss_cache_tasks.model.hashing import (
    Hasher,
    SequentialDigests,
    Span,
    combine_crcs,
    is_crc,
    join_digests,
    pieces_of,
    xxh3,
)
from truss_cache_tasks.model.listing import Digest

# "123456789" is the check value that every CRC is published with; git-sha1 is `git hash-object`; xxh3 is xxhsum -H2.
CHECK = b"123456789"
CHECK_DIGESTS = [
    Digest("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    Digest("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    Digest("git-sha1", "e2e107ac61ac259b87c544f6e7a4eb03422c6c21"),
    Digest("md5", "25f9e794323b453885f5181f1b624d0b"),
    Digest("crc32", "cbf43926"),
    Digest("crc32c", "e3069283"),
    Digest("crc64nvme", "ae8b14860a799888"),
]

# What an S3 server (moto) answered boto3 after an upload in two parts; md5 is the ETag `2cee...-2`.
PART = 5 << 20
COMPOSITE = [
    Digest("crc32", "34eb7178", (PART, 7)),
    Digest("crc32c", "e2d22fa4", (PART, 7)),
    Digest("sha1", "84ef45766326adadde426a0c0eb7681cd2fab7c5", (PART, 7)),
    Digest("sha256", "730a7b56c8af15c39bc2b931a657f0c93fa19a91c0ad1539f454b0faf8231998", (PART, 7)),
    Digest("md5", "2cee421f1404f02d0f7498f6947d28fe", (PART, 7)),
]


def hashed(data: bytes, want: Digest | None, step: int = 1 << 20, size: int | None = None) -> Hasher:
    hasher = Hasher(len(data) if size is None else size, want)
    for start in range(0, len(data), step):
        hasher.update(memoryview(data)[start : start + step])
    return hasher


@pytest.mark.parametrize("want", CHECK_DIGESTS, ids=str)
@pytest.mark.parametrize("step", [1, 4, 9])
def test_each_algorithm_gives_its_published_value_however_the_bytes_are_cut(want: Any, step: int) -> None:
    hasher = hashed(CHECK, want, step)
    assert hasher.digest() == want
    assert hasher.matches


@pytest.mark.parametrize("want", CHECK_DIGESTS, ids=str)
def test_one_flipped_bit_does_not_match(want: Any) -> None:
    assert not hashed(b"123456788", want).matches


@pytest.mark.parametrize("want", COMPOSITE, ids=str)
@pytest.mark.parametrize("step", [1 << 20, PART - 1, PART + 7])
def test_a_composite_is_the_digest_of_the_raw_digests_of_its_parts(want: Any, step: int) -> None:
    data = b"0123456789abcdef" * (PART // 16) + b"the end"
    assert hashed(data, want, step).matches
    assert not hashed(data[:-1] + b"!", want, step).matches
    assert not hashed(data, Digest(want.algorithm, want.value, (PART - 1, 8)), step).matches


def test_a_composite_of_one_part_is_not_the_digest_of_the_file() -> None:
    inner = hashlib.sha256(CHECK).digest()
    assert hashed(CHECK, Digest("sha256", hashlib.sha256(inner).hexdigest(), (9,))).matches
    assert not hashed(CHECK, Digest("sha256", inner.hex(), (9,))).matches


def test_bytes_beyond_the_parts_never_match() -> None:
    want = Digest("sha256", hashlib.sha256(hashlib.sha256(CHECK).digest()).hexdigest(), (9,))
    assert not hashed(CHECK + b"0", want, size=9).matches
    assert not hashed(CHECK + b"0", want).matches


def test_xxh3_is_the_128_bit_one_in_canonical_order() -> None:
    assert hashed(b"", None).xxh3() == "99aa06d3014798d86001c324468d497f"  # XXH3_128 of nothing, as xxHash publishes it
    assert hashed(b"123456789", None, step=2).xxh3() == hashed(b"123456789", None).xxh3()


def test_without_a_wanted_digest_the_length_alone_decides() -> None:
    assert hashed(CHECK, None).digest() is None
    assert hashed(CHECK, None).matches
    assert not hashed(CHECK, None, size=10).matches


def test_the_right_digest_of_the_wrong_length_does_not_match() -> None:
    assert not hashed(CHECK, CHECK_DIGESTS[0], size=10).matches


def test_the_empty_file_of_git_is_known() -> None:
    assert hashed(b"", Digest("git-sha1", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")).matches


def test_an_unknown_algorithm_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(ValueError, match="blake3"):
        Hasher(1, Digest("blake3", "00"))


@given(st.binary(max_size=60), st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 7))
def test_a_composite_does_not_depend_on_how_the_bytes_arrive(data: bytes, sizes: Any, step: int) -> None:
    want = Digest("sha256", "", tuple(sizes))
    within = data[: sum(sizes)]
    assert hashed(within, want, step).digest() == hashed(within, want, 1000).digest()


@pytest.mark.slow
def test_importing_it_loads_no_hashing_library() -> None:
    code = "import truss_cache_tasks.model.hashing, sys; sys.exit(any(m in sys.modules for m in ('xxhash', 'awscrt')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def spans(data: bytes, want: Digest | None, cuts: Any, block: int) -> Any:
    """The digests of the parts of `data` between `cuts`, each taken alone."""
    ends = [piece.end for piece in pieces_of(want, len(data))] if want is not None else []
    made = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        span = Span(want, block, start, ends)
        for at in range(start, end, 7):
            span.update(data[at : min(at + 7, end)])
        made.append(span)
    return made


@given(
    st.binary(max_size=400),
    st.sets(st.integers(0, 9)),
    st.sampled_from(["crc32", "crc32c", "crc64nvme", None]),
    st.lists(st.integers(0, 130), max_size=6),
)
def test_parts_hashed_alone_give_the_digests_of_the_whole(data: bytes, blocks: Any, algorithm: Any, sizes: Any) -> None:
    """Whatever the store's own parts are: they end within ours, or beyond them, or where they do."""
    block, want = 32, Digest(algorithm, "", tuple(sizes)) if algorithm else None
    cuts = sorted(number * block for number in blocks if 0 < number * block <= len(data))
    parts, whole = spans(data, want, cuts, block), spans(data, want, [], block)
    assert xxh3(parts) == xxh3(whole)
    if want is not None:
        pieces = pieces_of(want, len(data))
        assert is_crc(want)
        raws = combine_crcs(want, pieces, parts)
        assert raws == combine_crcs(want, pieces, whole)
        assert join_digests(want, raws) == hashed(data, want).digest()
        alone = [hashed(data[start:end], Digest(algorithm, "")).digest() for start, end in pieces]
        assert [raw.hex() for raw in raws] == [digest and digest.value for digest in alone]


@given(st.binary(max_size=60), st.lists(st.integers(0, 20), max_size=6), st.sets(st.integers(0, 6)), st.integers(1, 9))
def test_pieces_that_are_followed_alone_have_their_own_digests(data: bytes, sizes: Any, chosen: Any, step: int) -> None:
    want = Digest("sha256", "", tuple(sizes))
    pieces = [piece for n, piece in enumerate(pieces_of(want, len(data))) if n in chosen]
    follows = SequentialDigests(want, len(data), pieces)
    for at in range(0, len(data), step):
        end = min(at + step, len(data))
        follows.update(memoryview(data)[at:end], at)
        while at < follows.at < end:  # a piece begins within these bytes
            follows.update(memoryview(data)[follows.at : end], follows.at)
    assert follows.raws == {piece: hashlib.sha256(data[slice(*piece)]).digest() for piece in pieces}


@pytest.mark.parametrize("size", [0, 1, 31, 32])
def test_the_xxh3_of_a_file_of_one_block_is_the_plain_one(size: int) -> None:
    import xxhash

    data = bytes(range(size))
    assert xxh3(spans(data, None, [], 32)) == xxhash.xxh3_128_hexdigest(data)


def test_the_xxh3_of_more_blocks_is_that_of_theirs_joined() -> None:
    import xxhash

    data = bytes(100)
    joined = b"".join(xxhash.xxh3_128_digest(data[at : at + 32]) for at in range(0, 100, 32))
    assert xxh3(spans(data, None, [], 32)) == xxhash.xxh3_128_hexdigest(joined)
