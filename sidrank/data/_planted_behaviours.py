"""Users and their behaviours of a planted sequence log: who has which habits, and the events.

Everything is drawn for all users at once. Source: none [derived].

Shapes: ``U`` users, ``S`` sessions, ``E`` events, ``K`` topics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BRANDS",
    "CELLS",
    "CLICK",
    "FORMS",
    "OWN_BRANDS",
    "POOL",
    "SECONDS",
    "SEGMENTS",
    "SHIFT_DAYS",
    "TOPICS",
    "Behaviours",
    "Habits",
    "day_cell",
    "draw_behaviours",
    "draw_habits",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TOPICS, FORMS, BRANDS, SEGMENTS = 12, 8, 6, 3
POOL = 4  # topics that a user cares for at a time
OWN_BRANDS = 3
CELLS = 4  # quarters of the day
SECONDS = 86_400
SHIFT_DAYS = 40  # until then a user reads of the old topics, after it of the new ones
_SLOTS = 6  # of a day; a session starts in the first part of one and ends long before the next
_SLOT = SECONDS // _SLOTS
_START_WITHIN = 5_400
_BLOCK = 4  # most events of a topic in a session
_GAP, _LEAST_GAP, _MOST_GAP = 60.0, 5, 600
_STRAY, _FAITHFUL = 0.1, 0.85
VIEW, CLICK, BUY = 0, 1, 2
_TYPES = (0.6, 0.3, 0.1)


@dataclass(frozen=True, slots=True)
class Habits:
    """What the users are like.

    Attributes:
        segment: A field of few values that decides which topics go together, shape ``[U]``.
        age: A field without meaning, shape ``[U]``.
        gender: A field without meaning, shape ``[U]``.
        new_topics: Topics of today in the order of the user's round, shape ``[U, 4]``.
        old_topics: Topics of long ago, other ones, in the order of the round, shape ``[U, 4]``.
        parity: Whether sessions start at the even or the odd places of the round, shape ``[U]``.
        brands: The three brands of each user, shape ``[U, 3]``.
        brand_form: Form that the user views each of them in, shape ``[U, 3]``.
        cell_form: Form that the user clicks in each quarter of the day, shape ``[U, 4]``.
        partner: Topic that goes with each topic in each segment, shape ``[SEGMENTS, K]``.
    """

    segment: Ints
    age: Ints
    gender: Ints
    new_topics: Ints
    old_topics: Ints
    parity: Ints
    brands: Ints
    brand_form: Ints
    cell_form: Ints
    partner: Ints


@dataclass(frozen=True, slots=True)
class Behaviours:
    """Events by user, then time.

    Attributes:
        user: Shape ``[E]``, sorted.
        time: Seconds, strictly increasing inside a user, shape ``[E]``.
        session: Which session of all users' each event is of, shape ``[E]``.
        kind: 0 view, 1 click, 2 buy, shape ``[E]``.
        topic: Of the item, shape ``[E]``.
        form: Of the item, shape ``[E]``.
        brand: Of the item, shape ``[E]``.
        brand_place: Which of the user's own brands it is, shape ``[E]``.
    """

    user: Ints
    time: Ints
    session: Ints
    kind: Ints
    topic: Ints
    form: Ints
    brand: Ints
    brand_place: Ints


def day_cell(time: Ints) -> Ints:
    """Quarter of the day, 0 to 3."""
    return time % SECONDS // (SECONDS // CELLS)


def draw_habits(draws: np.random.Generator, users: int) -> Habits:
    """Draw users.

    Args:
        draws: Where chance comes from.
        users: How many, ``U``.

    Returns:
        Their habits.
    """
    topics = _orders(draws, users, TOPICS)
    partner = np.empty((SEGMENTS, TOPICS), np.int64)
    for segment in range(SEGMENTS):  # one round through all topics: none is its own partner
        round_trip = draws.permutation(TOPICS)
        partner[segment, round_trip] = np.roll(round_trip, -1)
    return Habits(
        segment=draws.integers(0, SEGMENTS, users),
        age=draws.integers(0, 6, users),
        gender=draws.integers(0, 2, users),
        new_topics=topics[:, :POOL],
        old_topics=topics[:, POOL : 2 * POOL],
        parity=draws.integers(0, 2, users),
        brands=_orders(draws, users, BRANDS)[:, :OWN_BRANDS],
        brand_form=_orders(draws, users, FORMS)[:, :OWN_BRANDS],
        cell_form=_orders(draws, users, FORMS)[:, :CELLS],
        partner=partner,
    )


def draw_behaviours(
    draws: np.random.Generator, habits: Habits, *, periods: tuple[tuple[int, int, int], ...]
) -> Behaviours:
    """Draw what the users do.

    A session is two neighbouring topics of the user's round, one after the other, and the next
    session goes on where it ended: in the order of events every two neighbours look alike, and
    only the gaps tell which two topics share a session.

    Args:
        draws: Where chance comes from.
        habits: The users.
        periods: Days, fewest and most sessions of a user in them, one period after another.

    Returns:
        The events.
    """
    users = len(habits.segment)
    taken: list[NDArray[np.bool_]] = []
    for days, fewest, most in periods:
        order = _orders(draws, users, days * _SLOTS)
        taken.append(order < draws.integers(fewest, most + 1, (users, 1)))
    user, slot = np.nonzero(np.concatenate(taken, axis=1))
    start = slot * _SLOT + draws.integers(0, _START_WITHIN, len(slot))
    place = _place_in_group(2 * user + (start >= SHIFT_DAYS * SECONDS))

    first = draws.integers(1, _BLOCK + 1, len(user))
    length = first + draws.integers(1, _BLOCK + 1, len(user))
    session = np.repeat(np.arange(len(user)), length)
    inside = _place_in_group(session)
    gap = np.clip(draws.exponential(_GAP, len(session)), _LEAST_GAP, _MOST_GAP).astype(np.int64)
    passed = np.cumsum(gap)
    time = start[session] + passed - passed[session_starts(length)][session]

    owner = user[session]
    stop = (2 * place[session] + habits.parity[owner] + (inside >= first[session])) % POOL
    old = start[session] < SHIFT_DAYS * SECONDS
    topic = np.where(old, habits.old_topics[owner, stop], habits.new_topics[owner, stop])
    stray = draws.random(len(topic)) < _STRAY
    topic = np.where(stray, draws.integers(0, TOPICS, len(topic)), topic)

    kind = np.searchsorted(np.cumsum(_TYPES)[:-1], draws.random(len(topic)), side="right")
    epoch = time // (10 * SECONDS)
    current = draws.integers(0, OWN_BRANDS, (users, int(epoch.max()) + 1))
    brand = draws.integers(0, OWN_BRANDS, len(topic))
    brand = np.where(kind == BUY, current[owner, epoch], brand)
    habit = np.where(
        kind == VIEW, habits.brand_form[owner, brand], habits.cell_form[owner, day_cell(time)]
    )
    faithful = (kind != BUY) & (draws.random(len(topic)) < _FAITHFUL)
    form = np.where(faithful, habit, draws.integers(0, FORMS, len(topic)))
    return Behaviours(
        user=owner,
        time=time,
        session=session,
        kind=kind,
        topic=topic,
        form=form,
        brand=habits.brands[owner, brand],
        brand_place=brand,
    )


def session_starts(length: Ints) -> Ints:
    """Place of the first event of each session."""
    return np.cumsum(length) - length


def _place_in_group(group: Ints) -> Ints:
    """Number of each entry inside its run of equal sorted values, from 0."""
    fresh = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(fresh, np.diff(fresh, append=len(group)))


def _orders(draws: np.random.Generator, rows: int, size: int) -> Ints:
    """A random order of ``size`` things for each row, shape ``[rows, size]``."""
    return np.argsort(draws.random((rows, size)), axis=1)
