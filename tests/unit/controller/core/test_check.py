import pytest

from mobifarm.controller.core.check import check
from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.state import AttemptState, TrialState
from mobifarm.controller.errors import Bug


def forget_the_lease(farm):
    del farm.state.leases["a1"]


def lease_the_phone_twice(farm):
    farm.lease("a2", "job/1", "p2")
    farm.attempt("a2").device_id = "p1"


def lease_the_trial_twice(farm):
    farm.lease("a2", "job/1", "p2")
    farm.attempt("a2").trial_id = "job/0"


def reuse_a_token(farm):
    farm.lease("a2", "job/1", "p2")
    farm.attempt("a2").fencing_token = 1


def hand_out_a_token_again(farm):
    farm.state.next_fencing_token = 1


def free_the_phone(farm):
    farm.device().attempt_id = None


def miss_the_loss(farm):
    farm.device().stage = DeviceState.LOST


def count_a_result_twice(farm):
    farm.broke()
    farm.lease("a2", "job/0", "p2")
    farm.finished("a2")
    farm.attempt("a1").state = AttemptState.DONE


def lose_the_result(farm):
    farm.finished()
    farm.trial().result_attempt_id = None


def keep_a_fenced_result(farm):
    farm.broke()
    farm.trial().result_attempt_id = "a1"


def miscount(farm):
    farm.state.jobs["job"].counts[TrialState.DONE] += 1


def lose_a_pending_trial(farm):
    farm.state.jobs["job"].pending["forward"].clear()


def try_too_often(farm):
    farm.state.jobs["job"].attempt_limit = 0


def give_up_early(farm):
    farm.broke()
    farm.trial().state = TrialState.ABANDONED


def end_without_an_end(farm):
    farm.attempt().ended_at = 5.0


def work_and_stop_at_once(farm):
    farm.device().stopping_attempt_id = "old"


def swap_the_phone(farm):
    farm.ready("p2")
    farm.device().identity = farm.device("p2").identity


def cancel_by_half(farm):
    farm.state.jobs["job"].cancelled_at = 5.0


def finish_early(farm):
    farm.state.jobs["job"].finished_at = 5.0


def back_off_while_leased(farm):
    farm.state.backing_off["job/0"] = 5.0


@pytest.mark.parametrize(
    "damage",
    [
        forget_the_lease,
        lease_the_phone_twice,
        lease_the_trial_twice,
        reuse_a_token,
        hand_out_a_token_again,
        free_the_phone,
        miss_the_loss,
        count_a_result_twice,
        lose_the_result,
        keep_a_fenced_result,
        miscount,
        lose_a_pending_trial,
        try_too_often,
        give_up_early,
        end_without_an_end,
        work_and_stop_at_once,
        swap_the_phone,
        cancel_by_half,
        finish_early,
        back_off_while_leased,
    ],
)
def test_damage_is_found(leased, damage):
    damage(leased)
    with pytest.raises(Bug, match="invariant"):
        check(leased.state)
