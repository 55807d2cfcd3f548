"""Logs that the sequence study runs on, and what an arm of it is.

The planted settings give the part of the logit that a claim is about twelve times the weight of
the others, so that a model that reads it stands out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn

from benchmarks.sequence_choices import choice_rows
from benchmarks.sequence_logs import movielens_rows, planted_rows
from benchmarks.sequence_rows import SequenceRows
from benchmarks.sequence_training import Recipe
from sidrank.data.planted_sequences import SequenceSettings, SequenceShares, plant_sequences

__all__ = ["SETTINGS", "Arm", "Setting"]


@dataclass(frozen=True)
class Arm:
    """A model under test.

    Attributes:
        build: Makes it from rows and a seed; what it trains on the way counts as its time.
        settings: Names in ``SETTINGS`` that it runs in.
        control: Arm it is compared with, or none.
        recipe: How it is trained.
        also: Further arms it is compared with.
        recipes: How it is trained in settings where that differs from ``recipe``.
    """

    build: Callable[[SequenceRows, int], nn.Module]
    settings: tuple[str, ...] = ("even",)
    control: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    also: tuple[str, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])


@dataclass(frozen=True)
class Setting:
    """A log to run on: planted with these shares, drawn by a function, or MovieLens by a protocol.

    The log of ``long`` has shorter histories (old topics end 140 events before the first request,
    on average), so that reading all of them costs no more than 320 positions; those of
    ``long_brief`` are shorter than 192 events, almost always.
    """

    shares: SequenceShares | None = None
    protocol: str = ""
    scale: Mapping[str, Any] = field(default_factory=dict[str, Any])
    drawn: Callable[..., SequenceRows] | None = None

    def rows(self, seed: int, **scale: Any) -> SequenceRows:
        """The log of a seed; MovieLens is the same for all seeds."""
        if self.drawn is not None:
            return self.drawn(seed, **self.scale, **scale)
        if self.shares is None:
            return movielens_rows(protocol=self.protocol)
        return planted_rows(
            plant_sequences(SequenceSettings(seed=seed, shares=self.shares, **self.scale, **scale))
        )


def _mostly(part: str, *others: str) -> Setting:
    """A part with twelve times the weight of the rest, and others with four times."""
    names = (each.name for each in fields(SequenceShares))
    return Setting(
        SequenceShares(**dict.fromkeys(names, 0.25) | dict.fromkeys(others, 1.0) | {part: 3.0})
    )


SETTINGS: Mapping[str, Setting] = {
    "even": Setting(SequenceShares()),
    "long": replace(
        _mostly("long", "recent"), scale={"old_sessions": (10, 30), "new_sessions": (24, 32)}
    ),
    "long_brief": replace(
        _mostly("long", "recent"), scale={"old_sessions": (8, 14), "new_sessions": (10, 14)}
    ),
    "session": _mostly("session"),
    "periodic": _mostly("periodic"),
    "types": _mostly("types", "static"),
    "static": _mostly("static"),
    "instance": _mostly("instance", "context"),
    "movielens": Setting(protocol="global_time"),
    "movielens_per_user": Setting(protocol="per_user"),
    "choice": Setting(drawn=choice_rows),
}
