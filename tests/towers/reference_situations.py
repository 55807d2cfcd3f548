"""The situation tower in evaluation, by loops over lists; nothing of ours.

``w`` holds its weights by their names in the checkpoint, as lists.
"""

import math


def dot(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def linear(weight, x, bias=None):
    found = [dot(row, x) for row in weight]
    return found if bias is None else add(found, bias)


def add(one, other):
    return [a + b for a, b in zip(one, other, strict=True)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def rms_norm(x, weight):
    size = math.sqrt(math.fsum(v * v for v in x) / len(x) + 1e-5)
    return [v / size * g for v, g in zip(x, weight, strict=True)]


def softmax(scores):
    top = max(scores)
    parts = [math.exp(s - top) for s in scores]
    return [p / math.fsum(parts) for p in parts]


def mixed(shares, vectors, width):
    return [math.fsum(s * v[d] for s, v in zip(shares, vectors, strict=True)) for d in range(width)]


def attention(w, name, queries, keys):
    """One head; the three projections are stored one after the other."""
    width = len(queries[0])
    stacked = w[f"{name}.query_key_value.weight"]
    project = [stacked[part * width : (part + 1) * width] for part in range(3)]
    ks = [linear(project[1], key) for key in keys]
    vs = [linear(project[2], key) for key in keys]
    found = []
    for query in queries:
        q = linear(project[0], query)
        shares = softmax([dot(q, k) / math.sqrt(width) for k in ks])
        found.append(linear(w[f"{name}.out.weight"], mixed(shares, vs, width)))
    return found


def keep_logit(w, behaviour, target, situation):
    product = [a * b for a, b in zip(behaviour, target, strict=True)]
    given = [*behaviour, *target, *product, *situation]
    hidden = linear(w["denoise.hidden.weight"], given, w["denoise.hidden.bias"])
    hidden = [h * sigmoid(h) for h in hidden]
    return dot(w["denoise.out.weight"][0], hidden) + w["denoise.bias"]


def parameterized(w, fields, kind):
    """(I + U V') e, with the columns of U and of V as rows."""
    found = []
    for e in fields:
        changed = list(e)
        for u, v in zip(w["parameterize.u"][kind], w["parameterize.v"][kind], strict=True):
            changed = add(changed, [dot(v, e) * lane for lane in u])
        found.append(changed)
    return found


def correlated(w, behaviours, request):
    """behaviours[i][f] is a vector."""
    scale, dim = w["correlate.norm.weight"], len(request[0])
    x = [[rms_norm(e, scale) for e in fields] for fields in behaviours]
    asked = [rms_norm(e, scale) for e in request]
    first = [attention(w, "correlate.fields", fields, fields) for fields in x]
    columns = [[fields[f] for fields in x] for f in range(len(x[0]))]
    second = [attention(w, "correlate.behaviours", column, column) for column in columns]
    found = []
    for i, fields in enumerate(x):
        third = attention(w, "correlate.request", fields, asked)
        row = []
        for f, e in enumerate(fields):
            gates = linear(w["correlate.gates.weight"], e, w["correlate.gates.bias"])
            read = (first[i][f], second[f][i], third[f])
            row.append(
                [
                    behaviours[i][f][d]
                    + math.fsum(sigmoid(gates[way * dim + d]) * read[way][d] for way in range(3))
                    for d in range(dim)
                ]
            )
        found.append(row)
    return found


def aggregated(w, query, keys, types, kept, num_types):
    """One head."""
    every = linear(w["aggregate.query.weight"], query, w["aggregate.query.bias"])
    width, found = len(every) // num_types, []
    for kind in range(num_types):
        q = rms_norm(every[kind * width : (kind + 1) * width], w["aggregate.query_norm.weight"])
        parts, values = [], []
        for key, own, keep in zip(keys, types, kept, strict=True):
            if own == kind:
                k = linear(w["aggregate.key.weight"], key, w["aggregate.key.bias"])
                k = rms_norm(k, w["aggregate.key_norm.weight"])
                parts.append(keep * math.exp(dot(q, k) / math.sqrt(width)))
                values.append(linear(w["aggregate.value.weight"], key, w["aggregate.value.bias"]))
        total = 1 + math.fsum(parts)
        found += mixed([part / total for part in parts], values, width)
    return found


def tower(w, target, history, situation, request, types, num_types):
    """One candidate of one row, given only what it may know; its answer and its keep weights."""
    fields = [parameterized(w, e, kind) for e, kind in zip(situation, types, strict=True)]
    flat = [[v for e in each for v in e] for each in fields]
    kept = [
        1.0 if keep_logit(w, e, target, s) > 0 else 0.0 for e, s in zip(history, flat, strict=True)
    ]
    explained = correlated(w, fields, request) if history else []
    keys = [
        e + [v for field in each for v in field] for e, each in zip(history, explained, strict=True)
    ]
    query = target + [v for e in request for v in e]
    return aggregated(w, query, keys, types, kept, num_types), kept
