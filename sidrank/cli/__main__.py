"""Lets `python -m sidrank.cli` stand in for `sidrank`."""

from sidrank.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
