from __future__ import annotations

import pytest

from mobifarm.controller.api.access import Caller, Role
from mobifarm.controller.api.sessions import KEY_LIFETIME_S, MOST, Sessions, comes_from_the_page


class People:
    """Tokens by their secret, and a clock that the test moves."""

    def __init__(self) -> None:
        self.known = {
            "Bearer o": Caller("operator", Role.OPERATOR, local=True),
            "Bearer v": Caller("vera", Role.VIEWER),
        }
        self.now = 0.0
        self.sessions = Sessions(self.known.get, lambda: self.now)


@pytest.fixture
def people() -> People:
    return People()


def test_a_key_opens_one_session(people: People) -> None:
    key = people.sessions.make_key("Bearer o", Role.OPERATOR)
    opened = people.sessions.open_with_key(key)
    assert opened is not None
    session, caller = opened
    assert caller.role is Role.OPERATOR
    assert people.sessions.caller(session) == caller
    assert people.sessions.open_with_key(key) is None
    people.sessions.close(session)
    assert people.sessions.caller(session) is None


def test_a_key_lapses(people: People) -> None:
    key = people.sessions.make_key("Bearer o", Role.OPERATOR)
    people.now = KEY_LIFETIME_S
    assert people.sessions.open_with_key(key) is None


@pytest.mark.parametrize(
    ("header", "wanted", "got"),
    [
        ("Bearer o", Role.VIEWER, Role.VIEWER),
        ("Bearer v", Role.OPERATOR, Role.VIEWER),
        ("Bearer o", Role.SUBMITTER, Role.SUBMITTER),
    ],
)
def test_a_session_does_what_its_key_and_its_token_both_allow(
    people: People, header: str, wanted: Role, got: Role
) -> None:
    opened = people.sessions.open_with_key(people.sessions.make_key(header, wanted))
    assert opened is not None
    assert opened[1].role is got


def test_a_session_ends_with_its_token(people: People) -> None:
    opened = people.sessions.open_with_token("v")
    assert opened is not None
    assert opened[1].name == "vera"
    assert people.sessions.open_with_token("nobody") is None
    del people.known["Bearer v"]
    assert people.sessions.caller(opened[0]) is None


def test_keys_are_bounded_and_the_oldest_goes_first(people: People) -> None:
    keys = [people.sessions.make_key("Bearer o", Role.OPERATOR) for _ in range(MOST + 1)]
    assert people.sessions.open_with_key(keys[0]) is None
    assert people.sessions.open_with_key(keys[1]) is not None


HOST = "127.0.0.1:8710"


@pytest.mark.parametrize(
    ("method", "headers", "welcome"),
    [
        ("GET", {}, True),
        ("GET", {"sec-fetch-site": "none"}, True),
        ("GET", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {}, False),
        ("POST", {"sec-fetch-site": "none"}, False),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("POST", {"origin": f"http://{HOST}"}, True),
        ("POST", {"origin": f"https://{HOST}"}, False),
        ("POST", {"origin": "http://127.0.0.1:9"}, False),
        ("POST", {"origin": "null"}, False),
        ("DELETE", {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_only_pages_of_this_address_use_a_session(
    method: str, headers: dict[str, str], welcome: bool
) -> None:
    assert comes_from_the_page(method, {"host": HOST, **headers}, "http") is welcome
