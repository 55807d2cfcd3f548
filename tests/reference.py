"""Slow, obvious definitions that the library must equal: loops, dictionaries, nothing of ours."""

import itertools
import math


def pairwise_auc(labels, scores, weights=None):
    """Share of (positive, negative) pairs in the right order; a tie is half a pair."""
    weights = [1] * len(labels) if weights is None else weights
    won = total = 0.0
    for label_i, score_i, weight_i in zip(labels, scores, weights, strict=True):
        for label_j, score_j, weight_j in zip(labels, scores, weights, strict=True):
            if label_i == 1 and label_j == 0:
                pair = float(weight_i) * float(weight_j)
                total += pair
                won += pair * (1.0 if score_i > score_j else 0.5 if score_i == score_j else 0.0)
    return won / total


def pairwise_gauc(labels, scores, groups, weighting, single_class, weights=None):
    """AUC of each group one after the other, then their weighted mean (None: no group counts)."""
    weights = [1] * len(labels) if weights is None else weights
    rows_of = {}
    for row, group in enumerate(groups):
        if weights[row] > 0:
            rows_of.setdefault(group, []).append(row)
    total = mass = 0.0
    for rows in rows_of.values():
        positive_weight = sum(weights[row] for row in rows if labels[row] == 1)
        row_weight = sum(weights[row] for row in rows)
        group_mass = {"impressions": row_weight, "positives": positive_weight}.get(weighting, 1.0)
        if len({int(labels[row]) for row in rows}) == 2:
            value = pairwise_auc(
                [labels[row] for row in rows],
                [scores[row] for row in rows],
                [weights[row] for row in rows],
            )
        elif single_class == "half":
            value = 0.5
        else:
            continue
        total += value * group_mass
        mass += group_mass
    return total / mass if mass else None


def mean_log_loss(labels, probabilities):
    """Negative log likelihood of each row in nats, then the mean."""
    losses = []
    for label, probability in zip(labels, probabilities, strict=True):
        losses.append(-math.log(probability if label == 1 else 1.0 - probability))
    return math.fsum(losses) / len(losses)


def resampled_difference(runs, picked_users, picked_runs, measure):
    """Mean over the picked runs of treatment minus control on the picked users' rows, copied.

    ``runs`` are (users, labels, treatment, control) lists; a user picked twice brings its rows
    twice, as two users.
    """
    differences = []
    for run in picked_runs:
        users, labels, treatment, control = runs[run]
        copies, copy_labels, copy_treatment, copy_control = [], [], [], []
        for copy, picked in enumerate(picked_users):
            for row, user in enumerate(users):
                if user == picked:
                    copies.append(copy)
                    copy_labels.append(labels[row])
                    copy_treatment.append(treatment[row])
                    copy_control.append(control[row])
        if measure == "auc":
            if len(set(copy_labels)) < 2:
                continue
            gain = pairwise_auc(copy_labels, copy_treatment) - pairwise_auc(
                copy_labels, copy_control
            )
        else:
            first = pairwise_gauc(copy_labels, copy_treatment, copies, "impressions", "skip")
            if first is None:
                continue
            gain = first - pairwise_gauc(copy_labels, copy_control, copies, "impressions", "skip")
        differences.append(gain)
    return math.fsum(differences) / len(differences) if differences else None


def sid_features(sizes, groups, codes_of, bags, max_rows):
    """Table rows of each SID feature: for every group of levels a list of bags of rows.

    The codes of a group are the digits of one number; unknown items read row 0 and the others
    their number plus one. Groups whose numbers do not fit ``max_rows`` are left out: a hash has
    no definition to equal.
    """
    features = {}
    for group in groups:
        space = 1
        for level in group:
            space *= sizes[level]
        if space > max_rows:
            continue
        rows = []
        for bag in bags:
            row = []
            for item in bag:
                number = 0
                for level in group:
                    number = number * sizes[level] + (
                        codes_of[item][level] if item in codes_of else 0
                    )
                row.append(number + 1 if item in codes_of else 0)
            rows.append(row)
        features[group] = rows
    return features


def gated(hid, sids, own, mean, query, trust, convex):
    """SID-Coord's fusion of one bag: attention over resolutions, then the gate ``trust``.

    ``own`` is (weight rows, bias), ``mean`` weight rows and ``query`` one vector a resolution.
    """
    width = len(hid)
    average = [math.fsum(e[d] for e in sids) / len(sids) for d in range(width)]
    scores = []
    for e, w in zip(sids, query, strict=True):
        score = 0.0
        for unit in range(len(w)):
            inside = own[1][unit]
            for d in range(width):
                inside += own[0][unit][d] * e[d] + mean[unit][d] * average[d]
            score += w[unit] * math.tanh(inside)
        scores.append(score)
    total = math.fsum(math.exp(score) for score in scores)
    alpha = [math.exp(score) / total for score in scores]
    sid = [math.fsum(a * e[d] for a, e in zip(alpha, sids, strict=True)) for d in range(width)]
    if convex:
        return [trust * h + (1 - trust) * s for h, s in zip(hid, sid, strict=True)]
    return [h + (1 - trust) * s for h, s in zip(hid, sid, strict=True)]


def sid_quality(codes, sizes):
    """Collisions counted item by item, use of each level counted code by code."""
    owners = {}
    for row in codes:
        owners.setdefault(tuple(row), []).append(row)
    shared = sum(len(rows) for rows in owners.values() if len(rows) > 1)
    utilisation, perplexity = [], []
    for level, size in enumerate(sizes):
        counts = {}
        for row in codes:
            counts[row[level]] = counts.get(row[level], 0) + 1
        shares = [count / len(codes) for count in counts.values()]
        utilisation.append(len(counts) / size)
        perplexity.append(math.exp(-math.fsum(share * math.log(share) for share in shares)))
    return {
        "items_in_collision": shared / len(codes),
        "excess": 1 - len(owners) / len(codes),
        "uniqueness": len(owners) / len(codes),
        "largest_bucket": max(len(rows) for rows in owners.values()),
        "utilisation": utilisation,
        "perplexity": perplexity,
    }


def greedy_codes(vector, codebooks, single):
    """Residual quantisation of one vector: nearest centroid, lowest index on a tie, subtract.

    ``single`` rounds a number to float32, the precision of the residuals.
    """
    codes = []
    residual = list(vector)
    for codebook in codebooks:
        best, best_distance = None, math.inf
        for index, centroid in enumerate(codebook):
            distance = 0.0
            for a, b in zip(residual, centroid, strict=True):
                distance += (a - b) * (a - b)
            if distance < best_distance:
                best, best_distance = index, distance
        codes.append(best)
        residual = [single(a - b) for a, b in zip(residual, codebook[best], strict=True)]
    return codes


def totals_before(events, queries):
    """Sum of values of strictly earlier events with the same key; events (key, time, value)."""
    return [
        float(sum(value for key, time, value in events if key == at and time < now))
        for at, now in queries
    ]


def newest_before(events, queries, count):
    """Positions of the newest strictly earlier events of a key, newest first, then -1."""
    answers = []
    for at, now in queries:
        earlier = [(e[1], place) for place, e in enumerate(events) if e[0] == at and e[1] < now]
        newest = [place for _, place in sorted(earlier, reverse=True)][:count]
        answers.append(newest + [-1] * (count - len(newest)))
    return answers


def prefix_tree(items):
    """From each prefix to its next codes and its items; items maps an id to its codes."""
    tree = {(): (set(), [])}
    for item, codes in items.items():
        for length in range(len(codes) + 1):
            following, below = tree.setdefault(tuple(codes[:length]), (set(), []))
            below.append(item)
            if length < len(codes):
                following.add(codes[length])
    return tree


def gini(counts):
    """Mean absolute difference of two counts drawn with replacement, over twice their mean."""
    differences = [abs(a - b) for a in counts for b in counts]
    return sum(differences) / len(differences) / (2 * sum(counts) / len(counts))


def shared_neighbours(near, other, query, k):
    """Expected share of one list of neighbours in another, all ways to break ties alike.

    ``near`` and ``other`` are distances of two rows; a list is any k rows of which none is
    further than a row left out.
    """
    rows = range(len(near))
    lists = []
    for distances in (near, other):
        others = [row for row in rows if row != query]
        valid = [
            set(chosen)
            for chosen in itertools.combinations(others, k)
            if all(
                distances[query][row] <= distances[query][left]
                for row in chosen
                for left in set(others) - set(chosen)
            )
        ]
        lists.append(valid)
    shares = [len(a & b) / k for a in lists[0] for b in lists[1]]
    return sum(shares) / len(shares)


def jensen_shannon(first, second):
    """Divergence in bits of the values of two lists."""
    total = 0.0
    for code in {*first, *second}:
        p, q = first.count(code) / len(first), second.count(code) / len(second)
        for share in (p, q):
            if share > 0:
                total += share / 2 * math.log2(share / ((p + q) / 2))
    return total


def codes_as_of(events, item, time, time_to_live):
    """Codes of the newest event of an item at or before a time; events (item, time, codes)."""
    past = [(when, codes) for owner, when, codes in events if owner == item and when <= time]
    if not past:
        return None
    when, codes = max(past)
    return codes if time_to_live is None or time - when < time_to_live else None


def fsq_code(projected, medians, scales, bins):
    """Digits min(L - 1, floor(L * sigmoid(z))) of one row, read as one mixed-radix number."""
    code = 0
    for value, median, scale, size in zip(projected, medians, scales, bins, strict=True):
        share = 1 / (1 + math.exp(-(value - median) / scale))
        code = code * size + min(size - 1, math.floor(size * share))
    return code


def next_nearest(published, proposed, distances, capacity):
    """Last codes with room for each item, in the order (distance to the proposed code, id).

    ``published`` is a list of SIDs; ``proposed`` and ``distances`` have one entry per id.
    """
    held, placed, moving = {}, {}, []
    for sid in published:
        held[sid] = held.get(sid, 0) + 1
    for _, item in sorted((distances[item][sid[-1]], item) for item, sid in proposed.items()):
        sid = proposed[item]
        if held.get(sid, 0) < capacity:
            held[sid] = held.get(sid, 0) + 1
            placed[item] = sid
        else:
            moving.append(item)
    unresolved = []
    for item in moving:
        options = [
            (far, last)
            for last, far in enumerate(distances[item])
            if held.get((*proposed[item][:-1], last), 0) < capacity and far < math.inf
        ]
        placed[item] = (*proposed[item][:-1], min(options)[1]) if options else proposed[item]
        if options:
            held[placed[item]] = held.get(placed[item], 0) + 1
        else:
            unresolved.append(item)
    return placed, sorted(unresolved)


def cosine(a, b):
    """Cosine of two vectors; 0 if one of them is zero."""
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths > 0 else 0.0


def cohesion(vectors, weights, minus_between):
    """Mean cosine of two items within a code, averaged over codes; weights[item][code]."""
    items = range(len(vectors))
    inside = {}
    across = [0.0, 0.0]
    for i in items:
        for j in items:
            for code_i, weight_i in enumerate(weights[i]):
                for code_j, weight_j in enumerate(weights[j]):
                    if i == j or weight_i * weight_j == 0:
                        continue
                    into = inside.setdefault(code_i, [0.0, 0.0]) if code_i == code_j else across
                    into[0] += weight_i * weight_j * cosine(vectors[i], vectors[j])
                    into[1] += weight_i * weight_j
    if not inside or (minus_between and across[1] == 0):
        return math.nan
    within = sum(total / mass for total, mass in inside.values()) / len(inside)
    return within - across[0] / across[1] if minus_between else within


def discrimination(vectors, pairs):
    """Mean cosine of the pairs minus that of all pairs of different items."""
    items = range(len(vectors))
    together = [cosine(vectors[i], vectors[j]) for i, j in pairs]
    any_two = [cosine(vectors[i], vectors[j]) for i in items for j in items if i != j]
    return sum(together) / len(together) - sum(any_two) / len(any_two)
