"""What is removed from the cache, and above all what is not."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobifarm.controller.cache import FETCHED, Kind, prune, stored
from mobifarm.controller.cli.cache import app
from mobifarm.controller.provisioning.packing.archive import Member, ensure_archive
from mobifarm.workloads.paths import bundles_directory, fetched_bundles_directory

OLD, SINCE = 1_000.0, 2_000.0


def file(path: Path, size: int = 10, *, used_at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used_at, used_at))
    os.utime(path.parent, (used_at, used_at))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Everything old."""
    for name in ("runtimes/aa.tar.gz", "runtimes/.new-1", "runtimes/downloads-arm64-v8a/python.deb"):
        file(tmp_path / name)
    file(tmp_path / "runtimes/11.txt").write_text("aa")
    for name in ("fetched-bundles/bb/model", "fetched-bundles/cc.part/model", "bundles/tiny/model"):
        file(tmp_path / name)
    file(tmp_path / "sources/text")
    return tmp_path


def names(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()} - {
        "runtimes/.lock",
        "fetched-bundles/bb.lock",
        "fetched-bundles/cc.lock",
    }


def test_only_what_comes_again_by_itself_is_removed(cache: Path) -> None:
    before = names(cache)
    assert len(prune(cache, unused_since=SINCE, dry_run=True)) == 4
    assert names(cache) == before
    removed = prune(cache, unused_since=SINCE)
    assert sorted(one.path.name for one in removed) == [".new-1", "aa.tar.gz", "bb", "cc.part"]
    left = {"runtimes/downloads-arm64-v8a/python.deb", "bundles/tiny/model", "sources/text"}
    assert names(cache) == left
    assert not (cache / "fetched-bundles/bb").exists()
    assert prune(cache, unused_since=SINCE) == []


def test_what_was_used_since_stays(cache: Path) -> None:
    for path in ("runtimes/aa.tar.gz", "fetched-bundles/bb", "fetched-bundles/cc.part/model"):
        os.utime(cache / path, (SINCE, SINCE))
    assert [one.path.name for one in prune(cache, unused_since=SINCE)] == [".new-1"]
    assert (cache / "runtimes/11.txt").exists()


def test_what_is_made_or_fetched_now_stays(cache: Path) -> None:
    with (
        (cache / "runtimes/.lock").open("w") as making,
        (cache / "fetched-bundles/cc.lock").open("w") as lock,
    ):
        fcntl.flock(making, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [one.path.name for one in prune(cache, unused_since=SINCE)] == ["bb"]


def test_an_archive_that_a_phone_is_given_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "runtimes"
    folder.mkdir()

    def members() -> list[Member]:
        return [Member("a", content=b"1")]

    archive = ensure_archive(folder, "f", members, level=1)
    os.utime(archive.path, (OLD, OLD))
    assert ensure_archive(folder, "f", members, level=1) == archive
    assert prune(tmp_path, unused_since=SINCE) == []
    os.utime(archive.path, (OLD, OLD))
    assert len(prune(tmp_path, unused_since=SINCE)) == 1
    assert ensure_archive(folder, "f", members, level=1).path.exists()


def test_the_names_are_those_that_others_use(tmp_path: Path) -> None:
    environment = {"MOBIFARM_CACHE": str(tmp_path)}
    assert fetched_bundles_directory(environment) == tmp_path / FETCHED
    file(bundles_directory(environment) / "tiny/model", 7)
    file(fetched_bundles_directory(environment) / "bb/model", 5)
    assert {(one.kind, one.size_bytes) for one in stored(tmp_path)} == {(Kind.BUILT, 7), (Kind.FETCHED, 5)}


def test_no_cache_at_all_is_empty(tmp_path: Path) -> None:
    assert stored(tmp_path / "none") == []
    assert prune(tmp_path / "none", unused_since=SINCE) == []


def test_the_command_lists_and_removes(
    cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    file(home / "telemetry/job/attempt.parquet", 2_000_000)
    file(home / "farm.sqlite-wal", 1_000_000)
    monkeypatch.setenv("MOBIFARM_CACHE", str(cache))
    monkeypatch.setenv("MOBIFARM_HOME", str(home))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    assert "agent runtime" in run()
    told = json.loads(run("--json"))
    assert told["farm_bytes"] == {"log": 1_000_000, "raw_samples": 2_000_000}
    assert {one["kind"] for one in told["stored"] if one["pruned"]} == {"runtime", "fetched"}
    assert "would free 0.0 MB" in run("prune", "--dry-run")
    assert len(json.loads(run("prune", "--json"))["removed"]) == 4
    assert run("prune") == "freed 0.0 MB\n"
    assert (home / "telemetry/job/attempt.parquet").exists()
