r"""A planted log of long behaviour sequences, with seven kinds of signal and a known best AUC.

Users have events of three types in sessions, and requests: an item shown in a context, liked or
not. Each label is drawn from a known probability, so a model can be judged without label noise
(:func:`sidrank.metrics.expected_auc`) and against the best there is
(:func:`sidrank.metrics.bayes_auc`). The logit is

.. math:: \mathrm{logit} = \sigma \sum_p \sqrt{s_p}\, x_p, \qquad \sum_p s_p = 1

of parts :math:`x_p` of mean 0 and variance 1 that do not correlate (``instance``, which depends
on earlier labels: about), with a share :math:`s_p` each:

========== ========================================== ==========================================
part       is                                         can be learned from
========== ========================================== ==========================================
recent     candidate's topic is among the last 8      the newest events
           events', or one of today's topics only
long       the topic is one of long ago, or a strange the events before day 40: 150 and more
           one                                        events back
session    candidate's and page's topics share the    gaps between times: the order of events is
           user's sessions, or only follow each other the same in both cases
periodic   the form is what the user clicks at this   clicks, by their quarter of the day
           quarter of the day, or at another one
types      the form is what the user views in the     buys (which brand) together with views
           brand bought last, or in another           (brand to form)
static     topics that go with the candidate's in     the segment together with the topics of
           the user's segment are the user's          events
instance   the user's earlier impressions of the same their style, slot and label, where it is
           style were liked                           known already
context    slot and style of the impression           the request alone
========== ========================================== ==========================================

The same seed gives the same users, events, requests and uniform numbers behind the labels for any
shares: points of a curve over a share are paired.

Differs from real data: behaviours do not depend on what was shown; users walk through their
topics in a round; habits are sharp, all users have the same number of requests, and half of the
labels are positive. Items have no quality of their own and no long tail. What works here may fail
there.

Source: none; everything here is [derived].

Shapes: ``U`` users, ``E`` events, ``R`` requests, ``V`` items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from sidrank.data._planted_behaviours import (
    BRANDS,
    FORMS,
    SHIFT_DAYS,
    TOPICS,
    draw_behaviours,
    draw_habits,
)
from sidrank.data._planted_requests import draw_requests, instance_part, signals

__all__ = ["PlantedSequences", "SequenceSettings", "SequenceShares", "plant_sequences"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_START = 1_767_571_200  # Monday 2026-01-05 in seconds
_WAIT_DAYS = 20  # between the change of topics and the first request
_REQUEST_DAYS = 20


@dataclass(frozen=True, slots=True)
class SequenceShares:
    """How much each part weighs in the variance of the logit; only their ratios count.

    Attributes:
        recent: Of the current interest.
        long: Of the interest of long ago.
        session: Of topics that share sessions.
        periodic: Of the quarter of the day.
        types: Of buys and views together.
        static: Of the segment and events together.
        instance: Of earlier impressions.
        context: Of slot and style.

    Raises:
        ValueError: If a share is negative or not finite, or none is positive.
    """

    recent: float = 1.0
    long: float = 1.0
    session: float = 1.0
    periodic: float = 1.0
    types: float = 1.0
    static: float = 1.0
    instance: float = 1.0
    context: float = 0.5

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{each.name} must be finite and at least 0, got {value}")
        if not self.total:
            raise ValueError("shares must have one above 0, got none")

    @property
    def total(self) -> float:
        """Sum of the shares."""
        return sum(getattr(self, each.name) for each in fields(self))

    def of(self, part: str) -> float:
        """Share of a part, of 1."""
        return getattr(self, part) / self.total


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """What to plant.

    Attributes:
        seed: Everything random follows from it.
        users: Users, ``U``.
        requests: Requests of each user.
        old_sessions: Fewest and most sessions of a user in the 40 days of the old topics; a
            session has five events on average.
        new_sessions: The same for the 20 days of the new topics before the first request, and
            again for the 20 days with requests, halved.
        spread: Standard deviation of the logit, σ.
        shares: Of the parts.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    users: int = 4_000
    requests: int = 40
    old_sessions: tuple[int, int] = (20, 60)
    new_sessions: tuple[int, int] = (40, 60)
    spread: float = 1.9
    shares: SequenceShares = field(default_factory=SequenceShares)

    def __post_init__(self) -> None:
        for name, lowest in {"seed": 0, "users": 2, "requests": 1}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name, most in {"old_sessions": 6 * SHIFT_DAYS, "new_sessions": 6 * _WAIT_DAYS}.items():
            low, high = getattr(self, name)
            if not 1 <= low <= high <= most:
                raise ValueError(f"{name} must rise inside 1 to {most}, got {(low, high)}")
        if not 0 < self.spread < float("inf"):
            raise ValueError(f"spread must be finite and above 0, got {self.spread}")


@dataclass(frozen=True, slots=True)
class PlantedSequences:
    """Events and requests with labels, their probabilities, and the parts behind them.

    A model may know all but ``probability``, ``parts`` and ``event_session``: of the events those
    strictly earlier than the request, of earlier requests everything, and their labels where
    ``label_time`` is strictly earlier.

    Attributes:
        settings: What was planted.
        event_user: Sorted, 0 to ``U - 1``, shape ``[E]``.
        event_time: Unix seconds, strictly increasing inside a user, shape ``[E]``.
        event_item: 0 to ``V - 1``, shape ``[E]``.
        event_type: 0 view, 1 click, 2 buy, shape ``[E]``.
        event_session: Number of the session, shape ``[E]``.
        user: Sorted, 0 to ``U - 1``, shape ``[R]``.
        time: Unix seconds, strictly increasing inside a user, shape ``[R]``.
        item: The candidate, shape ``[R]``.
        page: Topic of the page that it is shown on, shape ``[R]``.
        slot: Place on the page, 0 to 2, shape ``[R]``.
        style: How it is presented, 0 to 3, shape ``[R]``.
        label: 1 for a like, shape ``[R]``.
        label_time: When the label is known, Unix seconds, later than ``time``, shape ``[R]``.
        probability: Of the label being 1, shape ``[R]``.
        parts: The parts by name, as they are added to the logit, shape ``[R]`` each.
        item_topic: 0 to 11, shape ``[V]``.
        item_form: 0 to 7, shape ``[V]``.
        item_brand: 0 to 5, shape ``[V]``.
        user_fields: ``segment``, and ``age`` and ``gender``, which mean nothing; shape ``[U]``.
    """

    settings: SequenceSettings
    event_user: Ints
    event_time: Ints
    event_item: Ints
    event_type: Ints
    event_session: Ints
    user: Ints
    time: Ints
    item: Ints
    page: Ints
    slot: Ints
    style: Ints
    label: Ints
    label_time: Ints
    probability: Floats
    parts: Mapping[str, Floats]
    item_topic: Ints
    item_form: Ints
    item_brand: Ints
    user_fields: Mapping[str, Ints]


def plant_sequences(settings: SequenceSettings | None = None) -> PlantedSequences:
    """Draw a log; the same settings give the same bits on the same machine.

    Args:
        settings: What to plant; None is the default.

    Returns:
        The log.

    Example:
        >>> log = plant_sequences(SequenceSettings(users=10, requests=5))
        >>> len(log.label), sorted(log.parts)[:3], len(log.item_topic)
        (50, ['context', 'instance', 'long'], 576)
    """
    settings = SequenceSettings() if settings is None else settings
    who, does, asks, says, drawn, named = (
        np.random.default_rng(each) for each in np.random.SeedSequence(settings.seed).spawn(6)
    )
    low, high = settings.new_sessions
    habits = draw_habits(who, settings.users)
    events = draw_behaviours(
        does,
        habits,
        periods=(
            (SHIFT_DAYS, *settings.old_sessions),
            (_WAIT_DAYS, low, high),
            (_REQUEST_DAYS, (low + 1) // 2, (high + 1) // 2),
        ),
    )
    first = SHIFT_DAYS + _WAIT_DAYS
    asked = draw_requests(
        asks, habits, events, each=settings.requests, days=(first, first + _REQUEST_DAYS)
    )
    amplitude = {
        each.name: settings.spread * np.sqrt(settings.shares.of(each.name))
        for each in fields(settings.shares)
    }
    parts = {
        name: amplitude[name] * column
        for name, column in signals(says, habits, events, asked).items()
    }
    rest = np.sum(list(parts.values()), axis=0)
    uniform = drawn.random(len(rest))
    parts["instance"] = instance_part(asked, rest, uniform, amplitude["instance"])
    probability = 1 / (1 + np.exp(-(rest + parts["instance"])))

    kinds = named.permutation(TOPICS * FORMS * BRANDS)  # what each item is
    item_of = np.argsort(kinds)
    return PlantedSequences(
        settings=settings,
        event_user=events.user,
        event_time=_START + events.time,
        event_item=item_of[(events.topic * FORMS + events.form) * BRANDS + events.brand],
        event_type=events.kind,
        event_session=events.session,
        user=asked.user,
        time=_START + asked.time,
        item=item_of[(asked.topic * FORMS + asked.form) * BRANDS + asked.brand],
        page=asked.page,
        slot=asked.slot,
        style=asked.style,
        label=(uniform < probability).astype(np.int64),
        label_time=_START + asked.time + asked.label_delay,
        probability=probability,
        parts=parts,
        item_topic=kinds // (FORMS * BRANDS),
        item_form=kinds // BRANDS % FORMS,
        item_brand=kinds % BRANDS,
        user_fields={"segment": habits.segment, "age": habits.age, "gender": habits.gender},
    )
