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
    a reader never meets half of it, and a full disk leaves nothing behind. A link stays a link.

    Args:
        path: The file, new or to be replaced; its folder must exist.
        text: What it shall hold.

    Returns:
        ``path``.

    Raises:
        OSError: If it cannot be written, or a folder, a device or a pipe has that name, which
            renaming would replace.
    """
    given, path = path, path.resolve()
    if path.exists() and not path.is_file():
        raise FileExistsError(f"path must be a file, got {given}, which is something else")
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
    return given
