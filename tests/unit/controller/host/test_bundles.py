"""How a bundle comes from the farm's machine: whole and verified or not at all, and not twice."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import HostError, UserError, WorkloadError
from mobifarm.controller.host import bundles
from mobifarm.controller.host.bundles import Bundles, fetch_bundle
from mobifarm.workloads.models.catalogue import MANIFEST, bundle_named
from mobifarm.workloads.paths import fetched_bundles_directory

CHUNK = 20_000


class Door:
    """A farm that sends from a folder; the cable breaks after so many bytes, again and again."""

    def __init__(self, folder: Path, *, breaks_after: int = 10**12, damage: bytes = b"") -> None:
        self.folder = folder
        self.breaks_after = breaks_after
        self.damage = damage
        self.asked: list[str] = []
        self.sent = 0
        self.may_send = threading.Event()
        self.may_send.set()

    def fetch(
        self, model: str, bundle_hash: str, name: str, target: Path, more: Callable[[int], None]
    ) -> None:
        assert self.may_send.wait(60)
        self.asked.append(name)
        data = (self.folder / name).read_bytes()
        if self.damage and name != MANIFEST:
            data = self.damage + data[len(self.damage) :]
        left = self.breaks_after
        with target.open("ab") as file:
            for at in range(target.stat().st_size, len(data), CHUNK):
                if left <= 0:
                    raise HostError("the cable is out")
                chunk = data[at : at + CHUNK]
                file.write(chunk)
                file.flush()
                self.sent += len(chunk)
                left -= len(chunk)
                more(len(chunk))

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBIFARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bundles, "RETRY_FIRST_S", 0.0)
    return fetched_bundles_directory()


def fetch(door: Any, bundle_hash: str, stop: threading.Event | None = None) -> tuple[Path, list[Any]]:
    told: list[Any] = []
    path = fetch_bundle(door, "tiny", bundle_hash, lambda *news: told.append(news), stop or threading.Event())
    return path, told


def test_a_transfer_that_breaks_goes_on_where_it_was(tiny_bundle_path: Path, cache: Path) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    size = sum(file.stat().st_size for file in tiny_bundle_path.iterdir())
    door = Door(tiny_bundle_path, breaks_after=2 * CHUNK)
    path, told = fetch(door, bundle_hash)
    assert bundle_named(str(path)).hash == bundle_hash
    assert len(door.asked) > len(list(tiny_bundle_path.iterdir()))  # it did break
    assert door.sent == size
    manifest_size = (tiny_bundle_path / MANIFEST).stat().st_size
    assert told[-1] == (size - manifest_size, size - manifest_size)
    assert told == sorted(told)
    fetch(door, bundle_hash)  # is there already
    assert door.sent == size
    assert {file.name for file in path.iterdir()} == {file.name for file in tiny_bundle_path.iterdir()}


def test_what_an_earlier_process_brought_is_used(tiny_bundle_path: Path, cache: Path) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    part = cache / f"{bundle_hash}.part"
    shutil.copytree(tiny_bundle_path, part)
    door = Door(tiny_bundle_path)
    path, _ = fetch(door, bundle_hash)
    assert path == cache / bundle_hash
    assert door.sent == (tiny_bundle_path / MANIFEST).stat().st_size
    assert not part.exists()


def test_damage_is_found_and_nothing_of_it_stays(tiny_bundle_path: Path, cache: Path) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    with pytest.raises(HostError, match="damaged"):
        fetch(Door(tiny_bundle_path, damage=b"\0"), bundle_hash)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    with pytest.raises(HostError, match="damaged"):  # the manifest is another one
        fetch(Door(tiny_bundle_path), "0" * 64)
    assert not (cache / ("0" * 64)).exists()
    fetch(Door(tiny_bundle_path), bundle_hash)


def test_patience_ends(tiny_bundle_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    door = Door(tiny_bundle_path, breaks_after=0)
    with pytest.raises(HostError, match="cable"):
        fetch(door, bundle_hash)
    assert len(door.asked) == bundles.TRIES
    stop = threading.Event()
    stop.set()
    with pytest.raises(HostError, match="stopped"):
        fetch(Door(tiny_bundle_path), bundle_hash, stop)
    monkeypatch.setattr(bundles, "FETCH_DEADLINE_S", -1.0)
    with pytest.raises(HostError, match="did not come"):
        fetch(Door(tiny_bundle_path), bundle_hash)
    assert not (cache / bundle_hash).exists()


@pytest.mark.parametrize("error", [WorkloadError("built anew"), UserError("the token is wrong")])
def test_a_refusal_is_not_tried_again(error: Exception, cache: Path) -> None:
    class Refusing:
        def fetch(self, *_: Any) -> None:
            raise error

    with pytest.raises(type(error), match=str(error)):
        fetch(Refusing(), "0" * 64)


async def test_phones_that_want_the_same_share_one_transfer(tiny_bundle_path: Path, cache: Path) -> None:
    bundle_hash = bundle_named(str(tiny_bundle_path)).hash
    door: Any = Door(tiny_bundle_path)
    door.may_send.clear()
    told: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    with ThreadPoolExecutor(2) as threads:
        here = Bundles(lambda: door, threads)

        def start(number: int) -> asyncio.Task[Path]:
            progress = lambda *news: told[number].append(news)  # noqa: E731
            return asyncio.create_task(here.folder("tiny", bundle_hash, progress))

        tasks = [start(number) for number in told]
        await asyncio.sleep(0)
        tasks[0].cancel()  # its attempt has ended; the others go on
        await asyncio.gather(tasks[0], return_exceptions=True)
        door.may_send.set()
        assert await tasks[1] == await tasks[2] == cache / bundle_hash
        assert await start(1) == cache / bundle_hash
    assert len(door.asked) == len(list(tiny_bundle_path.iterdir()))
    assert told[1]
    assert told[1] == told[2]
    assert not told[0]


async def test_the_farms_own_machine_fetches_nothing(tiny_bundle_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        here = Bundles(None, threads)
        found = bundle_named(str(tiny_bundle_path))
        assert await here.folder(str(tiny_bundle_path), found.hash, lambda *_: None) == found.path
        with pytest.raises(WorkloadError, match="built anew"):
            await here.folder(str(tiny_bundle_path), "0" * 64, lambda *_: None)
