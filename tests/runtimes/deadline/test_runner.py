"""What the deadline runner says, and when, on written-down traces in a world without real time."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_support import until
from simulated import FRAME, World, variant

from edgepv.errors import DeadlineError, ReceiverError, UsageError
from edgepv.runtimes.deadline import DeadlineRunner, Reply, profile
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Answer, Lane
from edgepv.types import Deadline


def told(replies: list[Reply]) -> list[tuple[int, str, int | None]]:
    """(frame, why or "fresh", age in whole ms) of each reply."""
    return [(r.number, r.why or "fresh", None if r.age_ms is None else round(r.age_ms)) for r in replies]


class Broken(NullEngine):
    """Answers NaN from call number ``after`` on."""

    after = 0

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = super().infer(inputs)
        self.after -= 1
        return made | {"logits": made["logits"] * (np.nan if self.after < 0 else 1.0)}


class Raises(NullEngine):
    """Cannot be called."""

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("out of memory")


def test_frames_that_are_done_in_time_are_answered_when_they_are_done() -> None:
    world = World()
    replies = world.run([(variant("one"), [10, 20])], [0, 100], limit_ms=33)
    assert told(replies) == [(0, "fresh", 10), (1, "fresh", 20)]
    assert world.said_at_ms == [10, 120]


def test_an_overrun_is_answered_at_the_deadline_with_the_last_answer_and_its_age() -> None:
    world = World()
    replies = world.run([(variant("one"), [10, 50])], [0, 100], limit_ms=33, stops=False)
    assert told(replies) == [(0, "fresh", 10), (1, "overrun", 133)]
    assert world.said_at_ms == [10, 133]
    assert replies[1].stale and replies[1].answer == replies[0].answer


def test_before_the_first_answer_there_is_nothing_old_to_say() -> None:
    replies = World().run([(variant("one"), [50])], [0], limit_ms=33, stops=False)
    assert told(replies) == [(0, "overrun", None)]
    assert replies[0].answer is None


def test_a_late_answer_is_the_latest_word_on_the_next_frame_with_its_true_age() -> None:
    replies = World().run([(variant("one"), [50, 90])], [0, 100], limit_ms=33, stops=False)
    assert told(replies) == [(0, "overrun", None), (1, "overrun", 133)]  # frame 0's answer, 133 ms old


def test_the_newest_frame_wins_and_the_others_get_a_stale_reply_in_order() -> None:
    world = World()
    replies = world.run([(variant("one"), [50, 5])], [0, 10, 20, 30], limit_ms=45, stops=False)
    assert told(replies) == [(0, "overrun", None), (1, "dropped", 55), (2, "dropped", 55), (3, "fresh", 25)]
    assert world.said_at_ms == [45, 55, 55, 55]  # frame 1 and 2 when 3, newer than both, is answered
    assert replies[3].wait_ms == pytest.approx(20)


def test_a_call_that_can_be_stopped_is_stopped_at_the_deadline_so_the_next_frame_is_in_time() -> None:
    trace = [10, 500, 10]
    stopped = World().run([(variant("one"), trace)], [0, 100, 200], limit_ms=33, stops=True)
    assert told(stopped) == [(0, "fresh", 10), (1, "overrun", 133), (2, "fresh", 10)]
    assert stopped[2].answer and stopped[2].answer.missed == 0  # one-frame model: nothing to miss
    not_stopped = World().run([(variant("one"), trace)], [0, 100, 200], limit_ms=33, stops=False)
    assert told(not_stopped)[2] == (2, "dropped", 233)


def test_a_stopped_frame_counts_as_missed_for_what_the_model_looks_back_on() -> None:
    replies = World().run(
        [(variant("one", looks_back=3), [1, 1, 500, 1, 1])], range(0, 500, 100), limit_ms=33
    )
    assert [r.answer.missed for r in replies if r.answer and not r.stale] == [0, 0, 1, 1]


def test_a_variant_that_hangs_is_left_behind_and_the_next_one_answers() -> None:
    ladder = Ladder([Lane(NullEngine(v, [0]), v) for v in (variant("large"), variant("small"))])
    news: list[tuple[str, str]] = []
    now = [0.0]
    runner = DeadlineRunner(
        ladder, [1, 1], Deadline(33), clock=lambda: now[0], status=lambda *n: news.append(n), hang_s=1.0
    )
    runner.offer(FRAME)
    runner.scheduler.take(0.0)  # a worker took it and never came back
    for now[0] in (0.033, 1.0, 1.034):
        runner.watch()
        runner.tell()
    assert news == [("variant_hung", "large has not come back for 1 s")]
    runner.offer(FRAME)
    assert runner.cycle() and ladder.name == "small"


def test_a_variant_that_answers_nan_is_left_out_and_the_other_one_goes_on() -> None:
    large, small = variant("large"), variant("small")
    news: list[str] = []
    replies: list[Reply] = []
    ladder = Ladder([Lane(Broken(large, [0]), large), Lane(NullEngine(small, [0]), small)])
    runner = DeadlineRunner(
        ladder,
        [1, 1],
        Deadline(1000),
        say=replies.append,
        status=lambda what, why: news.append(f"{what}: {why}"),
    )
    for _ in range(2):
        runner.offer(FRAME)
        runner.cycle()
        runner.tell()
    assert [(r.why, r.variant) for r in replies] == [("failed", "large"), ("", "small")]
    assert news[0].startswith("variant_failed: large: large answered 'logits' with values that are not")
    assert runner.failed is None


def test_the_last_variant_that_fails_is_an_error_that_says_why() -> None:
    one = variant("one")
    ladder = Ladder([Lane(Broken(one, [0]), one)])
    runner = DeadlineRunner(ladder, [1], Deadline(1000))
    runner.offer(FRAME)
    runner.cycle()
    said = "no variant is left that works. The last: one: one answered 'logits' with values that are not"
    assert said in str(runner.failed)


def test_a_variant_that_fails_while_it_catches_up_is_left_out_too() -> None:
    variants = [variant(n, width=w, looks_back=2) for n, w in (("large", 1), ("middle", 2), ("small", 3))]
    engines = [Broken(variants[0], [0]), Raises(variants[1], [0]), NullEngine(variants[2], [0])]
    engines[0].after = 3  # type: ignore[attr-defined]
    news: list[str] = []
    replies: list[Reply] = []
    runner = DeadlineRunner(
        Ladder([Lane(e, v) for e, v in zip(engines, variants)]),
        [1, 1, 1],
        Deadline(1000),
        say=replies.append,
        status=lambda what, why: news.append(f"{what}: {why}"),
    )
    for _ in range(6):
        runner.offer(FRAME)
        runner.cycle()
        runner.tell()
    assert [r.why or r.variant for r in replies] == ["large", "large", "large", "failed", "small", "small"]
    assert [n.split(":")[1] for n in news[:2]] == [" large", " middle"] and "out of memory" in news[1]


def test_a_frame_of_another_kind_is_the_callers_fault_and_costs_no_variant() -> None:
    one = variant("one")
    runner = DeadlineRunner(Ladder([Lane(NullEngine(one, [0]), one)]), [1], Deadline(1000))
    with pytest.raises(UsageError, match=r"a frame must be \(H, W, 3\) uint8 BGR, got \(8, 8\) uint8"):
        runner.offer(np.zeros((8, 8), np.uint8))
    assert runner.failed is None and not runner.cycle()


def test_dropping_says_nothing_on_a_miss() -> None:
    replies = World().run([(variant("one"), [10, 50])], [0, 100], limit_ms=33, on_miss="drop")
    assert told(replies) == [(0, "fresh", 10)]


def test_an_old_answer_can_be_moved_on_by_its_age() -> None:
    from dataclasses import replace

    replies = World().run(
        [(variant("one"), [10, 50])],
        [0, 100],
        limit_ms=33,
        extrapolate=lambda answer, age_ms: replace(answer, label=f"moved by {age_ms:.0f} ms"),
    )
    assert [r.answer.label for r in replies if r.answer] == ["fight", "moved by 133 ms"]


def test_a_slow_spell_is_met_by_the_smaller_variant_and_left_after_it() -> None:
    """Profiles 20 and 4 ms, deadline 33 ms; from second 2 to 6 of 20 all takes 2.5 times as long."""

    def takes(profile_ms: float) -> Callable[[float], float]:
        return lambda now_ms: profile_ms * (2.5 if 2000 <= now_ms < 6000 else 1.0)

    world = World()
    rungs = [(variant("large"), takes(20)), (variant("small"), takes(4))]
    replies = world.run(rungs, range(0, 20000, 100), limit_ms=33)
    assert [r.number for r in replies if r.stale] == [20]  # the first slow frame, and no other
    names = [r.variant for r in replies]
    assert set(names[:20]) == {"large"} and set(names[21:60]) == {"small"}
    back = names.index("large", 61)
    assert 60 < back < 100 and set(names[back:]) == {"large"}
    assert [what for what, _ in world.news] == ["switched", "switched"]


@settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.integers(1, 120), min_size=1, max_size=8),
    gaps=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    stops=st.booleans(),
)
def test_every_frame_gets_one_reply_in_order_and_never_late(
    delays: list[int], gaps: list[int], stops: bool
) -> None:
    arrivals = np.cumsum(gaps).tolist()
    world = World()
    replies = world.run([(variant("one"), delays)], arrivals, limit_ms=40, stops=stops)
    assert [r.number for r in replies] == list(range(len(arrivals)))
    assert all(r.latency_ms <= 40 + 1e-6 for r in replies)
    for r, said in zip(replies, world.said_at_ms):
        assert said == pytest.approx(arrivals[r.number] + r.latency_ms)
        assert r.stale == bool(r.why)
        assert r.age_ms is None or r.age_ms >= r.latency_ms - 1e-6
        assert not (not r.stale and r.age_ms != pytest.approx(r.latency_ms))


def test_in_real_threads_a_hang_costs_its_frame_and_the_next_variant_answers() -> None:
    class Hanging(NullEngine):
        def cancel(self) -> None:
            """This one does not listen."""

    large, small = variant("large"), variant("small")
    ladder = Ladder([Lane(Hanging(large, [0, 60_000]), large), Lane(NullEngine(small, [0]), small)])
    with DeadlineRunner(ladder, [1, 1], Deadline(100), hang_s=0.2) as runner:
        assert not runner.ask(FRAME).stale
        hung = runner.ask(FRAME)
        assert hung.stale and hung.why == "overrun" and 95 <= hung.latency_ms < 1000
        while runner.scheduler.working:
            pass
        assert runner.ask(FRAME).variant == "small"


def test_asking_with_on_miss_raise_raises() -> None:
    one = variant("one")
    ladder = Ladder([Lane(NullEngine(one, [300]), one)])
    with (
        DeadlineRunner(ladder, [1], Deadline(50, "raise")) as runner,
        pytest.raises(DeadlineError, match="frame 0 had no answer within 50 ms: overrun"),
    ):
        runner.ask(FRAME)


def test_a_listener_that_raises_costs_no_answer_and_is_told_at_the_end() -> None:
    heard: list[int] = []

    def listen(reply: Reply) -> None:
        heard.append(reply.number)
        raise ZeroDivisionError("by my own code")

    one = variant("one")
    ladder = Ladder([Lane(NullEngine(one, [0]), one)])
    with (
        pytest.raises(ReceiverError, match="say raised 30 times, first ZeroDivisionError: by my own code"),
        DeadlineRunner(ladder, [1], Deadline(1000), say=listen) as runner,
    ):
        replies = []
        for _ in range(30):  # no faster than it listens
            replies.append(runner.ask(FRAME))
            until(lambda: len(heard) == len(replies))
    assert [r.stale for r in replies] == [False] * 30
    assert heard == list(range(30))


def test_a_listener_that_sleeps_delays_no_answer_and_no_deadline_and_hears_the_newest_then() -> None:
    heard: list[int] = []
    awake = threading.Event()

    def listen(reply: Reply) -> None:
        heard.append(reply.number)
        awake.wait(20)

    one = variant("one")
    ladder = Ladder([Lane(NullEngine(one, [0.0] * 10 + [60_000]), one)])
    with DeadlineRunner(ladder, [1], Deadline(1000), say=listen) as runner:
        runner.ask(FRAME)
        until(lambda: heard)
        began = time.perf_counter()
        fresh, late = [runner.ask(FRAME) for _ in range(9)], runner.ask(FRAME)
        took_s = time.perf_counter() - began
        awake.set()
    assert not any(r.stale for r in fresh) and late.why == "overrun"
    assert took_s < 10  # a deadline of one second was kept while it slept
    assert heard == [0, 10] and runner.replies_dropped == 9


def test_the_end_waits_for_a_slow_listener_to_hear_the_last_reply() -> None:
    heard: list[int] = []

    def listen(reply: Reply) -> None:
        time.sleep(0.2)
        heard.append(reply.number)

    one = variant("one")
    with DeadlineRunner(Ladder([Lane(NullEngine(one, [0]), one)]), [1], Deadline(1000), say=listen) as runner:
        last = [runner.ask(FRAME) for _ in range(5)][-1].number
    assert heard[-1] == last == 4
    assert len(heard) + runner.replies_dropped == 5


def test_without_threads_the_caller_does_the_work_and_an_infinite_deadline_is_never_missed() -> None:
    one = variant("one")
    runner = DeadlineRunner(Ladder([Lane(NullEngine(one, [50, 0]), one)]), [1], Deadline(math.inf))
    replies = [runner.ask(FRAME) for _ in range(4)]
    runner.finish()
    runner.close()
    assert told(replies)[0][1] == "fresh" and not any(r.stale for r in replies)
    assert [r.number for r in replies] == [0, 1, 2, 3] and replies[0].latency_ms >= 50


def test_an_error_of_the_callers_own_is_not_hidden_by_a_listeners() -> None:
    def listen(reply: Reply) -> None:
        raise ZeroDivisionError

    one = variant("one")
    ladder = Ladder([Lane(NullEngine(one, [0]), one)])
    with (
        pytest.raises(KeyError),
        DeadlineRunner(ladder, [1], Deadline(1000), say=listen) as runner,
    ):
        runner.ask(FRAME)
        raise KeyError


def test_what_moves_old_answers_on_may_raise_too() -> None:
    def fails(answer: Answer, age_ms: float) -> Answer:
        raise ValueError("no speed")

    world = World()
    replies = world.run([(variant("one"), [10, 50])], [0, 100], limit_ms=33, stops=False, extrapolate=fails)
    assert told(replies) == [(0, "fresh", 10), (1, "overrun", 133)]
    assert world.runner and world.runner.faults.summary()["extrapolate"]["count"] == 1


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_deadline_that_is_no_time_is_refused(limit: float) -> None:
    one = variant("one")
    with pytest.raises(UsageError, match="give a number above 0"):
        DeadlineRunner(Ladder([Lane(NullEngine(one, [0]), one)]), [1], Deadline(limit))


def test_a_profile_is_the_median_of_each_rung() -> None:
    ladder = Ladder([Lane(NullEngine(v, [ms]), v) for v, ms in ((variant("a"), 8), (variant("b"), 2))])
    slow, fast = profile(ladder, calls=5)
    assert 8 <= slow < 30 and 2 <= fast < slow


TRACES = json.loads(Path(__file__).with_name("traces.json").read_text())
"""ms per call of three rungs of a ladder, tick by tick, beside stress-ng; made by benchmarks/live.py."""


@pytest.mark.parametrize(
    ("name", "stale_of_the_ladder", "stale_of_the_largest", "switches"),
    [("cpu x2", 5, 211, 9), ("cpu x4", 6, 300, 11)],
)
def test_recorded_latencies_give_these_replies(
    name: str, stale_of_the_ladder: int, stale_of_the_largest: int, switches: int
) -> None:
    trace = next(t for t in TRACES if t["name"] == name)

    def at_its_time(took: list[float]) -> Callable[[float], float]:
        return lambda now_ms: took[min(int(now_ms / trace["period_ms"]), len(took) - 1)]

    rungs = [(variant(n), at_its_time(took)) for n, took in trace["rungs"].items()]
    frames = len(next(iter(trace["rungs"].values())))
    arrivals = [i * trace["period_ms"] for i in range(frames)]
    options = {"limit_ms": trace["limit_ms"], "profiles_ms": trace["profiles_ms"], "stops": False}
    world = World()
    assert sum(r.stale for r in world.run(rungs, arrivals, **options)) == stale_of_the_ladder
    assert sum(what == "switched" for what, _ in world.news) == switches
    assert sum(r.stale for r in World().run(rungs, arrivals, keep=0, **options)) == stale_of_the_largest
