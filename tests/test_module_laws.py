"""What every public module must obey; tests/laws says which modules there are."""

import importlib
import io
import pickle

import pytest
import torch
from torch.utils import _pytree

from tests.laws import CASES


def born(case, seed=0):
    torch.manual_seed(seed)
    return case.build()


def alive(case):
    """Away from birth, where a part that is zero would not be missed."""
    module = born(case)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def given(case, rows=4, seed=1):
    torch.manual_seed(seed)
    return case.inputs(rows)


def answers(module, inputs):
    outputs = module(**_with_lists(inputs))
    return [leaf for leaf in _pytree.tree_leaves(outputs) if torch.is_tensor(leaf)]


def equal(one, other, **tolerance):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, **tolerance)


def gradients(module, outputs):
    parameters = list(module.parameters())
    totals = [answer.sum() for answer in outputs if answer.requires_grad]
    return torch.autograd.grad(totals, parameters) if parameters else ()


def traced(module):
    graph = torch.fx.symbolic_trace(module)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def pickled(module):
    return pickle.loads(pickle.dumps(module))


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
masked_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.masks], ids=lambda case: case.__name__
)


@pytest.mark.parametrize("room", ["layers", "losses", "sequences", "towers"])
def test_every_public_module_is_here(room):
    rooms = importlib.import_module(f"sidrank.{room}")
    public = {getattr(rooms, name) for name in rooms.__all__}
    modules = {x for x in public if isinstance(x, type) and issubclass(x, torch.nn.Module)}
    assert modules - {type(case.build()) for case in CASES} == set()


@each_case
class TestItIsAModule:
    @pytest.mark.parametrize("way", [traced, pickled], ids=lambda way: way.__name__)
    def test_same_answer_at_any_number_of_rows(self, case, way):
        module = alive(case)
        other = way(module)
        for rows in (4, 7):
            inputs = given(case, rows, seed=rows)
            equal(answers(other, inputs), answers(module, inputs))

    def test_compiled_answers_and_gradients(self, case):
        module = alive(case)
        torch._dynamo.reset()
        other = torch.compile(module, fullgraph=True, backend="aot_eager")
        for rows in (4, 7):
            runs = []
            for each in (module, other):
                inputs = given(case, rows, seed=rows)
                for tensor in inputs.values():  # one compilation serves both numbers of rows
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
                outputs = answers(each, inputs)
                runs.append([*outputs, *gradients(each, outputs)])
            equal(*runs)

    def test_close_under_bf16_autocast(self, case):
        module, inputs = alive(case), given(case)
        exact = answers(module, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = answers(module, inputs)
        for one, other in zip(exact, rounded, strict=True):
            if one.is_floating_point():
                scale = one.abs().max().item() + 1.0
                torch.testing.assert_close(other.float(), one, atol=0.03 * scale, rtol=0.0)
            else:
                assert torch.equal(one, other)

    def test_names_in_the_checkpoint(self, case):
        assert sorted(born(case).state_dict()) == sorted(case.state.split())

    def test_checkpoint_round_trip(self, case):
        module, inputs, buffer = alive(case), given(case), io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        other = born(case, seed=99)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        equal(answers(other, inputs), answers(module, inputs), rtol=0.0, atol=0.0)

    def test_born_on_meta_then_loaded(self, case):
        with torch.device("meta"):
            module = case.build()
        module.to_empty(device="cpu")
        reference = alive(case)
        module.load_state_dict(reference.state_dict())
        equal(answers(module, given(case)), answers(reference, given(case)))

    @pytest.mark.parametrize("parents_first", [False, True])
    def test_born_on_meta_then_reset(self, case, parents_first):
        with torch.device("meta"):
            module = case.build()
        module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
        parts = list(module.modules())
        for part in parts if parents_first else parts[::-1]:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        assert all(parameter.isfinite().all() for parameter in module.parameters())
        for name, buffer in born(case).named_buffers():
            assert torch.equal(module.get_buffer(name), buffer)
        first, second = born(case, seed=0), born(case, seed=1)
        for name, parameter in first.named_parameters():
            if torch.equal(parameter, second.get_parameter(name)):  # exact at birth, so again
                assert torch.equal(module.get_parameter(name), parameter)

    def test_every_parameter_has_moved_after_three_steps(self, case):
        module = born(case)
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        if not before:
            return
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            outputs = [a for a in answers(module, given(case, 8, step)) if a.requires_grad]
            sum((a * torch.randn_like(a)).sum() for a in outputs).backward()
            optimizer.step()
        still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
        assert still == []

    def test_rows_do_not_see_each_other(self, case):
        if not case.rows:
            return
        module, inputs = alive(case), given(case)
        together = answers(module, inputs)
        for row in range(4):
            alone = answers(module, {name: x[row : row + 1] for name, x in inputs.items()})
            equal(alone, [a[row : row + 1] for a in together])

    def test_no_rows(self, case):
        if not case.rows:
            return
        for answer in answers(born(case), {name: x[:0] for name, x in given(case).items()}):
            assert len(answer) == 0

    def test_candidates_do_not_see_each_other(self, case):
        if not case.candidates:
            return
        module, inputs = alive(case), given(case)
        together = answers(module, inputs)
        for c in range(3):
            one = {name: inputs[name][:, c : c + 1] for name in case.candidates}
            equal(answers(module, inputs | one), [a[:, c : c + 1] for a in together])


@masked_case
class TestPadding:
    def test_may_hold_anything(self, case):
        module, inputs = alive(case), given(case)
        assert all(answer.isfinite().all() for answer in answers(module, inputs))
        for value in (float("nan"), float("inf"), 1e30):
            spoilt = dict(inputs)
            for name, covered in case.masks.items():
                for argument in covered:
                    spoilt[argument] = _filled(inputs[argument], ~inputs[name], value)
            equal(answers(module, spoilt), answers(module, inputs), rtol=0.0, atol=0.0)

    def test_more_of_it_changes_nothing(self, case):
        module, inputs = alive(case), given(case)
        wider = dict(inputs)
        for name, covered in case.masks.items():
            if inputs[name].dim() > 1:
                axis = inputs[name].dim() - 1
                for argument in (name, *covered):
                    wider[argument] = _padded(inputs[argument], axis)
        expected = answers(module, inputs)
        pairs = zip(answers(module, wider), expected, strict=True)
        equal([_cut(more, before.shape) for more, before in pairs], expected)

    def test_history_of_length_zero(self, case):
        module, inputs = born(case), given(case)
        for name, covered in case.masks.items():
            if inputs[name].dim() > 1:
                axis = inputs[name].dim() - 1
                for argument in (name, *covered):
                    inputs[argument] = inputs[argument].narrow(axis, 0, 0)
        assert all(answer.isfinite().all() for answer in answers(module, inputs))

    def test_future_changes_nothing(self, case):
        inputs = given(case, rows=6)
        if "now" not in inputs:
            return
        module = alive(case)
        later = inputs["times"] >= inputs["now"].unsqueeze(1)
        assert (later & inputs["mask"]).any()
        other = dict(inputs)
        for argument in case.masks["mask"]:
            other[argument] = _filled(inputs[argument], later, 1e30)
        other["mask"] = inputs["mask"] ^ later
        equal(answers(module, other), answers(module, inputs))
        # the check can fail: the past does change an answer
        without = answers(module, {**inputs, "mask": inputs["mask"] & later})
        assert not torch.equal(without[0], answers(module, inputs)[0])


def _filled(x, where, value):
    x = x.clone()
    x[where] = value if x.is_floating_point() else 100
    return x


def _padded(x, axis):
    shape = list(x.shape)
    shape[axis] = 3
    more = torch.full(shape, float("nan")) if x.is_floating_point() else torch.zeros(shape)
    return torch.cat([x, more.to(x.dtype)], dim=axis)


def _with_lists(inputs):
    """``x.0`` and ``x.1`` are the entries of the list ``x``."""
    packed = {}
    for name, value in inputs.items():
        argument, _, entry = name.partition(".")
        if entry:
            packed.setdefault(argument, []).append(value)
        else:
            packed[name] = value
    return packed


def _cut(answer, shape):
    """Without what a module answers for padding that was added behind."""
    return answer[tuple(slice(size) for size in shape)]
