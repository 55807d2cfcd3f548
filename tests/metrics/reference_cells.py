"""What intervals of scores say of the AUC, pair of cells by pair of cells."""


def twice_wins(cells):
    """Fewest and most that the positives can win, doubled; cells (low, high, negatives, positives).

    A pair is worth 2 if the positive is higher, 1 if both are equal, 0 if it is lower.
    """
    fewest = most = 0
    for low, high, _, positives in cells:
        for other_low, other_high, negatives, _ in cells:
            worst = 2 if low > other_high else 1 if low == other_high else 0
            best = 2 if high > other_low else 1 if high == other_low else 0
            fewest += positives * negatives * worst
            most += positives * negatives * best
    return fewest, most
