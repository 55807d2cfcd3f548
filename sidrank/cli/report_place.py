"""Where a command may put its page: known before an hour is spent on reading.

Shapes: none.
"""

import tempfile
from pathlib import Path

__all__ = ["check_report_place"]


def check_report_place(report: Path, source: Path) -> None:
    """Refuse a place that cannot take the page.

    Args:
        report: Where the page shall be.
        source: The file that is read.

    Raises:
        OSError: If its folder takes no file.
        ValueError: If it is no place for a file, or that of the file that is read.
    """
    if report.is_dir():
        raise ValueError(f"report must be a file, got the folder {report}")
    if report.exists() and not report.is_file():
        raise ValueError(f"report must be a file, got the device or pipe {report}")
    if not report.parent.is_dir():
        raise ValueError(f"report must lie in a folder that exists, got {report}")
    if report.exists() and source.exists() and report.samefile(source):
        raise ValueError(f"report must not replace the file that is read, got {report}")
    with tempfile.TemporaryFile(dir=report.parent):
        pass
