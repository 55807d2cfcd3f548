import os
import sys
import termios
from contextlib import contextmanager

from sidrank.cli import progress_line as module
from sidrank.cli.progress_line import progress_line

END = "that was all"


@contextmanager
def terminal(monkeypatch):
    """Standard error as a terminal; a function that reads what has been shown on it."""
    monkeypatch.setattr(module, "_PATIENCE", 0)
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with os.fdopen(slave, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        yield lambda: _read(master, screen)
    os.close(master)


def _read(descriptor, screen):
    """All that was written; a terminal hands it over when it likes, hence the mark at the end."""
    screen.write(END)
    screen.flush()
    text = ""
    while not text.endswith(END):
        text += os.read(descriptor, 1 << 16).decode()
    return text.removesuffix(END)


def tell_all(**options):
    with progress_line(**options) as told:
        told("reading ids", 100, 0)
        told("measuring quality", 0, 1)
        for done in range(1, 51):
            told("encoding", done, 50)


def test_names_each_stage(monkeypatch):
    with terminal(monkeypatch) as shown:
        tell_all()
        text = shown()
    assert (
        text.index("reading ids: ") < text.index("measuring quality: ") < text.index("encoding: ")
    )
    assert text.endswith("\r")  # nothing of it stays


def test_hidden(monkeypatch):
    with terminal(monkeypatch) as shown:
        tell_all(hidden=True)
        assert shown() == ""


def test_silent_where_there_is_no_terminal(capfd):
    tell_all()
    assert capfd.readouterr().err == ""
