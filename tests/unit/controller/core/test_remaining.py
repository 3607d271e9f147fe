from mobifarm.controller.core.remaining import remaining
from mobifarm.controller.core.selector import COMPUTER


def test_without_a_measured_edit_nobody_knows(farm):
    farm.ready("p1")
    farm.submit(trials=3)
    assert remaining(farm.state, "job", farm.now).seconds is None
    farm.lease("a1")
    found = remaining(farm.state, "job", farm.now)
    assert (found.seconds, found.words) == (None, "unknown: no edit of it has ended yet")


def test_the_mean_of_its_own_edits_over_the_phones_that_work(farm):
    farm.ready("p1")
    farm.ready("p2")
    farm.submit(trials=6)
    farm.lease("a1")
    farm.now += 40
    farm.finished("a1")
    farm.lease("a2", "job/1")
    farm.lease("a3", "job/2", "p2")
    farm.now += 10
    found = remaining(farm.state, "job", farm.now)
    assert found.seconds == (3 * 40 + 30 + 30) / 2
    assert found.words == "with 2 phones that work on it, at 40.0 s an edit so far"
    farm.now += 100  # longer than usual: the running edits count as about to end
    assert remaining(farm.state, "job", farm.now).seconds == 60.0


def test_with_nobody_at_work_or_at_its_end_there_is_no_time(farm):
    farm.ready("p1")
    farm.submit(trials=2)
    farm.lease("a1")
    farm.now += 5
    farm.finished("a1")
    assert remaining(farm.state, "job", farm.now).words == "unknown: no phone works on it now"
    farm.lease("a2", "job/1")
    farm.finished("a2")
    assert remaining(farm.state, "job", farm.now).words == "the job has ended (done)"


def test_phones_and_the_computer_are_not_mixed(farm):
    farm.ready("p1")
    farm.ready(COMPUTER, execution=COMPUTER, methods=("rome",))
    farm.submit(trials=3, methods=("forward", "forward", "rome"))
    farm.lease("a1")
    farm.now += 5
    farm.finished("a1")
    farm.lease("a2", "job/1")
    farm.lease("a3", "job/2", COMPUTER)
    found = remaining(farm.state, "job", farm.now)
    assert found.seconds is None
    assert "the computer" in found.words
