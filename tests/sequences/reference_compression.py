"""Definitions for learned tokens between segments: loops and lists, nothing of ours."""


def segment_mask(segments, learned):
    """M[i][j] = 1 iff j <= i and not (seg(j) < seg(i) and j is an item)."""
    mask = []
    for i in range(len(segments)):
        row = []
        for j in range(len(segments)):
            hidden = segments[j] < segments[i] and not learned[j]
            row.append(j <= i and not hidden)
        mask.append(row)
    return mask


def condensation_mask(num_inputs, num_tokens, num_targets):
    """Causal, but a target never sees an input."""
    roles = "i" * num_inputs + "t" * num_tokens + "y" * num_targets
    return [
        [j <= i and not (roles[i] == "y" and roles[j] == "i") for j in range(len(roles))]
        for i in range(len(roles))
    ]


def layout(real, insert):
    """The sequence of one row as ``(kind, number, segment)``, without padding.

    ``kind`` is "item" with its place in the row, or "token" with its number among all tokens.
    """
    places = [place for place, is_real in enumerate(real) if is_real]
    ends = [offset if offset > 0 else max(len(places) + offset, 0) for offset, _ in insert]
    out, first, token = [], 0, 0
    for segment, (end, (_, k)) in enumerate(zip(ends, insert, strict=True)):
        own = places[first:end]
        out += [("item", place, segment) for place in own]
        if own:  # a segment without behaviours has no tokens
            out += [("token", token + t, segment) for t in range(k)]
        first, token = max(first, end), token + k
    return out + [("item", place, len(insert)) for place in places[first:]]


def newest_not_after(snapshots, user, now):
    """The latest cut-off of a user's snapshots that is not after ``now``."""
    own = [until for name, until in snapshots if name == user]
    if not own:
        return None
    if min(own) > now:
        raise LookupError("all later")
    return max(until for until in own if until <= now)
