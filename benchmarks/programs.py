"""Peers that are Python libraries, and the limits, each a process of its own: `python programs.py NAME ARGUMENT...`."""

from __future__ import annotations

import sys
from pathlib import Path


def boto3_files(bucket: str, prefix: str, out: str) -> None:
    """One file after the other, each with boto3's own ten threads."""
    import boto3

    client = boto3.client("s3")
    Path(out).mkdir()
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix + "/")["Contents"]:
        client.download_file(bucket, item["Key"], f"{out}/{Path(item['Key']).name}")


PROGRAMS = {"boto3": boto3_files}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
