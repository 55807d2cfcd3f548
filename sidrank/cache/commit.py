r"""Training on tables in files that goes on after a kill as if there had been none.

A commit is a state that all parts of a job reach together: the rows of the tables, and what the
trainer hands over (dense weights, optimiser, random state, place in the data). It costs the rows
that changed. In the directory::

    manifest.json       which commit it is: its number ("epoch") and the trainer's step
    rank-0/journal-7    what the rows of this rank were at commit 7, as far as they changed since
    rank-0/state-7      what the trainer handed over at commit 7

To commit, each rank writes its dirty rows, waits for the disk, and writes the state and an empty
journal of the next number. When all ranks have, rank 0 renames the new manifest over the old one:
that is the commit. Then each deletes what belongs to the old one. Opening the directory takes the
tables back to the commit of the manifest, newest journal first; whatever step the kill hit, there
is exactly one commit to go back to. Anything else that is found is an error, never a guess; but a
table put back from a copy of other days looks like its own: copy all of it together, or none.

All ranks see one directory; each may keep its tables where it likes. The number of ranks is part
of the commit: change it by way of `sidrank.cache.table_files`.

Source: two-phase commit; the rollback journal of SQLite (https://www.sqlite.org/atomiccommit.html);
the protocol is ours [derived].
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.serialization import get_unsafe_globals_in_checkpoint

from sidrank._disk import lock, publish, remove_leftovers, sync
from sidrank.cache.errors import CacheError
from sidrank.cache.journal import HEADER_BYTES, Journal, JournaledTier, roll_back
from sidrank.cache.slow_tier import FileTier, MemoryTier, SlowTier

__all__ = ["Cache", "TieredCheckpoint"]

_MANIFEST = "sidrank-commit-1"
_STATE = b"sidrank-state-1\n"


class Cache(Protocol):
    """What holds rows of tiers that are newer than the tiers."""

    @property
    def tiers(self) -> Mapping[str, SlowTier]:
        """The tables behind it."""
        ...

    def flush(self) -> None:
        """Write every row that is newer to its tier."""
        ...


class TieredCheckpoint:
    """Commits of tables in files and of the rest of a training job.

    Args:
        directory: Where; made if it is not there. The same for all ranks.
        tiers: This rank's tables by name; `FileTier`, since memory does not outlive a process.
        process_group: The ranks that commit together; None: this process alone.
        power_safe: Wait for the disk before rows are overwritten, see `sidrank.cache.journal`.

    Raises:
        ValueError: If ``tiers`` is empty or holds a `MemoryTier`, or the directory is open already.
        CacheError: If what is there is damaged, or was made with other tables or ranks.
        OSError: If the disk refuses.

    Example:
        >>> import tempfile
        >>> from sidrank.cache.slow_tier import FileTier
        >>> folder = Path(tempfile.mkdtemp())
        >>> tiers = {"items": FileTier(folder / "items", rows=2, width=1)}
        >>> checkpoint = TieredCheckpoint(folder / "checkpoint", tiers)
        >>> print(checkpoint.step)
        None
        >>> checkpoint.commit(0, [], state={"seed": 3})
        >>> checkpoint.tiers["items"].write(torch.tensor([1]), torch.tensor([[7.0]]))
        >>> checkpoint.close()  # as good as a kill: row 1 is not in a commit
        >>> again = TieredCheckpoint(folder / "checkpoint", tiers)
        >>> again.step, again.state(), again.rolled_back
        (0, {'seed': 3}, 1)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        tiers: Mapping[str, SlowTier],
        *,
        process_group: dist.ProcessGroup | None = None,
        power_safe: bool = False,
    ) -> None:
        if not tiers:
            raise ValueError("tiers must hold a table, got none")
        for name, tier in tiers.items():
            if isinstance(tier, MemoryTier):
                raise ValueError(f"tiers must be in files, got a MemoryTier for {name!r}")
        self._group, self._power_safe = process_group, power_safe
        self._rank = 0 if process_group is None else dist.get_rank(process_group)
        self._ranks = 1 if process_group is None else dist.get_world_size(process_group)
        self._inner = dict(tiers)
        self._tables = {name: (tier.rows, tier.width) for name, tier in tiers.items()}
        # of tiers of other kinds nobody can say whether they are still the same
        self._identities = {
            name: tier.identity if isinstance(tier, FileTier) else None
            for name, tier in tiers.items()
        }
        self._journaled = {name: JournaledTier(name, tier, None) for name, tier in tiers.items()}
        self._manifest = Path(directory).absolute() / "manifest.json"
        self._folder = self._manifest.parent / f"rank-{self._rank}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal: Journal | None = None
        self._epoch, self._rolled_back = -1, 0
        self._step: int | None = None
        self._closed = True
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(self._lock, self._folder, "directory")
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def tiers(self) -> dict[str, JournaledTier]:
        """The tables, to be written through, since what is written past them cannot be undone."""
        return dict(self._journaled)

    @property
    def step(self) -> int | None:
        """The step of the last commit, None before the first."""
        return self._step

    @property
    def rolled_back(self) -> int:
        """How many rows were taken back when the directory was opened."""
        return self._rolled_back

    @property
    def journal_bytes(self) -> int:
        """How long the journal since the last commit is."""
        return 0 if self._journal is None else self._journal.size

    def state(self) -> Any:
        """What the trainer handed over with the last commit.

        Returns:
            The ``state`` of ``commit``.

        Raises:
            CacheError: If there is no commit, or its file is damaged.
        """
        if self._step is None:
            raise CacheError(f"{self._manifest.parent} must hold a commit, got none")
        return torch.load(io.BytesIO(self._read_state()), weights_only=True)

    def commit(self, step: int, caches: Sequence[Cache], *, state: object = None) -> None:
        """Make the present the state to go back to.

        The first commit comes before the first write. All ranks call it, with the same step.

        Args:
            step: The trainer's; never less than that of the last commit.
            caches: What holds rows of `tiers`, all of them; flushed here. Empty: the tiers are
                written without a cache.
            state: Tensors, numbers, text, lists and dicts of them: what ``torch.load`` reads with
                ``weights_only=True``. Each rank has its own.

        Raises:
            ValueError: If ``step`` goes back, ``state`` holds something else, or ``caches`` do not
                hold each of the tiers.
            CacheError: If another rank failed, or is at another step, or an earlier commit failed.
            OSError: If the disk refuses; `recover` goes back to the last commit.
        """
        if self._closed:
            raise CacheError(f"{self._folder} must recover first, got a commit after a failure")
        with self._together(step):
            self._check_caches(caches)
            content = self._checked(step, state)
        self._closed = True  # until all is well: after a failure only opening again finds out
        epoch = self._epoch + 1
        try:
            with self._together(step):
                journal = self._prepare(epoch, step, caches, content)
            with self._together(step):
                if self._rank == 0:
                    publish(self._manifest, [_manifest(epoch, step, self._ranks)])
            self._begin(epoch, step, journal)
        except BaseException:
            self._seal()
            raise
        self._closed = False

    def recover(self) -> None:
        """Go back to the last commit, after a failure and without a new process.

        Each rank calls it, for itself; then what caches rows of the tiers must ``drop`` them.

        Raises:
            CacheError: If what is there is damaged, or the directory was closed.
            OSError: If the disk refuses.
        """
        if self._lock < 0:
            raise CacheError(f"{self._folder} must be open, got a closed one")
        self._seal()
        self._recover()

    def close(self) -> None:
        """Let go of the directory; the next opening undoes what came after the last commit."""
        self._seal()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _seal(self) -> None:
        self._closed = True
        for tier in self._journaled.values():
            tier.seal()
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    @contextlib.contextmanager
    def _together(self, step: int) -> Generator[None]:
        """Fail on every rank if it fails on one."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self._group is not None:
            told: list[Any] = [None] * self._ranks
            mine = (step, None if failure is None else repr(failure))
            dist.all_gather_object(told, mine, group=self._group)
            for rank, (other, failed) in enumerate(told):
                if failure is None and (failed is not None or other != step):
                    got = f"step {other}" if failed is None else failed
                    raise CacheError(f"rank {rank} must commit step {step} too, got {got}")
        if failure is not None:
            raise failure

    def _check_caches(self, caches: Sequence[Cache]) -> None:
        held = {id(tier) for cache in caches for tier in cache.tiers.values()}
        for name, tier in self._journaled.items():
            if caches and id(tier) not in held:
                raise ValueError(f"caches must hold tiers[{name!r}] of the checkpoint, got none")

    def _checked(self, step: int, state: object) -> memoryview:
        if step < (self._step or 0):
            raise ValueError(f"step must be at least {self._step or 0}, got {step}")
        content = io.BytesIO()
        torch.save(state, content)
        foreign = get_unsafe_globals_in_checkpoint(io.BytesIO(content.getbuffer()))
        if foreign:
            raise ValueError(f"state must hold tensors and plain values, got {foreign[0]}")
        return content.getbuffer()

    def _prepare(
        self, epoch: int, step: int, caches: Sequence[Cache], content: memoryview
    ) -> Journal:
        for cache in caches:
            cache.flush()
        for tier in self._journaled.values():
            tier.seal()
        if self._journal is not None:
            self._journal.flush()  # before the rows it can undo
        for tier in self._inner.values():
            tier.flush()
        told = {
            "epoch": epoch,
            "rank": self._rank,
            "tables": self._tables,
            "files": self._identities,
        }
        head = b"\n" + json.dumps(told).encode() + b"\n"
        digest = hashlib.sha256(head)
        digest.update(content)
        parts = [_STATE + digest.hexdigest().encode() + head, content]
        publish(self._folder / f"state-{epoch}", parts)
        return self._new_journal(epoch)

    def _begin(self, epoch: int, step: int, journal: Journal) -> None:
        old, self._journal = self._journal, journal
        if old is not None:
            old.close()
        for name in (f"journal-{self._epoch}", f"state-{self._epoch}"):
            (self._folder / name).unlink(missing_ok=True)
        self._epoch, self._step = epoch, step
        for tier in self._journaled.values():
            tier.follow(journal)

    def _recover(self) -> None:
        self._epoch, self._step, self._rolled_back = -1, None, 0
        if self._rank == 0:
            remove_leftovers(self._manifest)
        for leftover in self._folder.glob(".*.tmp"):  # the folder is ours, and locked
            leftover.unlink()
        journals = self._files("journal")
        if self._manifest.exists():
            self._take_back(journals)
        for epoch, path in journals.items():
            if epoch > self._epoch and path.stat().st_size > HEADER_BYTES:
                raise CacheError(f"{self._manifest} must be there, got none beside {path}")
        for epoch, path in (*self._files("journal").items(), *self._files("state").items()):
            if epoch != self._epoch:
                path.unlink()
        self._closed = False

    def _take_back(self, journals: dict[int, Path]) -> None:
        self._epoch, self._step = self._read_manifest()
        self._read_state()
        if self._epoch not in journals:
            raise CacheError(f"{self._folder} must hold journal-{self._epoch}, got none")
        for epoch in sorted((each for each in journals if each >= self._epoch), reverse=True):
            self._rolled_back += roll_back(journals[epoch], epoch, self._inner)
        for tier in self._inner.values():
            tier.flush()
        # what is undone last is deleted last: undoing may be cut off and start over
        for epoch in sorted((each for each in journals if each > self._epoch), reverse=True):
            journals.pop(epoch).unlink()
            sync(self._folder)
        self._journal = self._new_journal(self._epoch)
        for tier in self._journaled.values():
            tier.follow(self._journal)

    def _new_journal(self, epoch: int) -> Journal:
        path = self._folder / f"journal-{epoch}"
        return Journal(path, epoch=epoch, tables=self._tables, power_safe=self._power_safe)

    def _files(self, kind: str) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in self._folder.glob(f"{kind}-*"):
            number = path.name.removeprefix(f"{kind}-")
            if not number.isdecimal():
                raise CacheError(f"{self._folder} must hold nothing else, got {path.name}")
            found[int(number)] = path
        return found

    def _read_manifest(self) -> tuple[int, int]:
        try:
            told = json.loads(self._manifest.read_bytes())
            epoch, step, ranks = told["epoch"], told["step"], told["ranks"]
            if self._manifest.read_bytes() != _manifest(epoch, step, ranks):
                raise ValueError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CacheError(f"{self._manifest} must be whole, got a damaged one") from error
        if ranks != self._ranks:
            raise CacheError(
                f"{self._manifest} must be opened by {ranks} ranks, which made it, "
                f"got {self._ranks}"
            )
        return epoch, step

    def _read_state(self) -> bytes:
        path = self._folder / f"state-{self._epoch}"
        try:
            start, digest, rest = _split(path.read_bytes())
        except OSError as error:
            raise CacheError(f"{path} must be there, got {error!r}") from error
        if start != _STATE or digest != hashlib.sha256(rest).hexdigest().encode():
            raise CacheError(f"{path} must fit its checksum, got a damaged one")
        _, head, content = rest.split(b"\n", 2)
        told = json.loads(head)
        found = (told["epoch"], told["rank"])
        if found != (self._epoch, self._rank):
            raise CacheError(
                f"{path} must be of commit {self._epoch} and rank {self._rank}, got {found}"
            )
        tables = {name: (rows, width) for name, (rows, width) in told["tables"].items()}
        if tables != self._tables or list(tables) != list(self._tables):
            raise CacheError(f"tiers must be those of the commit, {tables}, got {self._tables}")
        for name, identity in self._identities.items():
            if told["files"][name] != identity:
                raise CacheError(
                    f"tiers must be the files of the commit, got another one for {name!r}"
                )
        return content


def _split(whole: bytes) -> tuple[bytes, bytes, bytes]:
    end = len(_STATE) + 64
    return whole[: len(_STATE)], whole[len(_STATE) : end], whole[end:]


def _manifest(epoch: int, step: int, ranks: int) -> bytes:
    told = {"format": _MANIFEST, "epoch": epoch, "step": step, "ranks": ranks}
    checksum = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return json.dumps({**told, "sha256": checksum}, indent=1).encode() + b"\n"
