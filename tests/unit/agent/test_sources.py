"""Services that answer slowly, rarely or not at all."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from mobifarm.agent import sources
from mobifarm.agent.sources import Query, ServiceSource, ask_android


class Service:
    """Answers with what the test puts in; counts how often it is asked."""

    def __init__(self) -> None:
        self.value = 1.0
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.failing = False
        self.done = threading.Semaphore(0)

    def ask(self, command: Sequence[str]) -> str:
        self.answers.wait()
        self.asked += 1
        self.done.release()
        if self.failing:
            raise OSError(None, "no answer")
        return str(self.value)

    def source(self, now: list[float]) -> ServiceSource:
        query = Query(("dumpsys", "x"), 1.0, lambda text: {"x": float(text)})
        return ServiceSource([query], self.ask, clock_s=lambda: now[0])


def test_an_answer_is_repeated_until_it_is_too_old() -> None:
    service, now = Service(), [0.0]
    source = service.source(now)
    source.ask_due()
    assert source.read() == {"x": 1.0}
    now[0] = 0.5
    service.value = 2.0
    source.ask_due()
    assert (source.read(), service.asked) == ({"x": 1.0}, 1)
    now[0] = 1.0
    source.ask_due()
    assert source.read() == {"x": 2.0}
    service.failing = True
    now[0] = 2.0
    source.ask_due()
    assert source.read() == {"x": 2.0}
    now[0] = 1.0 + 2 * 1.0 + sources.SERVICE_DEADLINE_S
    source.ask_due()
    assert source.read() == {}


def test_a_sample_never_waits_for_a_service() -> None:
    service = Service()
    service.answers.clear()
    source = service.source([0.0])
    assert source.read() == {}  # and the thread has begun to ask
    service.answers.set()
    assert service.done.acquire(timeout=30)
    assert service.asked == 1


def test_a_command_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SERVICE_DEADLINE_S", 0.05)
    with pytest.raises(OSError, match="did not answer"):
        ask_android(["sleep", "600"])


def test_an_answer_may_be_no_utf8() -> None:
    assert ask_android(["printf", r"a\377b"]) == "a�b"
