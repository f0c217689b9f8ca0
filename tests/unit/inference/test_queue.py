"""The bounded queue: room, order, announcements, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from sluice_inference.engine.backend import Kind
from sluice_inference.engine.batcher import Batcher
from sluice_inference.engine.queue import Coming, Item, WorkQueue
from sluice_inference.errors import EngineStoppedError, QueueFullError

KINDS = {"i": Kind.IMAGE, "t": Kind.TEXT, "p": Kind.PROMPT}


def make_items(lanes: str, size: int = 1) -> list[Item]:
    """'iit' is two images and a text, an upper case letter another bucket; payloads number them."""
    return [
        Item(
            KINDS[letter.lower()],
            str(at),
            deadline=1e9,
            entered=at,
            ticket=None,
            index=0,
            bucket=letter.isupper(),
            size=size,
        )
        for at, letter in enumerate(lanes)
    ]


def make_queue(most: int = 8, items: int = 100, size: int = 1000) -> WorkQueue:
    return WorkQueue(items, size, Batcher(most), clock=lambda: 0.0)


class Taker(threading.Thread):
    """Takes one full batch ahead of time, in a thread of its own."""

    def __init__(self, queue: WorkQueue) -> None:
        super().__init__()
        self.taken: list[str] = []
        self.done = threading.Event()
        self._queue = queue
        self.start()

    def run(self) -> None:
        self.taken.append(name_all(self._queue.take_full(always)))
        self.done.set()


def always(_: Item) -> bool:
    return True


def name_all(batch: list[Item]) -> str:
    return "".join(str(item.payload) for item in batch)


@pytest.mark.parametrize(
    ("waiting", "most", "batches"),
    [
        pytest.param("ttt", 8, ["012"], id="what is there is taken at once"),
        pytest.param("ttttt", 2, ["01", "23", "4"], id="never more than a batch"),
        pytest.param("tit", 8, ["02", "1"], id="one kind at a time, the oldest first"),
        pytest.param("iIi", 8, ["02", "1"], id="one bucket at a time"),
        pytest.param("iitti", 2, ["01", "23", "4"], id="kinds in turn"),
        pytest.param("itt", 2, ["12", "0"], id="a full batch goes before an older lonely one"),
        pytest.param("itttt", 2, ["12", "0", "34"], id="but nobody is passed over twice"),
    ],
)
def test_batches_are_taken_in_turn(waiting: str, most: int, batches: list[str]) -> None:
    queue = make_queue(most)
    queue.put(make_items(waiting))
    assert [name_all(queue.take(always)) for _ in batches] == batches
    assert (len(queue), queue.bytes) == (0, 0)


def test_a_full_batch_waits_where_the_oldest_would_come_too_late() -> None:
    queue = make_queue(2)
    items = make_items("itt")
    items[0].deadline = 0.025  # three items take 0.03 s, as long as nothing better is known
    queue.put(items)
    assert name_all(queue.take(always)) == "0"


@pytest.mark.parametrize(
    ("first", "second", "size", "fits"),
    [
        pytest.param("tt", "tt", 1, False, id="too many items"),
        pytest.param("tt", "t", 1, True, id="room for one more"),
        pytest.param("t", "t", 6, False, id="too many bytes"),
        pytest.param("", "t", 11, True, id="bytes never refuse a request that is alone"),
        pytest.param("", "tttt", 1, True, id="nor do items"),
    ],
)
def test_a_request_enters_whole_or_not_at_all(
    first: str, second: str, size: int, fits: bool
) -> None:
    queue = make_queue(items=3, size=10)
    queue.put(make_items(first, size))
    if fits:
        queue.put(make_items(second, size))
        assert len(queue) == len(first + second)
    else:
        with pytest.raises(QueueFullError):
            queue.put(make_items(second, size))
        assert (len(queue), queue.bytes) == (len(first), len(first) * size)


def test_what_is_being_prepared_has_its_room() -> None:
    queue = make_queue(items=3)
    with queue.announce({Kind.IMAGE: 2}) as announcement:
        with pytest.raises(QueueFullError), queue.announce({Kind.IMAGE: 2}):
            pass
        queue.put(make_items("ii"), announcement)
        with queue.announce({Kind.IMAGE: 1}):
            pass
    with queue.announce({Kind.IMAGE: 1}):
        pass


def test_a_request_of_more_than_the_queue_holds_is_prepared_alone() -> None:
    queue = make_queue(items=3)
    with queue.announce({Kind.IMAGE: 4}) as announcement:
        with pytest.raises(QueueFullError), queue.announce({Kind.IMAGE: 1}):
            pass
        queue.put(make_items("iiii"), announcement)
    with pytest.raises(QueueFullError), queue.announce({Kind.IMAGE: 1}):
        pass
    assert name_all(queue.take(always)) == "0123"


def test_items_nobody_wants_are_dropped() -> None:
    queue = make_queue()
    queue.put(make_items("tttt"))
    assert name_all(queue.take(lambda item: item.payload in ("1", "3"))) == "13"
    assert len(queue) == 0


def test_a_closed_queue_takes_nothing_and_lets_its_takers_go() -> None:
    queue = make_queue()
    taken: list[list[Item]] = []
    takers = [
        threading.Thread(target=lambda take=take: taken.append(take(always)))
        for take in (queue.take, queue.take_full)
    ]
    for taker in takers:
        taker.start()
    assert queue.close() == []
    for taker in takers:
        taker.join(10)
    assert taken == [[], []]
    with pytest.raises(EngineStoppedError):
        queue.put(make_items("t"))
    with pytest.raises(EngineStoppedError), queue.announce({Kind.TEXT: 1}):
        pass


def test_closing_gives_back_what_waited() -> None:
    queue = make_queue()
    queue.put(make_items("tt"))
    assert name_all(queue.close()) == "01"
    assert queue.take(always) == []


def test_ahead_of_time_only_full_batches_are_taken() -> None:
    queue = make_queue(2)
    queue.put(make_items("t"))
    taker = Taker(queue)
    assert not taker.done.wait(0.02)
    queue.put(make_items("t"))
    assert taker.done.wait(10)
    taker.join()
    assert taker.taken == ["00"]


def test_nothing_is_taken_ahead_of_an_owner_that_is_free() -> None:
    queue = make_queue(2)
    queue.hold()
    queue.put(make_items("tt"))
    taker = Taker(queue)
    assert not taker.done.wait(0.05)
    queue.release()
    assert taker.done.wait(10)
    taker.join()
    assert taker.taken == ["01"]


@pytest.mark.parametrize(
    ("waiting", "counts"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("iIt", {Kind.IMAGE: 2, Kind.TEXT: 1}, id="by kind, whatever the bucket"),
    ],
)
def test_what_waits_is_counted(waiting: str, counts: Mapping[Kind, int]) -> None:
    queue = make_queue()
    queue.put(make_items(waiting))
    assert {kind: count for kind, count in queue.count_waiting().items() if count} == counts


def test_the_gap_between_arrivals_is_measured_while_more_are_coming() -> None:
    coming = Coming()
    coming.announce(4, now=10.0)
    coming.arrive(1, now=10.5)
    assert coming.gap_s == 0.5
    coming.arrive(2, now=11.5)
    assert (coming.count, coming.gap_s) == (1, 0.5)
    coming.withdraw(1)
    coming.announce(1, now=100.0)  # the silence before is no gap
    coming.arrive(1, now=100.5)
    assert coming.gap_s == 0.5
