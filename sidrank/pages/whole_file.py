"""Files that appear whole or not at all.

Shapes: none.
"""

import os
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> Path:
    """Put a whole file in place of an old one, or leave the old one.

    The text goes to a file of another name in the same folder, is handed to the disk and renamed:
    a reader never meets half of it, and a full disk leaves nothing behind.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold.

    Returns:
        ``path``.

    Raises:
        OSError: If it cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path
