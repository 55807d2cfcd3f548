"""File operations that a kill, a full disk or a second process must not turn into a wrong file.

Source: ours [derived].
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path

__all__ = ["lock", "new_folder", "publish", "remove_leftovers", "scratch_path", "sync", "write_all"]


def write_all(file: int, content: bytes | memoryview, offset: int) -> None:
    """Write ``content`` at ``offset``, in as many calls as the system wants.

    Args:
        file: The descriptor.
        content: The bytes.
        offset: Where, in bytes.
    """
    rest = memoryview(content)
    while rest:
        done = os.pwrite(file, rest, offset)
        rest, offset = rest[done:], offset + done


def sync(path: Path) -> None:
    """Wait until the names in a directory, or the content of a file, are on the disk.

    Args:
        path: The directory, or the file.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(path: Path, parts: list[bytes | memoryview]) -> None:
    """Give ``path`` a new content: afterwards it is the old file or the new one, whole, on disk.

    Args:
        path: The file.
        parts: Its content, in order.
    """
    scratch = scratch_path(path)
    file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            end = 0
            for part in parts:
                write_all(file, part, end)
                end += len(part)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path, name: str) -> Generator[Path]:
    """A folder that takes its place when all went well, and leaves nothing when it did not.

    Args:
        path: Where it shall be. Its parent must exist.
        name: The argument that named it, for the message.

    Yields:
        The folder to fill.

    Raises:
        ValueError: If ``path`` exists already.
        OSError: If the disk refuses.
    """
    target = path.absolute()
    if os.path.lexists(target):
        raise ValueError(f"{name} must not exist yet, got {path}")
    scratch = scratch_path(target)
    scratch.mkdir()
    try:
        yield scratch
        for each in (*scratch.iterdir(), scratch):
            sync(each)
        try:
            scratch.rename(target)
        except OSError as error:
            if os.path.lexists(target):
                raise ValueError(f"{name} must not exist yet, got {path}") from error
            raise
        sync(target.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def scratch_path(path: Path) -> Path:
    """Make up a name beside ``path`` for what will be renamed to it.

    Args:
        path: The file to be.

    Returns:
        A path that is not there; `remove_leftovers` knows it.
    """
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"


def remove_leftovers(path: Path) -> None:
    """Delete what a killed writer of ``path`` left under other names.

    Args:
        path: The file; nobody else may be writing it.
    """
    start = f".{path.name}."
    for other in path.parent.iterdir():
        name = other.name
        if name.startswith(start) and name.endswith(".tmp") and len(name) == len(start) + 20:
            other.unlink(missing_ok=True)


def lock(file: int, path: Path, name: str) -> None:
    """Refuse a file that is open already, here or in another process.

    Args:
        file: The descriptor; the lock lasts as long as it and its duplicates.
        path: The file, for the message.
        name: The argument that named it, for the message.

    Raises:
        ValueError: If somebody else holds the lock.
    """
    import fcntl  # not on every system, and only needed here

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{name} must not be open already, got {path}") from error
