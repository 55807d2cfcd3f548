r"""A planted log where what a user wants depends on how soon a candidate locks.

Each user has four topics: two of these days, seen in the last hours, and two old ones, seen weeks
ago. A request offers several candidates, each with a deadline of its own. What locks soon is chosen
by the interest of these days, what locks late by the old one, and the label is drawn from a known
probability (:func:`sidrank.metrics.expected_auc`, :func:`sidrank.metrics.bayes_auc`):

.. math:: \mathrm{logit} = \sigma \left(\sqrt{1 - \rho}\; \mathrm{taste}
    + \sqrt{\rho}\; \mathrm{need}\right), \qquad
    \mathrm{need} = c\, \tanh\!\Big(\log \frac{12\,\mathrm{h}}{\mathrm{left}}\Big)\, s

====== ============================================ ==========================================
part   is                                           can be learned from
====== ============================================ ==========================================
taste  1 if the candidate's topic is one of the     items of the history, whenever they were
       user's four, else −1                         seen
need   ``s`` is 1 for a topic of these days, −1     items together with the time since they were
       for an old one, else 0                       seen and the time left
====== ============================================ ==========================================

Both have mean 0 and variance 1 and do not correlate, and the time left alone says nothing: its
sign turns with the topic. ``urgency`` :math:`\rho` moves the variance from taste to need and
changes nothing else. Some candidates have locked before the request came: nobody can choose them
any more, their probability is 0, and models are judged on the others.

Differs from real data: both interests are seen equally often, deadlines do not depend on items,
candidates of a request do not compete. What works here may fail there.

Source: none; everything here is [derived].

Shapes: ``U`` users with one request each, ``L`` behaviours, ``C`` candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["DeadlineSettings", "PlantedDeadlines", "plant_deadlines"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_START = 1_767_571_200  # Monday 2026-01-05 in seconds
_HOUR, _DAY = 3_600, 86_400
_TOPICS, _VARIANTS = 8, 3
_RECENT = (0.2 * _HOUR, 20 * _HOUR)  # since a behaviour of these days, log-uniform
_OLD = (10 * _DAY, 60 * _DAY)
_TURN = 12 * _HOUR
_WIDEST = 24.0  # of the time left, around the turn: a factor, both ways


@dataclass(frozen=True, slots=True)
class DeadlineSettings:
    """What to plant.

    Attributes:
        seed: Everything random follows from it.
        urgency: Share of need, against taste, in the logit's variance: 0 to 1.
        users: Users, ``U``.
        visits: Behaviours of each of a user's four topics; ``L`` is four times as many.
        candidates: Candidates of a request, ``C``.
        expired: Share of candidates that have locked already: 0 to 1.
        spread: Standard deviation of the logit, σ.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    urgency: float = 0.7
    users: int = 6_000
    visits: int = 4
    candidates: int = 5
    expired: float = 0.1
    spread: float = 2.0

    def __post_init__(self) -> None:
        for name, lowest in {"seed": 0, "users": 1, "visits": 1, "candidates": 1}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name in ("urgency", "expired"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not 0 < self.spread < float("inf"):
            raise ValueError(f"spread must be finite and above 0, got {self.spread}")


@dataclass(frozen=True, slots=True)
class PlantedDeadlines:
    """Histories and requests with labels, their probabilities, and the truth behind them.

    A model may know the items and the times. Items count from 1, so that 0 is free for padding.

    Attributes:
        settings: What was planted.
        seen_item: Items of the behaviours, oldest first, 1 to 24, shape ``[U, L]``.
        seen_time: Unix seconds, shape ``[U, L]``.
        time: Of the request, Unix seconds, later than all behaviours, shape ``[U]``.
        item: Candidates, shape ``[U, C]``.
        lock: When each locks, Unix seconds, shape ``[U, C]``.
        open: Whether it is still open at the request, bool, shape ``[U, C]``.
        label: 1 for a choice, shape ``[U, C]``.
        probability: Of the label being 1, shape ``[U, C]``.
        parts: ``taste`` and ``need`` as they are added to the logit, shape ``[U, C]`` each.
        item_topic: Topic of each item, 0 to 7, shape ``[25]``; row 0 is no item, -1.
        topics: Of each user: two of these days, two old ones, shape ``[U, 4]``.
    """

    settings: DeadlineSettings
    seen_item: Ints
    seen_time: Ints
    time: Ints
    item: Ints
    lock: Ints
    open: NDArray[np.bool_]
    label: Ints
    probability: Floats
    parts: Mapping[str, Floats]
    item_topic: Ints
    topics: Ints

    def randomised(self, seed: int = 0) -> "PlantedDeadlines":
        """The same log with the time left dealt anew among all open candidates.

        Labels stay. What a tower gains from deadlines must vanish.

        Args:
            seed: Of the dealing.

        Returns:
            The control.
        """
        left = self.lock - self.time[:, None]
        left[self.open] = np.random.default_rng(seed).permutation(left[self.open])
        return replace(self, lock=self.time[:, None] + left)


def plant_deadlines(settings: DeadlineSettings | None = None) -> PlantedDeadlines:
    """Draw a log; the same settings give the same bits on the same machine.

    Args:
        settings: What to plant; None is the default.

    Returns:
        The log.

    Example:
        >>> log = plant_deadlines(DeadlineSettings(users=3, visits=2, candidates=4))
        >>> log.seen_item.shape, log.lock.shape, sorted(log.parts)
        ((3, 8), (3, 4), ['need', 'taste'])
    """
    settings = DeadlineSettings() if settings is None else settings
    who, does, asks, drawn, named = (
        np.random.default_rng(each) for each in np.random.SeedSequence(settings.seed).spawn(5)
    )
    users, visits, shape = settings.users, settings.visits, (settings.users, settings.candidates)
    ranked = np.argsort(who.random((users, _TOPICS)), axis=1)
    item_topic = np.append(-1, named.permutation(np.repeat(np.arange(_TOPICS), _VARIANTS)))
    items = 1 + np.argsort(item_topic[1:], kind="stable").reshape(_TOPICS, _VARIANTS)

    time = _START + asks.integers(0, 7 * _DAY, users)
    topic = np.repeat(ranked[:, :4], visits, axis=1)
    low, high = np.repeat([_RECENT, _RECENT, _OLD, _OLD], visits, axis=0).T
    gap = np.exp(does.uniform(np.log(low), np.log(high), (users, 4 * visits))).astype(np.int64)
    seen_item = items[topic, does.integers(0, _VARIANTS, topic.shape)]
    order = np.argsort(-gap, axis=1, kind="stable")

    kind = asks.integers(0, 4, shape)  # of these days, old, or as often another topic
    place = np.where(kind < 2, 2 * kind, 4) + asks.integers(0, 2, shape) * np.where(kind < 2, 1, 2)
    place += np.where(kind < 2, 0, asks.integers(0, 2, shape))
    wanted = np.take_along_axis(ranked, place, axis=1)
    turned = asks.uniform(-1.0, 1.0, shape) * np.log(_WIDEST)  # log of 12 h over the time left
    left = np.maximum(1, _TURN * np.exp(-turned)).astype(np.int64)
    is_open = asks.random(shape) >= settings.expired

    scale = settings.spread * np.sqrt([1 - settings.urgency, settings.urgency])
    side = np.choose(kind, [1.0, -1.0, 0.0, 0.0])
    parts = {
        "taste": scale[0] * np.where(kind < 2, 1.0, -1.0),
        "need": scale[1] * np.sqrt(2.0 / _mean_square()) * np.tanh(np.log(_TURN / left)) * side,
    }
    probability = np.where(is_open, 1 / (1 + np.exp(-(parts["taste"] + parts["need"]))), 0.0)
    return PlantedDeadlines(
        settings=settings,
        seen_item=np.take_along_axis(seen_item, order, axis=1),
        seen_time=time[:, None] - np.take_along_axis(gap, order, axis=1),
        time=time,
        item=items[wanted, asks.integers(0, _VARIANTS, shape)],
        lock=time[:, None] + np.where(is_open, left, -left),
        open=is_open,
        label=(drawn.random(shape) < probability).astype(np.int64),
        probability=probability,
        parts=parts,
        item_topic=item_topic,
        topics=ranked[:, :4],
    )


def _mean_square() -> float:
    """Of the hyperbolic tangent over the range of the log: 1 - tanh(w) / w."""
    widest = float(np.log(_WIDEST))
    return 1.0 - float(np.tanh(widest)) / widest
