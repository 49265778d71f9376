"""A slow, lossy link between two network namespaces, by two TUN devices (the kernel may have no sch_netem).

    python benchmarks/wan.py NAME DELAY_MS LOSS_PCT MBIT [SECONDS] &
    ip netns exec NAME-s nginx -c ...            # the server, at 10.78.0.2
    ip netns exec NAME-c doit cache_weights      # the client, at 10.78.0.1

NAME is 1 to 8 letters or digits. DELAY_MS is the round trip, LOSS_PCT is lost each way. Needs root and /dev/net/tun.
Prints "up"; takes itself down after SECONDS (60), on SIGTERM, and when its parent has ended.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001
QUEUE_S = 0.1  # what a full queue holds; it drops the tail


def make_tun(device: str, namespace: str, address: str) -> int:
    """Return the descriptor of a TUN device that is the only way out of a new namespace."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN_NO_PI))
    for command in (
        f"netns add {namespace}",
        f"link set {device} netns {namespace}",
        f"-n {namespace} addr add {address}/24 dev {device}",
        f"-n {namespace} link set {device} mtu 1500 txqueuelen 4000 up",
        f"-n {namespace} link set lo up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def carry(tuns: tuple[int, int], delay_s: float, loss: float, rate: float, until: float) -> None:
    """Carry packets both ways, `rate` in bytes a second, until that time or the parent's end."""
    out = {tuns[0]: tuns[1], tuns[1]: tuns[0]}
    parent = os.getppid()
    queues: dict[int, collections.deque[tuple[float, bytes]]] = {tun: collections.deque() for tun in out}
    free_at = dict.fromkeys(out, 0.0)
    while (now := time.monotonic()) < until and os.getppid() == parent:
        due = min((queue[0][0] for queue in queues.values() if queue), default=now + 0.2)
        ready, _, _ = select.select(tuns, [], [], max(0.0, due - now))
        now = time.monotonic()
        for tun in ready:
            for _ in range(64):
                try:
                    packet = os.read(tun, 2048)
                except BlockingIOError:
                    break
                start = max(now, free_at[tun])
                if random.random() < loss or start - now > QUEUE_S:
                    continue
                free_at[tun] = start + len(packet) / rate
                queues[tun].append((free_at[tun] + delay_s, packet))
        now = time.monotonic()
        for tun, queue in queues.items():
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):  # lost then
                    os.write(out[tun], queue.popleft()[1])


def main(name: str, delay_ms: str, loss_pct: str, mbit: str, seconds: str = "60") -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    client, server = f"{name}-c", f"{name}-s"
    try:
        tuns = make_tun(client, client, "10.78.0.1"), make_tun(server, server, "10.78.0.2")
        print("up", flush=True)
        until = time.monotonic() + float(seconds)
        carry(tuns, float(delay_ms) / 2e3, float(loss_pct) / 100, float(mbit) * 125e3, until)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # the whole group may get one, and the parent sends another
            signal.signal(number, signal.SIG_IGN)
        for namespace in (client, server):
            subprocess.run(["ip", "netns", "del", namespace], check=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
