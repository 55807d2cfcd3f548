"""Instance stores and tokens by dictionaries and loops; nothing of ours."""

import math

MASK = 2**64 - 1


class Log:
    """What a store must answer."""

    def __init__(self, time_to_live=None):
        self.rows = {}
        self.time_to_live = time_to_live

    def put(self, rows):
        """rows: (user, instance, event time, label times, sides, vector). False if refused."""
        times = {key: row[0] for key, row in self.rows.items()}
        for user, instance, time, *_ in rows:
            if times.setdefault((user, instance), time) != time:
                return False
        for user, instance, *rest in rows:
            self.rows[user, instance] = rest
        return True

    def alive(self, time, now):
        return self.time_to_live is None or now < time + self.time_to_live

    def as_of(self, user, now, count):
        """(instance, event time, known sides, vector), oldest first."""
        found = [
            (time, instance, [s if at < now else -1 for s, at in zip(sides, known, strict=True)], v)
            for (owner, instance), (time, known, sides, v) in self.rows.items()
            if owner == user and time < now and self.alive(time, now)
        ]
        found.sort(key=lambda row: row[:2])
        return [(instance, time, sides, v) for time, instance, sides, v in found[-count:]]

    def forget(self, users):
        return self._drop([key for key in self.rows if key[0] in users])

    def expire(self, now):
        return self._drop([key for key, row in self.rows.items() if not self.alive(row[0], now)])

    def _drop(self, keys):
        for key in keys:
            del self.rows[key]
        return len(keys)


def instance_id(request, creative, time):
    state = 0
    for part in (request, creative, time):
        state = (state + part + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state - 2**64 if state >= 2**63 else state


def grouped(users, times, count=None):
    """Rows of each user in ascending order of users, oldest first, the newest `count`."""
    rows = {}
    for row in sorted(range(len(users)), key=lambda row: (times[row], row)):
        rows.setdefault(users[row], []).append(row)
    return [rows[user] if count is None else rows[user][-count:] for user in sorted(rows)]


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def affine(weight, bias, x):
    return [
        math.fsum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def instance_token(vector, sides, weight, tables):
    """[sigmoid(W z); sum of the rows of the sides]; row 0 of a table is for "not known"."""
    content = [sigmoid(x) for x in affine(weight, [0.0] * len(weight), vector)]
    rows = [table[side + 1] for table, side in zip(tables, sides, strict=True)]
    return content + [math.fsum(row[d] for row in rows) for d in range(len(content))]
