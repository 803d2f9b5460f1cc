"""One moment's replies wait at most: the newest win, the others are counted, no event outlives its scene."""

from __future__ import annotations

import threading
from dataclasses import replace

from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.deadline.mailbox import MOST_NEWS, Mailbox, News
from edgepv.runtimes.deadline.scheduler import Why
from edgepv.runtimes.lane import Answer

ANSWER = Answer(0, "fight", 0.9, (0.9, 0.1), True, 1.0, 2.0)


def reply(number: int, why: Why = "", *, restarted: bool = False) -> Reply:
    answer = replace(ANSWER, restarted=restarted)
    return Reply(number, number / 10, answer, bool(why), why, 5.0, 5.0, 1.0, "one")


def test_the_newest_moment_replaces_the_one_that_waits_and_its_replies_are_counted() -> None:
    box = Mailbox()
    box.put([reply(0)])
    assert box.take() == [reply(0)] and box.take() == []
    box.put([reply(1)])
    box.put([reply(2, "dropped"), reply(3, "dropped"), reply(4)])  # one moment: they stay together
    assert box.dropped == 1
    assert box.take() == [reply(2, "dropped"), reply(3, "dropped"), reply(4)]
    box.put([reply(5), reply(6)])
    box.put([reply(7)])
    assert box.take() == [reply(7)] and box.dropped == 3


def test_news_are_not_replaced_and_keep_their_place() -> None:
    box = Mailbox()
    box.put([reply(0)])
    box.note("switched", "to small")
    box.put([reply(1)])
    box.note("camera_lost", "gone")
    assert box.take() == [News("switched", "to small"), reply(1), News("camera_lost", "gone")]


def test_news_of_a_receiver_that_never_comes_back_are_not_kept_for_ever() -> None:
    box = Mailbox()
    for n in range(MOST_NEWS + 5):
        box.note("restarted", str(n))
    assert [news.why for news in box.take() if isinstance(news, News)] == [
        str(n) for n in range(5, MOST_NEWS + 5)
    ]


def test_the_last_restart_and_a_failure_are_told_whatever_comes_after_them() -> None:
    box = Mailbox()
    told = [reply(0, restarted=True), reply(1, restarted=True), reply(2, "failed"), reply(3), reply(4)]
    for one in told:
        box.put([one])
    assert box.take() == [reply(1, restarted=True), reply(2, "failed"), reply(4)]
    assert box.dropped == 2


def test_after_the_end_what_waits_is_told_and_nothing_more() -> None:
    box = Mailbox()
    box.put([reply(0)])
    box.close()
    assert not box.ended
    box.put([reply(1)])
    box.note("restarted", "too late")
    assert box.take(5) == [reply(0)] and box.ended and box.dropped == 1


def test_what_nobody_takes_is_counted_at_the_end() -> None:
    box = Mailbox()
    box.put([reply(0), reply(1)])
    box.note("switched", "to small")
    box.clear()
    assert box.take() == [] and box.dropped == 2


def test_in_real_threads_every_reply_is_told_once_in_order_or_counted() -> None:
    box = Mailbox()
    told: list[int] = []

    def tell() -> None:
        while not box.ended:
            told.extend(mail.number for mail in box.take(5) if isinstance(mail, Reply))

    teller = threading.Thread(target=tell)
    teller.start()
    for number in range(0, 6000, 3):
        box.put([reply(number + i) for i in range(3)])
    box.close()
    teller.join(20)
    assert not teller.is_alive()
    assert told == sorted(set(told)) and told[-3:] == [5997, 5998, 5999]
    assert len(told) + box.dropped == 6000
