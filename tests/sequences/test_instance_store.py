import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidrank.sequences.instance_rows import InstanceSpec
from tests.sequences import reference_instances as reference
from tests.sequences.instance_stores import FILES, KINDS, SPEC, columns, log_of, make, part, told
from tests.strategies import ANY_IDS

LEAST, MOST = -(2**63), 2**63 - 1
few = st.integers(-2, 2)
times = st.one_of(st.integers(0, 12), st.sampled_from([LEAST, LEAST + 1, -1, MOST - 1, MOST]))
sides = st.one_of(st.integers(-1, 3), st.just(2**31 - 1))
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rows_of(users, instances):
    pair, triple = st.tuples(times, times), st.tuples(numbers, numbers, numbers)
    row = st.tuples(users, instances, times, pair, st.tuples(sides, sides), triple)
    return st.lists(row, max_size=8)


owners = st.one_of(few, st.sampled_from([LEAST, MOST, 2**32]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), rows_of(owners, few)),
        st.tuples(st.just("put"), rows_of(few, ANY_IDS)),
        st.tuples(
            st.just("read"),
            st.lists(st.tuples(owners, times), min_size=1, max_size=5),
            st.integers(1, 4),
        ),
        st.tuples(st.just("forget"), st.lists(owners, max_size=2)),
        st.tuples(st.just("expire"), times),
    ),
    max_size=8,
)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def opened(kind, tmp_path):
    """Makes stores of one kind; every one is closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_one(spec=SPEC, directory=tmp_path, **options):
            return stack.enter_context(contextlib.closing(make(kind, directory, spec, **options)))

        yield open_one


def lists(answers):
    return [[(i, t, list(s), list(v)) for i, t, s, v in row] for row in answers]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=40)
def test_does_what_a_dictionary_does(kind, data):
    time_to_live = data.draw(st.sampled_from([None, 1, 4, MOST]))
    log = reference.Log(time_to_live)
    with tempfile.TemporaryDirectory() as directory:
        store = make(kind, Path(directory), time_to_live=time_to_live)
        for name, *given_ in data.draw(steps):
            if name == "put":
                rows = given_[0]
                if log.put(rows):
                    store.put(**columns(rows))
                else:
                    with pytest.raises(ValueError, match=r"event_times of instance .* must stay"):
                        store.put(**columns(rows))
            elif name == "read":
                questions, count = given_
                users, now = [q[0] for q in questions], [q[1] for q in questions]
                history = store.as_of(users, now, count, model_version="7")
                expected = [log.as_of(*question, count) for question in questions]
                assert lists(told(history)) == lists(expected)
            elif name == "forget":
                assert store.forget(given_[0]) == log.forget(given_[0])
            elif time_to_live is not None:
                assert store.expire(given_[0]) == log.expire(given_[0])
            assert len(store) == len(log.rows)
            if kind != "memory" and data.draw(st.booleans()):
                store.close()
                store = make(kind, Path(directory), time_to_live=time_to_live)
        store.close()


class TestReading:
    def test_order_and_cut_of_puts_change_nothing(self, opened, tmp_path):
        """Many short runs that merge, users in several of them, half of the rows put twice."""
        log = log_of(users=9, each=40)
        users, now = np.repeat(np.arange(-1, 10), 3), np.tile([150, 333, 999], 11)
        whole = opened()
        whole.put(**log)
        expected = whole.as_of(users, now, 12, model_version="7")
        whole.close()
        (tmp_path / "cut").mkdir()
        cut, rng, start = opened(directory=tmp_path / "cut"), np.random.default_rng(3), 0
        order = np.r_[rng.permutation(360), rng.permutation(360)[:180]]
        for size in [*rng.integers(1, 60, 12), 540]:
            cut.put(**part(log, order[start : start + size]))
            start += size
        assert len(cut) == 360
        for one, other in zip(cut.as_of(users, now, 12, model_version="7"), expected, strict=True):
            assert torch.equal(one, other)

    def test_many_requests_equal_one_by_one(self, opened):
        store, log = opened(), log_of(users=5, each=20)
        for rows in np.array_split(np.arange(100), 7):
            store.put(**part(log, rows))
        rng = np.random.default_rng(1)
        users, now = rng.integers(0, 6, 50), rng.integers(90, 220, 50)
        together = told(store.as_of(users, now, 8, model_version="7"))
        for row in range(50):
            alone = told(
                store.as_of(users[row : row + 1], now[row : row + 1], 8, model_version="7")
            )
            assert alone == together[row : row + 1]

    def test_what_is_not_past_changes_nothing(self, opened, tmp_path):
        """The leak test: later events and labels known later may be anything."""
        log, now = log_of(users=4, each=60), 200
        rng = np.random.default_rng(5)
        other = {name: np.copy(x) for name, x in log.items() if name != "model_version"}
        later = log["event_times"] >= now
        other["event_times"][later] = rng.integers(now, 10**6, later.sum())
        other["vectors"][later] = rng.random((later.sum(), 3))
        unknown = log["label_times"] >= now
        assert (unknown & ~later[:, None]).any()  # past impressions whose label came too late
        other["sides"][unknown] = rng.integers(0, 99, unknown.sum())
        other["label_times"][unknown] = rng.integers(now, 10**6, unknown.sum())
        known = ~unknown[:, 0] & (log["users"] == 0)
        past = {name: np.copy(x) for name, x in other.items()}
        past["sides"][known, 0] += 1  # the control: the past does change an answer

        answers = []
        for name, each in (("one", log), ("other", other), ("past", past)):
            (tmp_path / name).mkdir()
            store = opened(directory=tmp_path / name)
            store.put(**{**each, "model_version": "7"})
            answers.append(store.as_of(np.arange(4), [now] * 4, 60, model_version="7"))
        assert all(torch.equal(*both) for both in zip(answers[0], answers[1], strict=True))
        assert not torch.equal(answers[0].sides, answers[2].sides)
        assert answers[0].mask.any()

    def test_a_label_that_comes_late(self, opened):
        """A click known at 12 stays known while the purchase is still to come."""
        store = opened()
        first = (5, 1, 10, (12, MOST), (1, -1), (1, 2, 3))
        store.put(**columns([first]))
        store.put(**columns([(5, 1, 10, (12, 40), (1, 0), (1, 2, 3))]))
        history = store.as_of([5] * 5, [10, 11, 13, 40, 41], 1, model_version="7")
        assert history.mask.flatten().tolist() == [False, True, True, True, True]
        expected = [[-1, -1], [-1, -1], [1, -1], [1, -1], [1, 0]]
        assert history.sides[:, 0].tolist() == expected

    def test_instances_of_one_moment_are_in_the_order_of_their_ids(self, opened):
        store = opened()
        for ids in ([3, -1], [2, -7]):  # written in another
            store.put(**columns([(5, i, 10, (11, 11), (0, 0), (i, 0, 0)) for i in ids]))
        history = store.as_of([5, 5], [11, 11], 4, model_version="7")
        assert history.instances.tolist() == [[-7, -1, 2, 3]] * 2
        assert store.as_of([5], [11], 2, model_version="7").instances.tolist() == [[2, 3]]

    def test_nothing_to_read(self, opened):
        store = opened()
        for users in ([], [1, 2]):
            history = store.as_of(users, users, 3, model_version="7")
            assert history.vectors.shape == (len(users), 3, 3)
            assert not history.mask.any()
        store.put(**columns([]))
        assert len(store) == store.forget([1]) == store.forget([]) == 0

    def test_arrays_tensors_and_lists_are_alike(self, opened):
        rows = [(1, 2, 3, (4, 5), (1, -1), (0.5, 0.25, 1.0)), (1, 3, 4, (4, 5), (0, 2), (1, 2, 3))]
        ways = (
            lambda x: x,
            lambda x: x if isinstance(x, str) else torch.from_numpy(x),
            lambda x: x if isinstance(x, str) else x.tolist(),
        )
        store = opened()
        answers = []
        for way in ways:
            store.put(**{name: way(x) for name, x in columns(rows).items()})
            answers.append(told(store.as_of(way(np.array([1])), [9], 3, model_version="7")))
            assert store.forget(way(np.array([1]))) == 2
        assert answers[0] == answers[1] == answers[2]
        assert len(answers[0][0]) == 2


class TestPrecision:
    def test_float32_is_exact(self, opened):
        store = opened(InstanceSpec(model_version="7", dim=64, num_sides=0))
        vectors = torch.randn(200, 64) * 10.0 ** torch.randint(-37, 37, (200, 1))
        nothing = np.zeros((200, 0), dtype=np.int64)
        given_ = {"instances": range(200), "event_times": range(200), "label_times": nothing}
        store.put(users=[3] * 200, **given_, sides=nothing, vectors=vectors, model_version="7")
        history = store.as_of([3], [500], 200, model_version="7")
        assert torch.equal(history.vectors[0], vectors)
        assert history.sides.shape == (1, 200, 0)

    def test_float16_is_bounded(self, opened):
        spec = InstanceSpec(model_version="7", dim=64, num_sides=2, precision="float16")
        store, log = opened(spec), log_of(users=1, each=300, spec=spec)
        log["vectors"][:50] *= 1e-5
        store.put(**log)
        history = store.as_of([0], [MOST], 300, model_version="7")
        exact = torch.from_numpy(log["vectors"][np.argsort(log["event_times"])])
        error = (history.vectors[0] - exact).abs()
        assert bool((error <= exact.abs().clamp(min=2.0**-14) / 2048).all())
        assert error.max() > 0

    def test_number_too_large_for_float16(self, opened):
        store = opened(InstanceSpec(model_version="7", dim=3, num_sides=2, precision="float16"))
        with pytest.raises(ValueError, match=r"finite in float16, got 70000.0 in row 0"):
            store.put(**columns([(1, 1, 1, (1, 1), (0, 0), (0, 7e4, 0))]))


class TestModelVersion:
    def test_of_whoever_puts_or_reads(self, opened):
        store, log = opened(), log_of(users=1, each=3)
        message = "model_version must be '7', whose vectors the store holds, got '8'"
        with pytest.raises(ValueError, match=message):
            store.put(**{**log, "model_version": "8"})
        assert len(store) == 0
        store.put(**log)
        with pytest.raises(ValueError, match=message):
            store.as_of([0], [999], 1, model_version="8")

    @pytest.mark.parametrize("kind", FILES)
    def test_of_a_file(self, kind, tmp_path):
        make(kind, tmp_path).close()
        before = (tmp_path / "store").read_bytes()
        others = {"model_version": "8", "dim": 4, "num_sides": 1, "precision": "float16"}
        for name, value in others.items():
            settings_ = {"model_version": "7", "dim": 3, "num_sides": 2, name: value}
            message = f"spec must be the file's, with {name} .*, got {value!r} "
            with pytest.raises(ValueError, match=message):
                make(kind, tmp_path, InstanceSpec(**settings_))
        assert (tmp_path / "store").read_bytes() == before
        make(kind, tmp_path).close()


class TestRemoving:
    def test_a_user_is_gone(self, opened):
        store, log = opened(), log_of(users=3, each=30)
        store.put(**log)
        store.put(**part(log, np.arange(45)))  # some lie twice
        before = store.as_of([0, 2], [999] * 2, 30, model_version="7")
        assert store.forget([1, 77, 1]) == 30
        assert len(store) == 60
        assert not store.as_of([1], [999], 30, model_version="7").mask.any()
        after = store.as_of([0, 2], [999] * 2, 30, model_version="7")
        assert all(torch.equal(*both) for both in zip(before, after, strict=True))
        store.put(**part(log, log["users"] == 1))  # and may come back
        assert len(store) == 90

    def test_what_nobody_can_see_any_more_is_gone(self, opened):
        store, log = opened(time_to_live=40), log_of(users=2, each=50)
        store.put(**log)
        now = 180
        before = store.as_of([0, 1], [now] * 2, 99, model_version="7")
        assert store.expire(now) == int((log["event_times"] <= now - 40).sum()) > 0
        after = store.as_of([0, 1], [now] * 2, 99, model_version="7")
        assert all(torch.equal(*both) for both in zip(before, after, strict=True))

    def test_without_a_time_to_live_nothing_expires(self, opened):
        with pytest.raises(ValueError, match=r"time_to_live must be given .*, got None"):
            opened().expire(5)


class TestBadInput:
    row = (1, 2, 3, (4, 5), (0, 1), (1, 2, 3))

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("users", [[1]], r"users must have shape \[n\], got \[1, 1\]"),
            ("instances", [1, 2], r"instances must have shape \[1\], got \[2\]"),
            ("event_times", [1, 2], r"event_times must have shape \[1\], got \[2\]"),
            ("label_times", [4], r"label_times must have shape \[1, 2\], got \[1\]"),
            ("sides", [[1]], r"sides must have shape \[1, 2\], got \[1, 1\]"),
            ("sides", [[0, -2]], r"sides must be within \[-1, 2\*\*31\), got -2 in row 0"),
            ("sides", [[2**31, 0]], r"got 2147483648 in row 0"),
            ("vectors", [[1, 2]], r"vectors must have shape \[1, 3\], got \[1, 2\]"),
            ("vectors", [[1, np.nan, 3]], "vectors must be finite in float32, got nan in row 0"),
            ("vectors", [[1, 2, 1e39]], "vectors must be finite in float32, got 1e.39 in row 0"),
        ],
    )
    def test_values(self, opened, name, value, message):
        store = opened()
        with pytest.raises(ValueError, match=message):
            store.put(**{**columns([self.row]), name: value})
        assert len(store) == 0

    @pytest.mark.parametrize("name", ["users", "instances", "event_times", "label_times", "sides"])
    def test_what_is_no_integer(self, opened, name):
        given_ = columns([self.row])
        with pytest.raises(TypeError, match=f"{name} must be integers, got float64"):
            opened().put(**{**given_, name: given_[name].astype(float)})

    def test_vectors_that_are_no_numbers(self, opened):
        with pytest.raises(TypeError, match="vectors must be numbers, got <U1"):
            opened().put(**{**columns([self.row]), "vectors": [["a", "b", "c"]]})

    def test_event_time_that_moves(self, opened):
        """Also within one put; and then nothing of the put is written."""
        store = opened()
        store.put(**columns([self.row]))
        moved, new = (1, 2, 4, *self.row[3:]), (9, 9, *self.row[2:])
        with pytest.raises(ValueError, match="of instance 2 of user 1 must stay 3, got 4"):
            store.put(**columns([new, moved]))
        with pytest.raises(ValueError, match="of instance 9 of user 9 must stay 4, got 3"):
            store.put(**columns([new, (9, 9, 4, *self.row[3:])]))
        assert len(store) == 1

    def test_questions(self, opened):
        store = opened()
        with pytest.raises(ValueError, match=r"one shape \[B\], got \[2\] and \[1\]"):
            store.as_of([1, 2], [1], 3, model_version="7")
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            store.as_of([1], [1], 0, model_version="7")
        with pytest.raises(TypeError, match="request_times must be integers, got float64"):
            store.as_of([1], [1.0], 1, model_version="7")
        with pytest.raises(TypeError, match="users must be integers, got float64"):
            store.forget([1.0])

    @pytest.mark.parametrize("value", [0, -1, 2**63, 1.5, True])
    def test_time_to_live(self, opened, value):
        with pytest.raises(ValueError, match=rf"within \[1, 2\*\*63\) or None, got {value!r}"):
            opened(time_to_live=value)
