"""Frozen dataclasses as constructor arguments, given whole or as the dictionary JSON makes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

__all__ = ["as_json", "described"]

_Kind = TypeVar("_Kind")


def described(kind: type[_Kind], given: _Kind | Mapping[str, Any] | None) -> _Kind:
    """Read one description.

    Args:
        kind: The dataclass.
        given: An instance, a dictionary of its attributes, or None for its defaults.

    Returns:
        The instance.

    Raises:
        TypeError: If it is something else, or an attribute is unknown.
    """
    if isinstance(given, kind):
        return given
    if given is None or isinstance(given, Mapping):
        return kind(**(given or {}))
    raise TypeError(
        f"{kind.__name__} must be given as such or as a dictionary, got {type(given).__name__}"
    )


def as_json(description: Any) -> dict[str, Any]:
    """Write one description.

    Args:
        description: An instance of a dataclass.

    Returns:
        Its attributes, tuples as lists.
    """
    fields = asdict(description)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
