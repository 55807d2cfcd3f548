"""Whether static tokens flatten the states of a sequence, read from a foreign model."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from sidrank.metrics.effective_rank import effective_rank
from sidrank.metrics.sequential_collapse import sequential_collapse

B, T, F, D = 200, 7, 2, 8  # rows, tokens, static ones in front, width
LAYERS = ["layers.0", "layers.1", "norm"]
ROLES = torch.tensor([0] * F + [1] * (T - F))
HIDDEN = torch.zeros(T, T, dtype=torch.bool)
HIDDEN[F:, :F] = True


def encoder():
    """As PyTorch makes it: in evaluation mode it would pack real tokens into a nested tensor."""
    layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.5, batch_first=True)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(D))


def padding():
    """Of each row the first three to five behaviours are real."""
    lengths = F + 3 + torch.arange(B) % 3
    return torch.arange(T).unsqueeze(0) >= lengths.unsqueeze(1)


def with_padding(roles, padded):
    return torch.where(padded, -1, roles)


def diagnose(model=None, batches=None, **given):
    settings = {
        "layers": LAYERS,
        "roles": ROLES,
        "role_names": ["static", "behaviour"],
        "present": lambda model, x: model(x),
        "masked": lambda model, x: model(x, mask=HIDDEN),
        "min_rows": 100,
    }
    model = encoder() if model is None else model
    batches = [torch.randn(B, T, D)] if batches is None else batches
    return sequential_collapse(model, batches, **settings | given)


def by_hand(model, x, where, **options):
    """Layer by layer, without hooks."""
    model = model.eval()
    ranks = []
    with torch.no_grad():
        for layer in model.layers:
            x = layer(x, **options)
            ranks.append([effective_rank(x[role]) for role in where])
        ranks.append([effective_rank(model.norm(x)[role]) for role in where])
    return np.array(ranks)


class TestForeignModel:
    def test_equals_a_run_by_hand(self):
        model, x = encoder(), torch.randn(B, T, D)
        report = diagnose(model, [x])
        where = [(role == ROLES).expand(B, T) for role in (0, 1)]
        np.testing.assert_allclose(report.present, by_hand(model, x, where), rtol=1e-6)
        masked = by_hand(model, x, where, src_mask=HIDDEN)
        np.testing.assert_allclose(report.masked, masked, rtol=1e-6)
        np.testing.assert_allclose(report.score, report.present / report.masked)
        assert report.rows.tolist() == report.masked_rows.tolist() == [[2 * B, 5 * B]] * 3
        # static tokens do not look at behaviours less when those do not look at them, at first
        assert report.score[0, 0] == pytest.approx(1.0)
        assert report.score[0, 1] != pytest.approx(1.0, abs=1e-4)

    def test_padding_is_not_read(self):
        model, x, padded = encoder(), torch.randn(B, T, D), padding()
        runs = {
            "present": lambda model, x: model(x, src_key_padding_mask=padded),
            "masked": lambda model, x: model(x, mask=HIDDEN, src_key_padding_mask=padded),
        }
        report = diagnose(model, [x], roles=with_padding(ROLES, padded), **runs)
        assert report.rows[0].tolist() == [2 * B, int((~padded).sum()) - 2 * B]
        spoilt = torch.where(padded.unsqueeze(2), 1e3, x)
        other = diagnose(model, [spoilt], roles=with_padding(ROLES, padded), **runs)
        np.testing.assert_allclose(other.present, report.present, rtol=1e-5)

    def test_batches_of_different_lengths(self):
        model, x = encoder(), torch.randn(B, T, D)
        whole = diagnose(model, [x])
        parts = diagnose(model, (part for part in x.split([90, 1, 109])))
        np.testing.assert_allclose(parts.present, whole.present, rtol=1e-5)
        np.testing.assert_allclose(parts.masked, whole.masked, rtol=1e-5)
        shorter = diagnose(
            model,
            [x, x[:, : T - 2]],
            roles=lambda layer, states, batch: ROLES[: states.shape[1]],
            masked=lambda model, x: model(x, mask=HIDDEN[: x.shape[1], : x.shape[1]]),
        )
        assert shorter.rows[0].tolist() == [4 * B, 8 * B]

    def test_static_tokens_left_out_instead(self):
        """Behaviours do not attend to them: leaving them out is hiding them."""
        model, x = encoder(), torch.randn(B, T, D)
        report = diagnose(
            model,
            [x],
            roles=lambda layer, states, batch: ROLES[-states.shape[1] :],
            masked=lambda model, x: model(x[:, F:]),
        )
        hidden = diagnose(model, [x])
        np.testing.assert_allclose(report.masked[:, 1], hidden.masked[:, 1], rtol=1e-5)
        assert np.isnan(report.masked[:, 0]).all()
        assert np.isnan(report.score[:, 0]).all()
        assert report.masked_rows.tolist() == [[0, 5 * B]] * 3

    def test_layer_that_answers_a_tuple(self):
        model = nn.ModuleDict({"attention": nn.MultiheadAttention(D, 2, batch_first=True)})
        report = diagnose(
            model,
            layers=["attention"],
            present=lambda model, x: model["attention"](x, x, x),
            masked=lambda model, x: model["attention"](x, x, x, attn_mask=HIDDEN),
        )
        assert report.present.shape == (1, 2)


class Pulled(nn.Module):
    """Each layer pulls every behaviour towards one direction, as far as its static token says."""

    def __init__(self, depth, pull):
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.pull = pull
        self.direction = torch.randn(D)

    def forward(self, x, static=True):
        x = x.clone()
        for layer in self.layers:
            if static:
                along = x[:, :1].mean(dim=2, keepdim=True) * self.direction
                x[:, F:] += self.pull * along
            x = layer(x)
        return x


class TestPlantedCollapse:
    def diagnose(self, pull):
        return diagnose(
            Pulled(4, pull),
            [torch.randn(1000, T, D)],
            layers=[f"layers.{depth}" for depth in range(4)],
            masked=lambda model, x: model(x, static=False),
        )

    def test_is_found_and_grows_with_depth(self):
        score = self.diagnose(2.0).score[:, 1]
        assert score[0] < 0.95
        assert (np.diff(score) < -0.02).all()

    def test_control_without_a_pull(self):
        np.testing.assert_allclose(self.diagnose(0.0).score, 1.0)

    def test_states_are_read_before_the_model_overwrites_them(self):
        """``x += ...`` in the next layer changes the tensor that the hook saw."""
        first = diagnose(
            Pulled(1, 2.0),
            [torch.randn(1000, T, D, generator=torch.Generator().manual_seed(5))],
            layers=["layers.0"],
            masked=lambda model, x: model(x, static=False),
        )
        assert first.score[0, 1] > 1.1 * self.diagnose(2.0).score[3, 1]


class TestModelStaysAsItWas:
    def test_mode_gradients_and_hooks(self):
        model = encoder().train()
        model.layers[1].eval()  # a frozen part
        model(torch.randn(2, T, D)).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        modes = [part.training for part in model.modules()]
        state = torch.get_rng_state()
        report = diagnose(model)
        torch.set_rng_state(state)
        again = diagnose(model)
        np.testing.assert_array_equal(report.present, again.present)  # no dropout
        assert [part.training for part in model.modules()] == modes
        assert all(
            torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True)
        )
        assert not any(part._forward_hooks for part in model.modules())
        assert torch.is_grad_enabled()
        assert torch.backends.mha.get_fastpath_enabled()

    def test_runs_without_gradients(self):
        seen = []

        def run(model, x):
            seen.append(torch.is_grad_enabled())
            model(x)

        diagnose(present=run, masked=run)
        assert seen == [False, False]

    @pytest.mark.parametrize("run", ["present", "masked", "roles"])
    def test_also_if_something_fails(self, run):
        def fail(*_):
            raise LookupError("the reason")

        model = encoder().train()
        with pytest.raises(LookupError, match="the reason"):
            diagnose(model, **{run: fail})
        assert all(part.training for part in model.modules())
        assert not any(part._forward_hooks for part in model.modules())
        assert torch.is_grad_enabled()


class TestReport:
    def test_table(self):
        report = diagnose()
        lines = str(report).splitlines()
        assert len(lines) == 1 + 3 * 2
        assert lines[0].split() == ["layer", "role", "rows", "present", "masked", "score"]
        words = lines[4].split()
        assert words[:3] == ["layers.1", "behaviour", str(5 * B)]
        assert float(words[5]) == pytest.approx(report.score[1, 1], abs=1e-4)
        assert len({len(line) for line in lines}) == 1

    def test_json(self):
        report = diagnose(
            roles=lambda layer, states, batch: ROLES[-states.shape[1] :],
            masked=lambda model, x: model(x[:, F:]),
        )
        read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
        assert list(read) == LAYERS
        assert read["norm"]["static"]["masked"] is None
        assert read["norm"]["static"]["score"] is None
        behaviour = read["norm"]["behaviour"]
        assert math.isclose(behaviour["score"], behaviour["present"] / behaviour["masked"])
        assert behaviour["rows"] == 5 * B


class TestErrors:
    def test_names(self):
        with pytest.raises(ValueError, match="layers must be names of modules in model, got 'x'"):
            diagnose(layers=["x"])
        with pytest.raises(ValueError, match="layers must be different names, at least one, got "):
            diagnose(layers=["norm", "norm"])
        with pytest.raises(TypeError, match="layers must be a sequence of names, got the string"):
            diagnose(layers="norm")
        with pytest.raises(ValueError, match="role_names must be different names, at least one"):
            diagnose(role_names=[])

    def test_too_few_tokens(self):
        with pytest.raises(
            ValueError, match=r"at least 4096 tokens of role 'static' in 'layers.0'"
        ):
            diagnose(min_rows=4096)
        with pytest.raises(ValueError, match="min_rows must be at least 2, got 1"):
            diagnose(min_rows=1)
        with pytest.raises(
            ValueError, match="batches must have at least one token that has a role"
        ):
            diagnose(batches=[])

    def test_layers_that_do_not_run_once(self):
        with pytest.raises(ValueError, match="layers must run once a batch, got 0 times 'norm'"):
            diagnose(present=lambda model, x: [layer(x) for layer in model.layers])
        with pytest.raises(
            ValueError, match=r"layers must run once a batch, got 2 times 'layers.0'"
        ):
            diagnose(masked=lambda model, x: model(model(x)))

    def test_answers(self):
        model = nn.ModuleDict({"part": nn.Flatten(0, 1), "lstm": nn.LSTM(D, D)})
        with pytest.raises(
            ValueError, match=r"states \[B, T, D\], got shape \[1400, 8\] from 'part'"
        ):
            diagnose(model, layers=["part"], present=lambda model, x: model["part"](x))
        nested = nn.ModuleDict({"part": nn.Identity()})
        with pytest.raises(ValueError, match=r"got a nested tensor from 'part'"):
            diagnose(
                nested,
                layers=["part"],
                present=lambda model, x: model["part"](torch.nested.nested_tensor(list(x))),
            )

        class Text(nn.Module):
            def forward(self, x):
                return "words"

        with pytest.raises(ValueError, match="layers must answer a tensor, got str from ''"):
            diagnose(Text(), layers=[""])

    def test_states_that_are_not_finite(self):
        x = torch.randn(B, T, D)
        x[3, 4, 5] = float("nan")
        with pytest.raises(ValueError, match=r"layers must answer finite states, .* 'layers.0'"):
            diagnose(batches=[x])

    def test_roles(self):
        with pytest.raises(
            ValueError, match=r"roles must have shape \[7\] or \[200, 7\] for 'layer"
        ):
            diagnose(roles=ROLES[1:])
        with pytest.raises(ValueError, match=r"roles must be integers, got torch.float32"):
            diagnose(roles=ROLES.float())
        with pytest.raises(ValueError, match="roles must be below 2, got 2"):
            diagnose(roles=ROLES + 1)
        with pytest.raises(
            ValueError, match="roles must give as many tokens in both runs, got 1000 and 800"
        ):
            diagnose(
                roles=lambda layer, states, batch: ROLES[: states.shape[1]],
                masked=lambda model, x: model(x[:, 1:]),
            )
