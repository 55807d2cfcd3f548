"""Processes in one gloo group that live as long as the test session.

Starting a process that imports TorchRec costs seconds, a task sent to one that runs costs a
hundredth of one. A task is a module-level function and its arguments; it is called on every rank
and may use the default process group:

    def _rank_and_sum(value):
        total = torch.tensor(value)
        dist.all_reduce(total)
        return dist.get_rank(), int(total)

    def test_sum(ranks):
        assert ranks.run(_rank_and_sum, 3) == [(0, 6), (1, 6)]
"""

import faulthandler
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

GRACE = 2.0  # seconds the other ranks get once one has failed: they may wait for it for ever


class RankError(RuntimeError):
    """A task failed on a rank; the message holds the rank's traceback."""


class Ranks:
    """``world_size`` processes that run tasks together.

    They start with the first task. After a failure all are killed, since the survivors may hang in
    a collective, and the next task starts new ones.
    """

    def __init__(self, world_size: int, timeout: float = 180.0) -> None:
        self.world_size = world_size
        self.timeout = timeout
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, task: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``task(*args)`` on every rank and return the results, rank 0 first."""
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send_bytes(pickle.dumps((task, args, self.timeout)))
        return self._answers(task.__qualname__)

    def close(self) -> None:
        """End the processes."""
        for _, connection in self._workers:
            connection.send_bytes(pickle.dumps(None))
        self._kill(after=GRACE)

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # the parent owns the store: it takes a free port itself, so there is no race for one
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(rank, self.world_size, self._store.port, theirs, self._stack(rank)),
                daemon=True,
            )
            process.start()
            theirs.close()  # so that a dead rank is an end of file here
            self._workers.append((process, ours))
        self._answers("start")

    def _stack(self, rank: int) -> Path:
        return Path(self._folder.name) / f"{rank}.txt"

    def _answers(self, name: str) -> list[Any]:
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        # a rank that hangs dumps its stack and exits by itself; the rest is for one that cannot
        deadline = time.monotonic() + self.timeout + 30.0
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._workers)}
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                rank = waiting.pop(connection)
                try:
                    ok, value = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    ok, value = False, self._death(rank)
                (results if ok else failures)[rank] = value
            if failures:
                deadline = min(deadline, time.monotonic() + GRACE)
        if failures or waiting:
            for rank in waiting.values():
                failures.setdefault(rank, "killed: it did not answer")
            self._kill()
            text = "\n".join(f"rank {rank}: {failures[rank]}" for rank in sorted(failures))
            raise RankError(f"{name} failed\n{text}")
        return [results[rank] for rank in range(self.world_size)]

    def _death(self, rank: int) -> str:
        process, _ = self._workers[rank]
        process.join(GRACE)
        stack = self._stack(rank).read_text() if self._stack(rank).exists() else ""
        return f"died with exit code {process.exitcode}\n{stack}".rstrip()

    def _kill(self, after: float = 0.0) -> None:
        for process, connection in self._workers:
            process.join(after)
            process.kill()
            process.join()
            connection.close()
        if self._workers:
            self._folder.cleanup()
        self._workers = []


def _serve(rank: int, world_size: int, port: int, connection: Connection, stack: Path) -> None:
    """Be one rank: answer tasks until told to end, or until the parent is gone."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    connection.send_bytes(pickle.dumps((True, None)))
    with stack.open("w") as file:
        while True:
            try:
                message = pickle.loads(connection.recv_bytes())
                if message is None:
                    break
                task, args, timeout = message
                faulthandler.dump_traceback_later(timeout, exit=True, file=file)
                torch.manual_seed(0)
                answer = (True, task(*args))
                reply = pickle.dumps(answer)
            except EOFError:
                break
            except BaseException:  # torch's CheckpointException is no Exception
                reply = pickle.dumps((False, traceback.format_exc()))
            faulthandler.cancel_dump_traceback_later()
            connection.send_bytes(reply)
    os._exit(0)  # gloo's threads may abort an orderly exit
