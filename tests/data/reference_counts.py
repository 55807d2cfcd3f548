"""Slow, obvious definition of counts as of a row: one event after the other."""


def counts_as_of(events, rows, *, window, delay=0, resolution=1):
    """Sums of the counts of each row's item; events (item, time, counts), rows (item, time)."""
    width = len(events[0][2]) if events else 0
    answers = []
    for item, now in rows:
        total = [0] * width
        for other, time, counts in events:
            last_moment = time // resolution * resolution + resolution - 1
            if other == item and now - delay - window <= last_moment < now - delay:
                total = [a + b for a, b in zip(total, counts, strict=True)]
        answers.append(total)
    return answers
