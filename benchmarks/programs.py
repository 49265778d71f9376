"""Peers that are Python libraries, and the limits, each a process of its own: `python programs.py NAME ARGUMENT...`."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

READ = 256 << 10


def boto3_files(bucket: str, prefix: str, out: str) -> None:
    """One file after the other, each with boto3's own ten threads."""
    import boto3

    client = boto3.client("s3")
    Path(out).mkdir()
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix + "/")["Contents"]:
        client.download_file(bucket, item["Key"], f"{out}/{Path(item['Key']).name}")


def transfer_manager(bucket: str, prefix: str, out: str, kind: str, *numbers: str) -> None:
    """One file after the other, each in chunks side by side; it compares their crc32c."""
    from google.cloud import storage
    from google.cloud.storage import transfer_manager as manager

    workers, chunk_mib = map(int, numbers)
    Path(out).mkdir()
    for blob in storage.Client().list_blobs(bucket, prefix=prefix + "/"):
        manager.download_chunks_concurrently(
            blob,
            f"{out}/{Path(blob.name).name}",
            chunk_size=chunk_mib << 20,
            worker_type=kind,
            max_workers=workers,
        )


def azure_upload(folder: str, container: str, prefix: str) -> None:
    """Store the files of a folder in blocks, as large ones are: so they have no md5."""
    from azure.storage.blob import ContainerClient

    with _azure_container(ContainerClient, container, max_single_put_size=1 << 20, max_block_size=16 << 20) as client:
        client.create_container()
        for path in sorted(Path(folder).iterdir()):
            with path.open("rb") as file:
                client.upload_blob(f"{prefix}/{path.name}", file)


def azure_download(container: str, prefix: str, out: str, connections: str, chunk_mib: str) -> None:
    """One file after the other, each in chunks side by side; nothing is verified."""
    from azure.storage.blob import ContainerClient

    chunk = int(chunk_mib) << 20
    Path(out).mkdir()
    with _azure_container(ContainerClient, container, max_single_get_size=chunk, max_chunk_get_size=chunk) as client:
        for name in client.list_blob_names(name_starts_with=prefix + "/"):
            with open(f"{out}/{Path(name).name}", "wb") as file:
                client.download_blob(name, max_concurrency=int(connections)).readinto(file)


def _azure_container(client: Any, container: str, **sizes: int) -> Any:
    return client.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], container, **sizes)


def truss_transfer(out: str) -> None:
    """What /static-bptr/static-bptr-manifest.json names."""
    import truss_transfer as library

    library.lazy_data_resolve(out)


def sha256_of_file(path: str) -> None:
    """What any check of one file costs, from the page cache."""
    with open(path, "rb") as file:
        print(hashlib.file_digest(file, "sha256").hexdigest())


def sha256_in_memory(size: str) -> None:
    """What hashing alone costs: the same block again and again."""
    hasher, block = hashlib.sha256(), bytes(READ)
    for _ in range(int(size) // READ):
        hasher.update(block)
    hasher.digest()


def raw(streams: str, size: str, *urls: str) -> None:
    """Read files of `size` bytes over bare sockets, a range each, and keep nothing; the URLs share the streams."""
    each = int(streams) // len(urls)
    step = -(-int(size) // each)
    failed: list[str] = []
    threads = [
        threading.Thread(target=_read, args=(url, start, min(start + step, int(size)), failed))
        for url in urls
        for start in range(0, int(size), step)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(failed[0])


def _read(url: str, start: int, end: int, failed: list[str]) -> None:
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    buffer = memoryview(bytearray(READ))
    with socket.create_connection((host, int(port))) as connection:
        lines = [f"GET /{path} HTTP/1.1", f"Host: {address}", f"Range: bytes={start}-{end - 1}", "Connection: close"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        got = connection.recv_into(buffer)
        head, _, body = bytes(buffer[:got]).partition(b"\r\n\r\n")
        left = end - start - len(body)
        while got and left:
            got = connection.recv_into(buffer)
            left -= got
    if left or b" 206 " not in head[:20]:
        failed.append(f"{left} bytes missing: {head!r}")


PROGRAMS: dict[str, Callable[..., None]] = {
    "boto3": boto3_files,
    "transfer_manager": transfer_manager,
    "azure-upload": azure_upload,
    "azure-download": azure_download,
    "truss_transfer": truss_transfer,
    "sha256-of-file": sha256_of_file,
    "sha256-in-memory": sha256_in_memory,
    "raw": raw,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
