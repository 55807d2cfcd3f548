"""The trainer under torchrun: several agents, and agents that start their ranks again.

Two "hosts" are two agents on loopback with a rank each. Restarts need a new store for the ranks
(`TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`); `attempts` shows why.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from benchmarks.train_drill import EXAMPLE, FORKS, contents, difference, last, newest, plant

STEPS, EVERY = 300, 20
WAIT = 120.0  # seconds after which a job that was to go on by itself is called hung


def agents(place: Path | None) -> list[dict[str, Any]]:
    """Each set-up, killed or not, against one agent with two ranks that was left alone."""
    dynamic = ["--rdzv-backend", "c10d", "--rdzv-id", "drill"]
    cases: list[tuple[str, int, list[str], bool]] = [
        ("one, --standalone", 1, ["--standalone"], False),
        ("two, static rendezvous", 2, [], False),
        ("two, c10d rendezvous", 2, dynamic, False),
        ("one, --standalone", 1, ["--standalone"], True),
        ("two, c10d rendezvous", 2, dynamic, True),
    ]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=place) as name:
        plant(data := Path(name) / "rows")
        for count, (title, hosts, arguments, kill) in enumerate(cases):
            out = Path(name) / f"case-{count}"
            went_on, seconds = _run(out, data, hosts, arguments, kill)
            apart = None
            if went_on:
                expected = contents(last(Path(name) / "case-0", STEPS))
                apart = difference(contents(last(out, STEPS)), expected)
            case = {"agents": title, "ranks": 2, "killed": kill, "finished": went_on}
            found.append({**case, "seconds_after_kill": seconds, "difference": apart})
            print(found[-1], flush=True)
    return found


def _run(
    out: Path, data: Path, hosts: int, arguments: list[str], kill: bool
) -> tuple[bool, float | None]:
    """Whether all ended well, and the seconds from the kill to the next checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--local-addr", "127.0.0.1"]
    if "--standalone" not in arguments:
        static = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        dynamic = ["--rdzv-endpoint", f"127.0.0.1:{port}"]
        address += dynamic if "c10d" in arguments else static
    every = ["--max-restarts", "3" if kill else "0", *arguments, *address, str(EXAMPLE)]
    every += [f"--out={out}", f"--data={data}", f"--steps={STEPS}", f"--every={EVERY}"]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(2 // hosts)]
    started = [
        subprocess.Popen(
            [*run, "--nnodes", str(hosts), "--node-rank", str(host), *every],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host in range(hosts)
    ]
    seconds = None
    if kill:
        while newest(out) < 2 * EVERY:
            time.sleep(0.01)
        at = newest(out)
        victim = Path(f"/proc/{started[-1].pid}/task/{started[-1].pid}/children").read_text()
        os.kill(int(victim.split()[-1]), 9)
        killed = time.monotonic()
        while newest(out) <= at + EVERY and time.monotonic() < killed + WAIT:
            time.sleep(0.01)
        seconds = time.monotonic() - killed if newest(out) > at + EVERY else None
        if seconds is None:
            for agent in started:
                agent.terminate()
    codes = [agent.wait() for agent in started]
    return codes == [0] * hosts, seconds


def attempts(_: Path | None) -> dict[str, bool]:
    """Whether two ranks find each other in a store where two that died had met; rank 0 is late."""
    found: dict[str, bool] = {}
    for prefix in ("", "second"):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        assert _meet(store.port, "", "first")
        found["a new store" if prefix else "the same store"] = _meet(store.port, prefix, "second")
    return found


def _meet(port: int, prefix: str, attempt: str) -> bool:
    ranks = [FORKS.Process(target=_join, args=(rank, port, prefix, attempt)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(40.0)
        rank.kill()
        rank.join()
    return [rank.exitcode for rank in ranks] == [0, 0]


def _join(rank: int, port: int, prefix: str, attempt: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    if rank == 1:
        store.set(f"{attempt}: rank 1 begins", "")
    elif attempt == "second":
        store.wait([f"{attempt}: rank 1 begins"])
        time.sleep(2.0)
    store = dist.PrefixStore(prefix, store)
    wait = timedelta(seconds=15)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)
    dist.barrier()
    os._exit(0)
