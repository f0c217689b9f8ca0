"""What runs cost, how large they may be, and when waiting for more pays; proven by simulation."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_inference.engine.backend import Kind
from sluice_inference.engine.batcher import Batcher
from sluice_inference.engine.ceiling import HOLD_S, Ceiling
from sluice_inference.engine.cost import CostModel, fit_cost
from sluice_inference.engine.queue import Coming, Item, Lane


@pytest.mark.parametrize(
    ("points", "fixed_s", "per_item_s"),
    [
        pytest.param([(1, 0.07), (32, 1.18)], 0.0342, 0.0358, id="two sizes tell both parts"),
        pytest.param([(8, 0.8)], 0.0, 0.1, id="one size: all of it by item"),
        pytest.param([(1, 0.1), (4, 0.1), (8, 0.1)], 0.1, 0.0, id="size costs nothing"),
        pytest.param([(1, 0.01), (10, 0.2)], 0.0, 0.0102, id="never a negative fixed cost"),
        pytest.param([(1, 0.2), (10, 0.1)], 0.12, 0.0, id="never a negative price"),
    ],
)
def test_cost_is_the_line_through_what_was_seen(
    points: list[tuple[float, float]], fixed_s: float, per_item_s: float
) -> None:
    cost = fit_cost(points)
    assert cost.fixed_s == pytest.approx(fixed_s, abs=2e-3)
    assert cost.per_item_s == pytest.approx(per_item_s, abs=2e-3)


def test_a_stream_of_full_batches_does_not_forget_what_a_small_one_costs() -> None:
    model = CostModel()
    for count in (1, 2, 4, 8, 16):
        model.observe(count, 0.03 + 0.036 * count)
    for _ in range(1000):
        model.observe(32, 0.03 + 0.036 * 32)
    assert model.cost.fixed_s == pytest.approx(0.03, rel=0.01)
    assert model.cost.predict(32) == pytest.approx(1.182, rel=0.01)


def test_a_slower_device_is_noticed() -> None:
    model = CostModel()
    for scale in (1, 2):
        for _, count in itertools.product(range(20), (1, 32)):
            model.observe(count, scale * (0.03 + 0.036 * count))
    assert model.cost.fixed_s == pytest.approx(0.06, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-5, 10)), min_size=1, max_size=40))
def test_no_history_makes_a_cost_that_is_no_cost(runs: list[tuple[int, float]]) -> None:
    model = CostModel()
    for count, seconds in runs:
        model.observe(count, seconds)
    cost = model.cost
    assert cost.fixed_s >= 0
    assert cost.per_item_s >= 0
    assert 0 < cost.predict(64) < 1e4
    assert cost.knee >= 1


def test_too_little_memory_halves_batches_for_a_minute() -> None:
    now = 0.0
    ceiling = Ceiling(32, clock=lambda: now)
    ceiling.shrink(32)
    assert ceiling.most == 16
    ceiling.shrink(16)
    assert ceiling.most == 8
    ceiling.grow(8)
    assert ceiling.most == 8  # the minute is not over
    now = HOLD_S
    ceiling.grow(7)
    assert ceiling.most == 8  # nothing was learned from a smaller one
    sizes = []
    while ceiling.most < 32:
        ceiling.grow(ceiling.most)
        sizes.append(ceiling.most)
    assert sizes == list(range(10, 33, 2))
    ceiling.shrink(1)
    assert ceiling.most == 1


def teach(batcher: Batcher, fixed_s: float, per_item_s: float) -> None:
    for count in (1, 8, 32):
        for _ in range(50):
            batcher.note_run(Kind.IMAGE, count, fixed_s + per_item_s * count)


def make_lane(count: int, deadlines: dict[int, float] | None = None) -> Lane:
    lane = Lane(Kind.IMAGE)
    for at in range(count):
        deadline = (deadlines or {}).get(at, 1e9)
        lane.items.append(Item(Kind.IMAGE, "", deadline, 0.0, None, at))
    return lane


@pytest.mark.parametrize(
    ("waiting", "deadlines", "fixed_s", "count"),
    [
        pytest.param(40, {}, 0.0, 32, id="never more than the largest batch"),
        pytest.param(5, {}, 0.0, 5, id="what is there"),
        pytest.param(32, {0: 1.05}, 0.0, 10, id="as many as the most urgent can bear"),
        pytest.param(32, {31: 1.05}, 0.0, 31, id="one at the end is left for the next run"),
        pytest.param(32, {0: 0.05}, 0.0, 32, id="a hopeless one bounds nothing"),
        pytest.param(32, {0: 1.35}, 1.0, 10, id="not below where fixed cost is half of all"),
    ],
)
def test_a_batch_fits_the_deadlines_in_it(
    waiting: int, deadlines: dict[int, float], fixed_s: float, count: int
) -> None:
    batcher = Batcher(32)
    teach(batcher, fixed_s, 0.1)
    assert batcher.count(make_lane(waiting, deadlines), now=0.0) == count


@pytest.mark.parametrize(
    ("waiting", "coming", "gap_s", "waited_s", "deadline", "waits"),
    [
        pytest.param(1, 0, 0.001, 0.0, 99, False, id="nobody else is coming"),
        pytest.param(
            1, 9, 0.001, 0.0, 99, True, id="nine will be here in less than a run's fixed cost"
        ),
        pytest.param(1, 30, 0.002, 0.0, 99, False, id="too many to wait for all of them"),
        pytest.param(30, 30, 0.002, 0.0, 99, True, id="two are enough for a full batch"),
        pytest.param(32, 9, 0.001, 0.0, 99, False, id="it is full"),
        pytest.param(1, 9, 0.001, 0.028, 99, False, id="the waiting itself has cost too much"),
        pytest.param(1, 9, 0.001, 0.0, 0.3, False, id="a deadline would be missed"),
        pytest.param(1, 9, float("inf"), 0.0, 99, False, id="nothing is known of arrivals"),
    ],
)
def test_waiting_is_by_calculation(
    waiting: int, coming: int, gap_s: float, waited_s: float, deadline: float, waits: bool
) -> None:
    batcher = Batcher(32)
    teach(batcher, 0.033, 0.036)
    lane = make_lane(waiting, {0: deadline})
    patience = batcher.get_patience(lane, Coming(coming, gap_s), waited_s, now=0.0)
    assert (patience > 0) == waits
    assert patience <= 0.0331


def test_a_model_without_fixed_cost_is_never_waited_for() -> None:
    batcher = Batcher(32)
    teach(batcher, 0.0, 0.01)
    assert batcher.get_patience(make_lane(1), Coming(9, 0.0001), 0.0, now=0.0) == 0


def test_the_wait_that_clients_are_told_is_what_the_queue_costs() -> None:
    batcher = Batcher(32)
    teach(batcher, 0.5, 0.1)
    assert batcher.estimate_s({Kind.IMAGE: 64, Kind.TEXT: 0}) == pytest.approx(7.4, rel=0.01)


@dataclass
class Played:
    """What came out of a simulation, after its beginning."""

    per_second: float
    p95_s: float
    mean_batch: float


def play(
    *,
    clients: int,
    decoders: int,
    decode_s: float,
    fixed_s: float,
    per_item_s: float,
    think_s: float,
    may_wait: bool,
    seconds: float,
    period_s: float = 0.0,
) -> Played:
    """Clients, decoders, and one model, in simulated time, with the real batcher.

    Clients ask again `think_s` one after the other when they were answered (a closed loop), or all at
    once every `period_s`. Like the server: announced when the request comes, decoded by the next free
    decoder, queued, run.
    """
    now = 0.0
    batcher = Batcher(32, clock=lambda: now)
    coming, lane = Coming(), Lane(Kind.IMAGE)
    order = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    undecoded: list[float] = []
    free = decoders
    is_running = False
    began_waiting: float | None = None
    latencies: list[float] = []
    batches: list[int] = []

    def at(when: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def ask() -> None:
        coming.announce(1, now)
        undecoded.append(now)
        decode()

    def decode() -> None:
        nonlocal free
        while free and undecoded:
            free -= 1
            asked = undecoded.pop(0)
            at(now + decode_s, lambda asked=asked: enter(asked))  # type: ignore[misc]

    def enter(asked: float) -> None:
        nonlocal free
        free += 1
        coming.arrive(1, now)
        lane.items.append(Item(Kind.IMAGE, "", asked + 60, now, asked, 0))
        decode()
        run()

    def run() -> None:
        nonlocal is_running, began_waiting
        if is_running or not lane.items:
            return
        began_waiting = now if began_waiting is None else began_waiting
        if may_wait:
            patience = batcher.get_patience(lane, coming, now - began_waiting, now)
            if patience > 0:
                at(now + patience + 1e-9, run)
                return
        is_running, began_waiting = True, None
        batch = [lane.items.popleft() for _ in range(batcher.count(lane, now))]
        cost = fixed_s + per_item_s * len(batch)
        batches.append(len(batch))
        at(now + cost, lambda: answer(batch, cost))

    def answer(batch: list[Item], cost: float) -> None:
        nonlocal is_running
        is_running = False
        batcher.note_run(Kind.IMAGE, len(batch), cost)
        for place, item in enumerate(batch):
            if now > seconds / 4:
                latencies.append(now - item.ticket)
            if not period_s:
                at(now + think_s * (place + 1), ask)
        run()

    for client in range(clients):
        if period_s:
            for burst in range(int(seconds / period_s)):
                at(burst * period_s, ask)
        else:
            at(client * 1e-3, ask)
    while events and now < seconds:
        now, _, what = heapq.heappop(events)
        what()
    latencies.sort()
    return Played(
        len(latencies) / (seconds * 3 / 4),
        latencies[int(0.95 * len(latencies))],
        sum(batches) / len(batches),
    )


WORLDS = [
    pytest.param(32, 2, 0.003, 0.033, 0.036, 0.0005, 30, id="ViT-B/32 on two cores, 32 clients"),
    pytest.param(8, 2, 0.003, 0.033, 0.036, 0.0005, 30, id="the same, 8 clients"),
    pytest.param(1, 2, 0.003, 0.033, 0.036, 0.0005, 30, id="one client alone"),
    pytest.param(64, 16, 0.0015, 0.004, 0.0002, 0.0001, 2, id="a GPU, 64 clients"),
    pytest.param(512, 16, 0.0015, 0.004, 0.0002, 0.0001, 2, id="a GPU, 512 clients"),
    pytest.param(50, 2, 0.002, 0.001, 0.008, 0.0003, 10, id="a small CNN on two cores"),
    pytest.param(32, 1, 0.02, 0.01, 0.002, 0.0005, 10, id="decoding is the bottleneck"),
]


@pytest.mark.parametrize(
    ("clients", "decoders", "decode_s", "fixed_s", "per_item_s", "think_s", "seconds"), WORLDS
)
def test_waiting_never_loses_to_running_at_once(
    clients: int,
    decoders: int,
    decode_s: float,
    fixed_s: float,
    per_item_s: float,
    think_s: float,
    seconds: float,
) -> None:
    at_once, waiting = (
        play(
            clients=clients,
            decoders=decoders,
            decode_s=decode_s,
            fixed_s=fixed_s,
            per_item_s=per_item_s,
            think_s=think_s,
            may_wait=may_wait,
            seconds=seconds,
        )
        for may_wait in (False, True)
    )
    assert waiting.per_second >= 0.99 * at_once.per_second
    assert waiting.p95_s <= 1.02 * at_once.p95_s


def test_a_burst_on_an_idle_model_is_answered_sooner() -> None:
    at_once, waiting = (
        play(
            clients=8,
            decoders=4,
            decode_s=0.0015,
            fixed_s=0.004,
            per_item_s=0.0002,
            think_s=0.0,
            may_wait=may_wait,
            seconds=4,
            period_s=0.02,
        )
        for may_wait in (False, True)
    )
    assert waiting.mean_batch > 1.5 * at_once.mean_batch
    assert waiting.p95_s < 0.85 * at_once.p95_s
