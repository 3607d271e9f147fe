from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from mobifarm.controller.api.access import Caller, Role, TokenFile, authenticator
from mobifarm.controller.errors import HostError, UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_tells_who_calls(path: Path) -> None:
    secret = TokenFile(path).create("vera", Role.VIEWER, 5.0)
    authenticate = authenticator("local", TokenFile(path))
    assert authenticate(f"Bearer {secret}") == Caller("vera", Role.VIEWER)
    assert authenticate(f"bearer {secret}") == Caller("vera", Role.VIEWER)
    assert authenticate("Bearer local") == Caller("operator", Role.OPERATOR, local=True)
    for stranger in ("", "Bearer", "Bearer ", secret, f"Basic {secret}", "Bearer wrong", "Bearer loca\u00e9"):
        assert authenticate(stranger) is None


def test_the_file_holds_no_secret_and_is_the_owners_alone(path: Path) -> None:
    secret = TokenFile(path).create("vera", Role.VIEWER, 5.0)
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_running_farm_follows_the_file(path: Path) -> None:
    running, elsewhere = TokenFile(path), TokenFile(path)
    assert running.tokens() == []
    first = elsewhere.create("first", Role.VIEWER, 1.0)
    second = elsewhere.create("second", Role.OPERATOR, 2.0)
    assert [token.name for token in running.tokens()] == ["first", "second"]
    elsewhere.revoke("first")
    assert running.caller(first) is None
    assert running.caller(second) == Caller("second", Role.OPERATOR)


def test_several_at_once_lose_none(path: Path) -> None:
    names = [f"n{number}" for number in range(16)]
    threads = [
        threading.Thread(target=TokenFile(path).create, args=(name, Role.VIEWER, 1.0)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in TokenFile(path).tokens()) == sorted(names)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "a\n"])
def test_names_are_plain(path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no name for a token"):
        TokenFile(path).create(name, Role.VIEWER, 1.0)
    assert not path.exists()


def test_a_name_is_used_once(path: Path) -> None:
    TokenFile(path).create("vera", Role.VIEWER, 1.0)
    with pytest.raises(UserError, match="tokens revoke vera"):
        TokenFile(path).create("vera", Role.OPERATOR, 2.0)
    with pytest.raises(UserError, match="mobifarm tokens"):
        TokenFile(path).revoke("sam")
    assert [token.role for token in TokenFile(path).tokens()] == [Role.VIEWER]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"tokens": [{"name": "a", "role": "king"}]})])
def test_a_damaged_file_lets_nobody_in(path: Path, text: str) -> None:
    path.write_text(text)
    authenticate = authenticator("local", TokenFile(path))
    with pytest.raises(HostError, match="repair the file"):
        authenticate("Bearer x")
    assert authenticate("Bearer local") is not None


def test_roles_are_ordered() -> None:
    allowed = [[mine.allows(wanted) for wanted in Role] for mine in Role]
    assert allowed == [[True, False, False], [True, True, False], [True, True, True]]
