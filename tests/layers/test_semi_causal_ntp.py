"""The auxiliary next-code loss: equal to its definition, silent on negatives, no leak."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidrank.layers.semi_causal_ntp import SemiCausalNTPHead, _semi_causal

SIZES = (5, 3, 4)


def head(seed=0, **options):
    torch.manual_seed(seed)
    return SemiCausalNTPHead(SIZES, dim=8, **{"num_layers": 2, "num_heads": 2, **options})


def batch(rows=6, tokens=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, tokens, 8, generator=random)
    mask = torch.rand(rows, tokens, generator=random) < 0.7
    codes = torch.stack([torch.randint(0, k, (rows,), generator=random) for k in SIZES], dim=1)
    labels = torch.tensor([1.0, 0.0] * rows)[:rows]
    return context, mask, codes, labels


def sees(query, key, tokens, real):
    """Whether position ``query`` sees position ``key``; start and codes stand behind."""
    if query == key:
        return True
    if key < tokens:
        return real[key]
    return query >= tokens and key < query


def norm(x, layer):
    mean = x.mean()
    scaled = (x - mean) / torch.sqrt(((x - mean) ** 2).mean() + layer.eps)
    return scaled * layer.weight + layer.bias


def definition(model, context, mask, codes, labels):
    """Row by row, position by position, head by head."""
    losses = []
    for tokens, real, row, label in zip(
        context, mask.tolist(), codes.tolist(), labels, strict=True
    ):
        if label <= 0 or any(not 0 <= c < k for c, k in zip(row, SIZES, strict=True)):
            continue
        length = len(tokens)
        x = [*tokens, model.start]
        x += [table.weight[code] for table, code in zip(model.codes, row, strict=False)]
        for block in model.blocks:
            parts = [block.query_key_value(norm(each, block.attention_norm)) for each in x]
            q, k, v = ([part[8 * i : 8 * i + 8] for part in parts] for i in range(3))
            after = []
            for i, own in enumerate(x):
                seen = [j for j in range(len(x)) if sees(i, j, length, real)]
                mixed = []
                for h in range(block.num_heads):
                    cut = slice(h * 8 // block.num_heads, (h + 1) * 8 // block.num_heads)
                    scale = math.sqrt(8 / block.num_heads)
                    weights = [math.exp(float(q[i][cut] @ k[j][cut]) / scale) for j in seen]
                    values = [w * v[j][cut] for w, j in zip(weights, seen, strict=True)]
                    mixed.append(sum(values) / sum(weights))
                after.append(own + block.mix(torch.cat(mixed)))
            x = [
                each + block.mlp[3](block.mlp[2](block.mlp[1](norm(each, block.mlp[0]))))
                for each in after
            ]
        for level, code in enumerate(row):
            logits = model.outputs[level](norm(x[length + level], model.norm))
            losses.append(-float(torch.log_softmax(logits, dim=0)[code]))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_equals_the_definition(heads):
    model = head(num_heads=heads)
    context, mask, codes, labels = batch()
    codes[2, 1] = -1
    with torch.no_grad():
        expected = definition(model, context, mask, codes, labels)
        assert model(context, mask, codes, labels).item() == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 5))
def test_mask_equals_brute_force(real, levels):
    length = len(real)
    (found,) = _semi_causal(torch.tensor([real]), levels).tolist()
    for query in range(length + levels):
        for key in range(length + levels):
            assert found[query][key] == sees(query, key, length, real)


def test_no_code_of_the_target_reaches_the_context():
    model = head(num_layers=4)
    context, mask, codes, _ = batch()
    states = model.states(context, mask, codes)
    others = (codes + 1) % torch.tensor(SIZES)
    changed = model.states(context, mask, others)
    assert torch.equal(states[:, :5], changed[:, :5])  # nor the start, which predicts the first
    assert not torch.equal(states[:, 5], changed[:, 5])
    last = torch.cat([codes[:, :-1], others[:, -1:]], dim=1)
    assert torch.equal(states, model.states(context, mask, last))  # the last code is never read
    # and so the gradient of anything that reads the context knows no code
    states[:, :4].sum().backward()
    assert all(table.weight.grad is None or not table.weight.grad.any() for table in model.codes)
    assert model.start.grad is None or not model.start.grad.any()


def test_a_code_is_predicted_from_those_before_it_alone():
    model, (context, mask, codes, _) = head(), batch()
    for level in range(3):
        others = codes.clone()
        others[:, level:] = (others[:, level:] + 1) % torch.tensor(SIZES[level:])
        one, other = model.states(context, mask, codes), model.states(context, mask, others)
        assert torch.equal(one[:, 4 : 5 + level], other[:, 4 : 5 + level])


def gradients(model, loss, context):
    found = torch.autograd.grad(loss, [context, *model.parameters()])
    return found[0], found[1:]


def test_negatives_and_unknown_targets_contribute_nothing():
    model, (context, mask, codes, _) = head(), batch()
    context.requires_grad_()
    labels = torch.tensor([1.0, 0.0, 1.0, -1.0, 1.0, 1.0])
    codes[2, 2], codes[4, 0] = -1, 5
    loss = model(context, mask, codes, labels)
    rows = torch.tensor([0, 5])
    alone = model(context[rows], mask[rows], codes[rows], labels[rows])
    torch.testing.assert_close(loss, alone)
    of_context, of_weights = gradients(model, loss, context)
    _, expected = gradients(model, alone, context)
    torch.testing.assert_close(of_weights, expected)
    silent = torch.tensor([1, 2, 3, 4])
    assert not of_context[silent].any()
    assert of_context[rows].abs().amax(dim=(1, 2)).min() > 0
    context.data[silent] += 1.0
    assert torch.equal(model(context, mask, codes, labels), loss)


@pytest.mark.parametrize("why", ["negative", "unknown"])
def test_without_a_positive_loss_and_gradients_are_zero(why):
    model, (context, mask, codes, _) = head(), batch()
    context.requires_grad_()
    labels = torch.full((6,), float(why == "unknown"))
    if why == "unknown":
        codes[:] = -1
    loss = model(context, mask, codes, labels)
    assert loss.item() == 0.0
    of_context, of_weights = gradients(model, loss, context)
    assert not of_context.any()
    assert all(torch.equal(each, torch.zeros_like(each)) for each in of_weights)


def test_a_weight_of_zero_gives_zero_gradients_and_any_other_does_not():
    model, (context, mask, codes, labels) = head(), batch()
    context.requires_grad_()
    of_context, of_weights = gradients(model, 0.0 * model(context, mask, codes, labels), context)
    assert not of_context.any()
    assert not any(each.any() for each in of_weights)
    of_context, of_weights = gradients(model, 0.1 * model(context, mask, codes, labels), context)
    assert of_context.any()
    assert all(each.any() for each in of_weights)


@pytest.mark.parametrize("junk", [0.0, 1e30, float("nan"), float("inf")])
def test_padding_is_not_seen(junk):
    model, (context, mask, codes, labels) = head(), batch()
    mask[0] = False  # a row without any context
    context.requires_grad_()
    expected = model(context, mask, codes, labels)
    dirty = torch.where(mask.unsqueeze(2), context, junk).detach().requires_grad_()
    loss = model(dirty, mask, codes, labels)
    assert torch.equal(loss, expected)
    of_context, _ = gradients(model, loss, dirty)
    assert torch.isfinite(of_context).all()
    assert not of_context[~mask].any()
    longer = torch.cat([context, torch.ones(6, 3, 8)], dim=1)
    more = torch.cat([mask, torch.zeros(6, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(model(longer, more, codes, labels), expected)


def test_order_of_the_context_does_not_matter():
    model, (context, mask, codes, labels) = head(), batch()
    order = torch.tensor([2, 0, 3, 1])
    permuted = model(context[:, order], mask[:, order], codes, labels)
    torch.testing.assert_close(permuted, model(context, mask, codes, labels))


def test_learns_codes_that_follow_from_the_context_and_from_each_other():
    model = head()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    random = torch.Generator().manual_seed(1)
    kinds = torch.randn(5, 2, 8, generator=random)
    for _ in range(80):
        first = torch.randint(0, 5, (64,), generator=random)
        second = torch.randint(0, 3, (64,), generator=random)
        codes = torch.stack([first, second, (first + second) % 4], dim=1)
        mask = torch.ones(64, 2, dtype=torch.bool)
        loss = model(kinds[first], mask, codes, torch.ones(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # only the second code is a guess
    assert loss.item() < 1.15 * math.log(3) / 3


def test_bfloat16_autocast():
    model, arguments = head(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*arguments)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(model(*arguments).item(), rel=0.05)


def test_meta_device_birth():
    with torch.device("meta"):
        model = head()
    assert model(*(each.to("meta") for each in batch())).is_meta
    model.to_empty(device="cpu")
    for part in model.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(torch.isfinite(value).all() for value in model.parameters())
    assert model.start.std() > 0.1
    model.load_state_dict(head().state_dict())
    assert torch.equal(model(*batch()), head()(*batch()))


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_heads": 3}, "num_heads must divide dim 8, got 3"),
            ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
            ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ],
    )
    def test_sizes(self, options, message):
        with pytest.raises(ValueError, match=message):
            head(**options)

    @pytest.mark.parametrize("sizes", [(), (4, 0)])
    def test_codebooks(self, sizes):
        with pytest.raises(ValueError, match="codebook_sizes must be at least 1 each, got"):
            SemiCausalNTPHead(sizes, dim=8)

    @pytest.mark.parametrize(
        ("which", "value", "message"),
        [
            (0, torch.zeros(6, 4, 7), r"context must have shape \[\*, \*, 8\], got \[6, 4, 7\]"),
            (1, torch.ones(6, 3).bool(), r"mask must have shape \[6, 4\], got \[6, 3\]"),
            (1, torch.ones(6, 4), r"mask must be bool, got torch\.float32"),
            (2, torch.zeros(6, 2).long(), r"codes must have shape \[6, 3\], got \[6, 2\]"),
            (2, torch.zeros(6, 3), r"codes must be int32 or int64, got torch\.float32"),
            (3, torch.zeros(1), r"labels must have shape \[6\], got \[1\]"),
        ],
    )
    def test_arguments(self, which, value, message):
        arguments = list(batch())
        arguments[which] = value
        with pytest.raises(ValueError, match=message):
            head()(*arguments)
