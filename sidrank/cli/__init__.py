"""The command line: `sidrank doctor`, `sidrank demo` and `sidrank evaluate`.

`main` is the entry point. It imports what a command needs when that command runs: help appears at
once, and `doctor` speaks even where typer, torch or TorchRec are missing or broken.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of the process."""
    try:
        from sidrank.cli.app import app
    except ImportError as error:
        from sidrank.cli.doctor import run

        if sys.argv[1:2] == ["doctor"]:
            sys.exit(run(as_json="--json" in sys.argv))
        sys.exit(_explain(error))
    app(prog_name="sidrank")


def _explain(error: ImportError) -> int:
    line = f"sidrank's commands need typer and rich ({error}); type: pip install 'typer>=0.15' rich"
    sys.stderr.write(line + "\n")
    return 2
