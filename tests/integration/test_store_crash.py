"""A controller that is killed loses nothing that its store has acknowledged."""

import sqlite3
import subprocess
import sys

from mobifarm.controller.core.step import replay
from mobifarm.controller.core.views import job_view
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore

# Eight threads submit jobs as fast as the disk lets them and say so once the store has acknowledged each.
WRITER = """
import os, sys, threading
from pathlib import Path
from mobifarm.controller.core.events import JobSubmitted, TrialPlan
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))

def submit(name):
    number = 0
    while True:
        job = f"{store.epoch}-{name}-{number}"
        plan = TrialPlan(f"{job}/0", "", {"job": job, "text": "x" * 500})
        event = JobSubmitted(float(number), job, "", "", {}, (plan,), DeviceSelector(), 0, 1)
        seq = store.append([event]).result()
        os.write(1, f"{job} {seq}\\n".encode())
        number += 1

for name in range(8):
    threading.Thread(target=submit, args=(name,)).start()
"""
KILLS = 5


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed_again_and_again(tmp_path):
    path = tmp_path / "farm.sqlite"
    acknowledged = {}
    for kill in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            for _ in range(7 * (kill + 1)):
                job, seq = writer.stdout.readline().split()
                acknowledged[job.decode()] = int(seq)
            writer.kill()
            *complete, _ = writer.stdout.read().split(b"\n")
            acknowledged.update((job.decode(), int(seq)) for job, seq in map(bytes.split, complete))

    with StoreReader(path) as reader:  # before any writer has repaired the file
        seen = {event.job_id: seq for seq, event in reader.events()}
        assert acknowledged.items() <= seen.items()
        assert list(seen.values()) == list(range(1, len(seen) + 1))

    with SqliteStore(path) as store, StoreReader(path) as reader:
        assert store.epoch == KILLS + 1
        state = replay(store.load())
        assert reader.jobs() == [job_view(state, job) for job in state.jobs]
        for job in acknowledged:
            assert store.payload(f"{job}/0")["job"] == job
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
