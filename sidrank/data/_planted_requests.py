"""Requests of a planted sequence log: what is shown to whom and when, and what moves the logit.

Source: none [derived].

Shapes: ``U`` users, ``N`` requests of a user, ``R = U · N`` requests, ``E`` events, ``K`` topics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidrank.data._planted_behaviours import (
    BRANDS,
    CELLS,
    FORMS,
    OWN_BRANDS,
    POOL,
    SECONDS,
    TOPICS,
    Behaviours,
    Habits,
    day_cell,
)

__all__ = ["SLOTS", "STYLES", "Requests", "draw_requests", "instance_part", "signals"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SLOTS, STYLES = 3, 4
RECENT = 8  # events that count as the current interest
_CLASSES = (0.5, 0.2, 0.3)  # candidates of today's topics, of the old ones, of others
_NEIGHBOUR = 0.8  # of the pages shown with one of today's topics
_FORM_MIX = (0.3, 0.2, 0.2, 0.15)  # form: of now, of another time, of the bought brand, another's
_SLOT_SAYS = np.array([1.0, 0.5, -1.0])  # what a like in each place says of the style
_REMEMBERED = 6
_DELAY, _LEAST_DELAY = 12 * 3600.0, 60


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests by user, then time; each column has shape ``[R]``.

    Attributes:
        user: Who.
        time: Seconds, strictly increasing inside a user.
        topic: Of the candidate.
        form: Of the candidate.
        brand: Of the candidate.
        page: Topic of the page that the candidate is shown on.
        slot: Place on the page.
        style: How the candidate is presented.
        label_delay: Seconds until the label is known.
        seen: Place, among the events, of the first one not strictly earlier.
    """

    user: Ints
    time: Ints
    topic: Ints
    form: Ints
    brand: Ints
    page: Ints
    slot: Ints
    style: Ints
    label_delay: Ints
    seen: Ints


def draw_requests(
    draws: np.random.Generator,
    habits: Habits,
    behaviours: Behaviours,
    *,
    each: int,
    days: tuple[int, int],
) -> Requests:
    """Draw requests, with candidates that the parts of the logit have something to say of.

    Args:
        draws: Where chance comes from.
        habits: The users.
        behaviours: Their events.
        each: Requests of a user, ``N``.
        days: First day with requests, and the day after the last one.

    Returns:
        The requests.
    """
    users = len(habits.segment)
    user = np.repeat(np.arange(users), each)
    rows = len(user)
    time = np.sort(draws.integers(days[0] * SECONDS, days[1] * SECONDS, (users, each)), axis=1)
    time = (time + np.arange(each)).ravel()  # strictly increasing
    end = np.int64(2 * days[1] * SECONDS)
    seen = np.searchsorted(behaviours.user * end + behaviours.time, user * end + time)

    topic = _draw_topics(draws, habits, user)
    place, today = _place(habits.new_topics[user], topic)
    side = np.where(draws.random(rows) < 0.5, 1, -1)
    neighbour = habits.new_topics[user, (place + side) % POOL]
    page = np.where(
        today & (draws.random(rows) < _NEIGHBOUR), neighbour, draws.integers(0, TOPICS, rows)
    )
    bought = last_bought(behaviours, user, seen)
    cell = day_cell(time)
    other_cell = (cell + draws.integers(1, CELLS, rows)) % CELLS
    other_brand = (bought + draws.integers(1, OWN_BRANDS, rows)) % OWN_BRANDS
    which = np.searchsorted(np.cumsum(_FORM_MIX), draws.random(rows), side="right")
    form = np.choose(
        which,
        [
            habits.cell_form[user, cell],
            habits.cell_form[user, other_cell],
            habits.brand_form[user, bought],
            habits.brand_form[user, other_brand],
            draws.integers(0, FORMS, rows),
        ],
    )
    return Requests(
        user=user,
        time=time,
        topic=topic,
        form=form,
        brand=draws.integers(0, BRANDS, rows),
        page=page,
        slot=draws.integers(0, SLOTS, rows),
        style=draws.integers(0, STYLES, rows),
        label_delay=_LEAST_DELAY + draws.exponential(_DELAY, rows).astype(np.int64),
        seen=seen,
    )


def signals(
    draws: np.random.Generator, habits: Habits, behaviours: Behaviours, asked: Requests
) -> Mapping[str, Floats]:
    """What each part but ``instance`` says of each request: mean 0, variance 1, uncorrelated.

    What little the raw signals share is taken out evenly: of all ways to make them uncorrelated
    the one that changes them least (Löwdin).

    Args:
        draws: Where chance comes from.
        habits: The users.
        behaviours: Their events.
        asked: The requests.

    Returns:
        A column of shape ``[R]`` for each part.
    """
    user, topic = asked.user, asked.topic
    place, today = _place(habits.new_topics[user], topic)
    _, old = _place(habits.old_topics[user], topic)
    newest = asked.seen[:, None] - 1 - np.arange(RECENT)
    at = np.maximum(newest, 0)
    recent = (behaviours.user[at] == user[:, None]) & (behaviours.topic[at] == topic[:, None])
    recent = (recent & (newest >= 0)).any(axis=1)

    step = habits.new_topics[user, (place + 1) % POOL]
    back = habits.new_topics[user, (place - 1) % POOL]
    forward = (place - habits.parity[user]) % 2 == 0  # the session goes on to the next topic
    partner, stranger = np.where(forward, step, back), np.where(forward, back, step)
    together = (asked.page == partner).astype(float) - (asked.page == stranger)

    cell, form = day_cell(asked.time), asked.form
    cell_place, habitual = _place(habits.cell_form[user], form)
    bought = last_bought(behaviours, user, asked.seen)
    brand_place, viewed = _place(habits.brand_form[user], form)
    _, fits = _place(habits.new_topics[user], habits.partner[habits.segment[user], topic])
    shown = draws.normal(size=(SLOTS, STYLES))
    raw = {
        "recent": np.where(recent, 1.0, np.where(today, -1.0, 0.0)),
        "long": np.where(today, 0.0, np.where(old, 1.0, -_CLASSES[1] / _CLASSES[2])),
        "session": np.where(today, together, 0.0),
        "periodic": np.where(habitual, np.where(cell_place == cell, 1.0, -1.0), 0.0),
        "types": np.where(viewed, np.where(brand_place == bought, 1.0, -1.0), 0.0),
        "static": fits.astype(float),
        "context": shown[asked.slot, asked.style],
    }
    columns = np.stack(list(raw.values()), axis=1)
    columns -= columns.mean(axis=0)
    columns /= np.maximum(columns.std(axis=0), 1e-9)
    values, vectors = np.linalg.eigh(columns.T @ columns / len(columns))
    columns = columns @ (vectors / np.sqrt(np.maximum(values, 1e-9)) @ vectors.T)
    return dict(zip(raw, columns.T, strict=True))


def instance_part(asked: Requests, rest: Floats, uniform: Floats, amplitude: float) -> Floats:
    """What the user's known earlier impressions of the same style say, times ``amplitude``.

    It depends on earlier labels, and they on it: drawn request by request, all users at once.

    Args:
        asked: The requests.
        rest: Logit without this part, shape ``[R]``.
        uniform: A request is liked where this is below its probability, shape ``[R]``.
        amplitude: Standard deviation wanted.

    Returns:
        The part, shape ``[R]``.
    """
    shape = (int(asked.user[-1]) + 1, -1)
    says = _SLOT_SAYS[asked.slot].reshape(shape)
    known = _known(asked, shape)
    base, chance = rest.reshape(shape), uniform.reshape(shape)
    scale = amplitude / np.sqrt(_REMEMBERED * np.mean(_SLOT_SAYS**2))
    part = np.zeros_like(base)
    for _ in range(2):  # the first draw measures the scale
        part = _walk(known, says, base, chance, scale)
        spread = float(part.std())
        scale *= amplitude / spread if spread > 0 else 1.0
    return part.ravel()


def _known(asked: Requests, shape: tuple[int, int]) -> list[Bools]:
    """For each request which of the earlier ones count: the newest known ones of its style."""
    time, style = asked.time.reshape(shape), asked.style.reshape(shape)
    told = (asked.time + asked.label_delay).reshape(shape)
    found: list[Bools] = []
    for now in range(time.shape[1]):
        counts = (told[:, :now] < time[:, [now]]) & (style[:, :now] == style[:, [now]])
        rank = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        found.append(counts & (rank <= _REMEMBERED))
    return found


def _walk(known: list[Bools], says: Floats, base: Floats, chance: Floats, scale: float) -> Floats:
    part, liked = np.zeros_like(base), np.zeros_like(base)
    for now, counts in enumerate(known):
        part[:, now] = scale * (counts * says[:, :now] * liked[:, :now]).sum(axis=1)
        probability = 1 / (1 + np.exp(-(base[:, now] + part[:, now])))
        liked[:, now] = np.where(chance[:, now] < probability, 1.0, -1.0)
    return part


def last_bought(behaviours: Behaviours, user: Ints, seen: Ints) -> Ints:
    """Which of the user's own brands the last buy before each request was of; 0 without one."""
    buys = np.flatnonzero(behaviours.kind == 2)
    if not len(buys):
        return np.zeros(len(user), np.int64)
    last = np.searchsorted(buys, seen) - 1
    at = buys[np.maximum(last, 0)]
    return np.where((last >= 0) & (behaviours.user[at] == user), behaviours.brand_place[at], 0)


def _draw_topics(draws: np.random.Generator, habits: Habits, user: Ints) -> Ints:
    """Classes by their shares, and inside each as many partners of today's topics as others."""
    users, every = len(habits.segment), np.arange(TOPICS)
    fits = np.zeros((users, TOPICS), np.bool_)
    kind = np.full((users, TOPICS), 2)
    for which, pool in enumerate((habits.new_topics, habits.old_topics)):
        np.put_along_axis(kind, pool, which, axis=1)
    partners = habits.partner[habits.segment]
    fits = np.take_along_axis(kind, partners, axis=1) == 0
    weight = np.zeros((users, TOPICS))
    for which, share in enumerate(_CLASSES):
        for good in (False, True):
            members = (kind == which) & (fits == good)
            weight += 0.5 * share * members / np.maximum(members.sum(axis=1, keepdims=True), 1)
    steps = np.cumsum(weight, axis=1)
    steps /= steps[:, -1:]
    drawn = (steps[user] <= draws.random(len(user))[:, None]).sum(axis=1)
    return every[np.minimum(drawn, TOPICS - 1)]


def _place(pool: Ints, value: Ints) -> tuple[Ints, Bools]:
    """Place of each value in its row of the pool (0 if nowhere), and whether it is there."""
    found = pool == value[:, None]
    return found.argmax(axis=1), found.any(axis=1)
