r"""Rows of a log in which fields of the user meet behaviours: one field says what a match is.

The history is the planted one; only likes are drawn anew. Users have a *taste* of two values: for
one half the candidate's topic counts, for the other its brand, each if it is among the last 16
events. Half of that needs no field:

========= ================================================ =====================================
part      is                                               can be learned from
========= ================================================ =====================================
match     topic and brand are among the last events        behaviours and candidate
choice    the one that the taste asks for, minus the other taste, behaviours and candidate together
profile   who likes much                                   three more fields of two values
context   slot and style of the impression                 the request alone
========= ================================================ =====================================

``match`` and ``choice`` weigh the same, so that their sum knows nothing of what the taste does not
ask for. Nothing of ``choice`` is left without the taste. The few values of the fields move the
logit much, which is what is said to flatten behaviours.

Source: none [derived].

Shapes: ``U`` users, ``E`` events, ``R`` requests, ``T`` traits.
"""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.sequence_logs import planted_rows
from benchmarks.sequence_rows import SequenceRows
from sidrank.data.planted_sequences import (
    PlantedSequences,
    SequenceSettings,
    SequenceShares,
    plant_sequences,
)

__all__ = ["PART", "choice_log", "choice_rows"]

Floats = NDArray[np.float64]
PART = "choice"
SHARES = {PART: 1.5, "match": 1.5, "profile": 1.5, "context": 0.5}
SPREAD = 1.9  # standard deviation of the logit
NEWEST = 16  # events that count
TRAITS, VALUES = 3, 2


def choice_rows(seed: int, *, users: int = 4_000) -> SequenceRows:
    """Draw a log.

    Args:
        seed: Everything random follows from it.
        users: How many, ``U``.

    Returns:
        Its rows.

    Example:
        >>> rows = choice_rows(0, users=10)
        >>> sorted(rows.logit_parts), rows.static_names
        (['choice', 'context', 'match', 'profile'], ('taste', 'trait_0', 'trait_1', 'trait_2'))
    """
    return planted_rows(choice_log(seed, users=users))


def choice_log(seed: int, *, users: int = 4_000) -> PlantedSequences:
    """The log behind the rows.

    Args:
        seed: Everything random follows from it.
        users: How many, ``U``.

    Returns:
        The planted history with other fields, parts and labels.
    """
    log = plant_sequences(_settings(seed, users))
    draws = np.random.default_rng([seed, 7])
    taste = draws.integers(0, 2, users)
    traits = draws.integers(0, VALUES, (users, TRAITS))
    effects = draws.normal(size=(TRAITS, VALUES))
    matches = np.stack([_unit(_among_newest(log, of)) for of in (log.item_topic, log.item_brand)])
    sign = np.where(taste[log.user] == 1, 1.0, -1.0)
    raw = {
        PART: sign * (matches[0] - matches[1]) / np.sqrt(2),
        "match": matches.sum(axis=0) / np.sqrt(2),
        "profile": _unit(effects[np.arange(TRAITS), traits].sum(axis=1))[log.user],
        "context": log.parts["context"],
    }
    total = sum(SHARES.values())
    parts = {name: SPREAD * np.sqrt(SHARES[name] / total) * value for name, value in raw.items()}
    probability = 1 / (1 + np.exp(-np.sum(list(parts.values()), axis=0)))
    given = {"taste": taste} | {f"trait_{at}": traits[:, at] for at in range(TRAITS)}
    return replace(
        log,
        label=(draws.random(len(probability)) < probability).astype(np.int64),
        probability=probability,
        parts=parts,
        user_fields=given,
    )


def _settings(seed: int, users: int) -> SequenceSettings:
    nothing = dict.fromkeys((each.name for each in fields(SequenceShares)), 0.0)
    shares = SequenceShares(**nothing | {"context": 1.0})
    return SequenceSettings(seed=seed, users=users, spread=1.0, shares=shares)


def _among_newest(log: PlantedSequences, value: NDArray[np.int64]) -> Floats:
    """Whether the candidate's value is one of those of the last events, shape ``[R]``."""
    end = int(max(log.time.max(), log.event_time.max())) + 1
    seen = np.searchsorted(log.event_user * end + log.event_time, log.user * end + log.time)
    at = seen[:, None] - 1 - np.arange(NEWEST)
    real = at >= 0
    at = np.maximum(at, 0)
    real &= log.event_user[at] == log.user[:, None]
    return (
        (real & (value[log.event_item[at]] == value[log.item][:, None])).any(axis=1).astype(float)
    )


def _unit(values: Floats) -> Floats:
    """Mean 0 and variance 1."""
    spread = float(values.std())
    return (values - values.mean()) / (spread if spread > 0 else 1.0)
