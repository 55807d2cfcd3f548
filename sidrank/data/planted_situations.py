r"""A planted log where what a user needs depends on hour, place and kind of behaviour together.

Each user cares for four topics, one at a time: which one is written in a table of the user's own
over hour of the day × place × behaviour type. Behaviours are of the topic of their cell, but for
some accidents, which are of any topic and short. A request comes with an hour, a place and a type,
shows an item, and the label is drawn from a known probability
(:func:`sidrank.metrics.expected_auc`, :func:`sidrank.metrics.bayes_auc`):

.. math:: \mathrm{logit} = \sigma \left(\sqrt{1 - \rho}\; \mathrm{taste}
    + \sqrt{\rho}\; \mathrm{need}\right)

====== ============================================ ==========================================
part   is                                           can be learned from
====== ============================================ ==========================================
taste  1 if the candidate's topic is one of the     items of the history, whatever their
       user's four, else −1                         situations
need   √2 if it is the one of the request's cell,   items together with hour, place and type,
       −√2 if another of the four, else 0           compared with those of the request
====== ============================================ ==========================================

Both have mean 0 and variance 1 and do not correlate. ``situation`` :math:`\rho` moves the variance
from taste to need and changes nothing else: the same seed gives the same users, behaviours,
requests and uniform numbers behind the labels. In each user's table every topic stands in as many
cells as any other, so how often a topic was seen says nothing of a need.

The best AUC is that of who knows the tables. A history shows each cell several times, accidents
included, so what can be learned comes close to it, not quite up to it.

Differs from real data: needs do not drift, cells are visited equally often, items differ by topic
alone, all behaviours are before all requests. What works here may fail there.

Source: none; everything here is [derived].

Shapes: ``U`` users, ``L`` behaviours of each, ``R`` requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlantedSituations", "SituationSettings", "plant_situations"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_START = 1_767_571_200  # Monday 2026-01-05 in seconds
_DAY = 86_400
_HOURS, _PLACES, _TYPES = 3, 2, 2
_CELLS = _HOURS * _PLACES * _TYPES
_TOPICS, _POOL, _VARIANTS = 8, 4, 3
_REQUEST_DAYS = 7
_DWELL, _SHORT, _DWELL_SPREAD = 4.0, 2.0, 0.5  # of the logarithm of seconds


@dataclass(frozen=True, slots=True)
class SituationSettings:
    """What to plant.

    Attributes:
        seed: Everything random follows from it.
        situation: Share of need, against taste, in the logit's variance: 0 to 1.
        users: Users, ``U``.
        visits: Behaviours of a user in each of the 12 cells; ``L`` is 12 times as many.
        requests: Requests of each user.
        accidents: Share of behaviours that mean nothing: 0 to 1.
        spread: Standard deviation of the logit, σ.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    situation: float = 0.7
    users: int = 2_000
    visits: int = 5
    requests: int = 20
    accidents: float = 0.3
    spread: float = 2.0

    def __post_init__(self) -> None:
        for name, lowest in {"seed": 0, "users": 1, "visits": 1, "requests": 1}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name in ("situation", "accidents"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not 0 < self.spread < float("inf"):
            raise ValueError(f"spread must be finite and above 0, got {self.spread}")


@dataclass(frozen=True, slots=True)
class PlantedSituations:
    """Histories and requests with labels, their probabilities, and the truth behind them.

    A model may know all but ``accident``, ``probability``, ``parts`` and ``need``. Items, hours,
    places and types count from 1, so that 0 is free for padding and for what is not known.

    Attributes:
        settings: What was planted.
        seen_item: Items of the behaviours, oldest first, 1 to 24, shape ``[U, L]``.
        seen_hour: Part of the day, 1 to 3, shape ``[U, L]``.
        seen_place: 1 to 2, shape ``[U, L]``.
        seen_type: 1 or 2, shape ``[U, L]``.
        seen_seconds: How long each took, at least 1, shape ``[U, L]``.
        seen_time: Unix seconds, strictly increasing inside a user, shape ``[U, L]``.
        accident: Whether the behaviour means nothing, bool, shape ``[U, L]``.
        user: Sorted, 0 to ``U - 1``, shape ``[R]``.
        item: The candidate, shape ``[R]``.
        hour: Part of the day, shape ``[R]``.
        place: Shape ``[R]``.
        type: What the request is for, shape ``[R]``.
        time: Unix seconds, later than all behaviours, shape ``[R]``.
        label: 1 for a like, shape ``[R]``.
        probability: Of the label being 1, shape ``[R]``.
        parts: ``taste`` and ``need`` as they are added to the logit, shape ``[R]`` each.
        item_topic: Topic of each item, 0 to 7, shape ``[25]``; row 0 is no item, -1.
        need: Topic of each user's cell, shape ``[U, 3, 2, 2]``.
    """

    settings: SituationSettings
    seen_item: Ints
    seen_hour: Ints
    seen_place: Ints
    seen_type: Ints
    seen_seconds: Ints
    seen_time: Ints
    accident: NDArray[np.bool_]
    user: Ints
    item: Ints
    hour: Ints
    place: Ints
    type: Ints
    time: Ints
    label: Ints
    probability: Floats
    parts: Mapping[str, Floats]
    item_topic: Ints
    need: Ints

    def shuffled(self, seed: int = 0) -> "PlantedSituations":
        """The same log with situations dealt anew among each user's behaviours.

        Items and times stay; hour, place, type and seconds of a behaviour move together to another
        one. What a tower gains from situations must vanish.

        Args:
            seed: Of the dealing.

        Returns:
            The control.
        """
        draws = np.random.default_rng(seed)
        order = np.argsort(draws.random(self.seen_item.shape), axis=1)
        return replace(
            self,
            seen_hour=np.take_along_axis(self.seen_hour, order, axis=1),
            seen_place=np.take_along_axis(self.seen_place, order, axis=1),
            seen_type=np.take_along_axis(self.seen_type, order, axis=1),
            seen_seconds=np.take_along_axis(self.seen_seconds, order, axis=1),
        )


def plant_situations(settings: SituationSettings | None = None) -> PlantedSituations:
    """Draw a log; the same settings give the same bits on the same machine.

    Args:
        settings: What to plant; None is the default.

    Returns:
        The log.

    Example:
        >>> log = plant_situations(SituationSettings(users=3, visits=2, requests=4))
        >>> log.seen_item.shape, log.label.shape, sorted(log.parts)
        ((3, 24), (12,), ['need', 'taste'])
    """
    settings = SituationSettings() if settings is None else settings
    who, does, asks, drawn, named = (
        np.random.default_rng(each) for each in np.random.SeedSequence(settings.seed).spawn(5)
    )
    users = settings.users
    topics = np.argsort(who.random((users, _TOPICS)), axis=1)  # the first four are the user's
    table = np.argsort(who.random((users, _CELLS)), axis=1) % _POOL  # each topic as often
    need = np.take_along_axis(topics, table, axis=1)
    item_topic = np.append(-1, named.permutation(np.repeat(np.arange(_TOPICS), _VARIANTS)))
    items = 1 + np.argsort(item_topic[1:], kind="stable").reshape(_TOPICS, _VARIANTS)

    length = _CELLS * settings.visits
    cell = np.argsort(does.random((users, length)), axis=1) % _CELLS  # each as often
    accident = does.random((users, length)) < settings.accidents
    any_topic = does.integers(0, _TOPICS, (users, length))
    topic = np.where(accident, any_topic, np.take_along_axis(need, cell, axis=1))
    dwell = np.where(accident, _SHORT, _DWELL) + _DWELL_SPREAD * does.normal(size=topic.shape)
    hour, place, kind = np.unravel_index(cell, (_HOURS, _PLACES, _TYPES))

    user = np.repeat(np.arange(users), settings.requests)
    asked = asks.integers(0, _CELLS, len(user))
    wanted = need[user, asked]
    # half of the candidates are none of the user's topics; of the others half are the wanted one
    own = asks.random(len(user)) < 0.5
    hit = asks.random(len(user)) < 0.5
    step = asks.integers(1, _POOL, len(user))
    another = topics[user, (table[user, asked] + step) % _POOL]
    strange = topics[user, asks.integers(_POOL, _TOPICS, len(user))]
    shown = np.where(own, np.where(hit, wanted, another), strange)
    amplitude = settings.spread * np.sqrt([1 - settings.situation, settings.situation])
    parts = {
        "taste": amplitude[0] * np.where(own, 1.0, -1.0),
        "need": amplitude[1] * np.where(own, np.where(hit, 2**0.5, -(2**0.5)), 0.0),
    }
    probability = 1 / (1 + np.exp(-(parts["taste"] + parts["need"])))
    asked_hour, asked_place, asked_type = np.unravel_index(asked, (_HOURS, _PLACES, _TYPES))
    request_day = length + asks.integers(0, _REQUEST_DAYS, len(user))
    return PlantedSituations(
        settings=settings,
        seen_item=items[topic, does.integers(0, _VARIANTS, topic.shape)],
        seen_hour=1 + hour,
        seen_place=1 + place,
        seen_type=1 + kind,
        seen_seconds=np.exp(dwell).astype(np.int64) + 1,
        seen_time=_moment(does, np.broadcast_to(np.arange(length), cell.shape), hour),
        accident=accident,
        user=user,
        item=items[shown, asks.integers(0, _VARIANTS, len(user))],
        hour=1 + asked_hour,
        place=1 + asked_place,
        type=1 + asked_type,
        time=_moment(asks, request_day, asked_hour),
        label=(drawn.random(len(user)) < probability).astype(np.int64),
        probability=probability,
        parts=parts,
        item_topic=item_topic,
        need=need.reshape(users, _HOURS, _PLACES, _TYPES),
    )


def _moment(draws: np.random.Generator, day: Ints, hour: Ints) -> Ints:
    """Unix seconds on a day in a part of it."""
    part = _DAY // _HOURS
    return _START + day * _DAY + hour * part + draws.integers(0, part, day.shape)
