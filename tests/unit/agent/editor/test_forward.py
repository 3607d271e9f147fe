import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor import forward
from mobifarm.agent.editor.forward import (
    PLATEAU_NATS,
    PLATEAU_STEPS,
    SETTLED_SLACK,
    Losses,
    Solution,
    Step,
    clamp_norm,
    minimise,
)
from mobifarm.agent.editor.settings import ForwardSettings

Array = np.ndarray
STOP = ForwardSettings().stop_probability
GOAL = -float(np.log(STOP))


@dataclass
class Bowl:
    """Loss floor + stiffness‖δ − centre‖²/2, with bounded noise; remembers what it was asked."""

    centre: Array
    stiffness: float = 1.0
    floor: float = 0.0
    noise: Callable[[int], Array] = np.zeros
    batches: list[Array] = field(default_factory=list)
    losses: list[Array] = field(default_factory=list)
    settled: list[Array] = field(default_factory=list)

    def evaluate(self, deltas: Array) -> Losses:
        self.batches.append(deltas)
        loss = self.floor + 0.5 * self.stiffness * ((deltas - self.centre) ** 2).sum(axis=1)
        loss = loss + self.noise(len(deltas))
        self.losses.append(loss)
        return Losses(loss, loss)

    def probe(self, deltas: Array, step: int) -> Array:
        return self.evaluate(deltas).total

    def settle(self, delta: Array) -> None:
        self.settled.append(delta)


def search(
    oracle: Bowl,
    settings: ForwardSettings,
    seed: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
    loss_noise: float = 0.0,
) -> Solution:
    return minimise(
        oracle,
        dimension=len(oracle.centre),
        reference_norm=1.0,
        settings=settings,
        generator=np.random.default_rng(seed),
        on_step=on_step,
        loss_noise=loss_noise,
    )


def centre(dimension: int, length: float, seed: int = 0) -> Array:
    vector = np.random.default_rng(seed).standard_normal(dimension)
    return np.asarray(vector * length / np.linalg.norm(vector))


@pytest.mark.parametrize("differences", ["forward", "central"])
@pytest.mark.parametrize("dimension", [3, 40])
def test_a_quadratic_is_brought_to_the_goal(differences: str, dimension: int) -> None:
    bowl = Bowl(centre(dimension, 2.0), stiffness=2.0)
    solution = search(bowl, ForwardSettings(directions=16, differences=differences, step_limit=200))  # type: ignore[arg-type]
    assert solution.converged
    assert solution.target_probability >= STOP
    assert 0.5 * 2.0 * ((solution.delta - bowl.centre) ** 2).sum() <= GOAL


@pytest.mark.parametrize(("differences", "each"), [("forward", 1), ("central", 2)])
def test_a_step_is_one_batch_of_probes_and_one_of_step_lengths(differences: str, each: int) -> None:
    bowl = Bowl(centre(20, 2.0), floor=5.0)
    search(bowl, ForwardSettings(directions=8, differences=differences, step_limit=2))  # type: ignore[arg-type]
    assert [len(batch) for batch in bowl.batches] == [1, 8 * each, 3, 9 * each, 3]


def test_a_goal_that_is_met_from_the_start_needs_no_edit() -> None:
    solution = search(Bowl(np.zeros(10)), ForwardSettings(directions=4))
    assert solution.converged
    assert not solution.delta.any()
    assert solution.steps == 0


def test_an_unreachable_goal_ends_at_the_step_limit() -> None:
    steps: list[Step] = []
    solution = search(
        Bowl(centre(10, 2.0), floor=3.0), ForwardSettings(directions=4, step_limit=5), on_step=steps.append
    )
    assert not solution.converged
    assert solution.steps == 5
    assert steps[-1].number == 5
    assert np.isnan(steps[0].loss)


@given(seed=st.integers(0, 1000), noise=st.floats(0, 0.2))
def test_the_objective_never_rises_beyond_the_noise(seed: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    bowl = Bowl(centre(12, 3.0, seed), floor=3.0, noise=lambda count: noise * generator.uniform(-1, 1, count))
    steps: list[Step] = []
    solution = search(bowl, ForwardSettings(directions=4, step_limit=8), seed, steps.append)
    seen = [step.loss for step in steps if not np.isnan(step.loss)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(seen))
    true = 3.0 + 0.5 * ((solution.delta - bowl.centre) ** 2).sum()
    at_zero = 3.0 + 0.5 * (bowl.centre**2).sum()
    assert true <= at_zero + 2 * noise + 1e-9


@given(seed=st.integers(0, 1000), limit=st.floats(0.05, 2.0))
def test_no_accepted_point_is_longer_than_the_limit(seed: int, limit: float) -> None:
    bowl = Bowl(centre(12, 5.0, seed), floor=1.0)
    solution = search(bowl, ForwardSettings(directions=6, norm_limit=limit, step_limit=6), seed)
    assert np.linalg.norm(solution.delta) <= limit * (1 + 1e-9)


@given(
    st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.01, 50),
)
def test_clamp_shortens_long_rows_and_leaves_the_others(rows: list[list[float]], limit: float) -> None:
    before = np.array(rows)
    after = clamp_norm(before, limit)
    norms = np.linalg.norm(before, axis=1)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.minimum(norms, limit), rtol=1e-9)
    np.testing.assert_array_equal(after[norms <= limit * (1 - 1e-9)], before[norms <= limit * (1 - 1e-9)])


def test_what_is_too_much_is_trimmed() -> None:
    # A single direction: the line search reaches the goal with its first long step.
    bowl = Bowl(np.array([1.0, 0.0]), stiffness=0.8)
    solution = search(bowl, ForwardSettings(directions=2, differences="central", initial_step=4.0))
    trimmed = bowl.batches[-1]
    reached = bowl.losses[-1] <= GOAL
    assert solution.converged
    assert reached.any()
    np.testing.assert_array_equal(solution.delta, trimmed[np.flatnonzero(reached)[0]])


def test_the_penalty_keeps_the_edit_short() -> None:
    lengths = []
    for penalty in (0.0, 1.0):
        settings = ForwardSettings(directions=12, norm_penalty=penalty, step_limit=30)
        solution = search(Bowl(centre(12, 2.0), floor=2.0), settings)
        lengths.append(float(np.linalg.norm(solution.delta)))
    # The minimum of ‖δ − c‖²/2 + ‖δ‖² lies at c/3.
    assert lengths[0] == pytest.approx(2.0, rel=0.05)
    assert lengths[1] == pytest.approx(2 / 3, rel=0.05)


def test_the_penalty_does_not_keep_an_edit_from_a_goal_that_is_near() -> None:
    # With the penalty the minimum lies at c/3, where the target's loss is 0.22 nats: short of the goal.
    bowl = Bowl(centre(12, 1.0))
    solution = search(bowl, ForwardSettings(directions=12, norm_penalty=1.0, step_limit=40))
    assert solution.converged


def test_the_seed_decides_everything() -> None:
    settings = ForwardSettings(directions=4, step_limit=5)
    first, same, other = (
        search(Bowl(centre(12, 3.0), floor=1.0), settings, seed).delta for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_flat_loss_moves_nothing() -> None:
    solution = search(
        Bowl(np.zeros(6), stiffness=0.0, floor=2.0), ForwardSettings(directions=3, step_limit=3)
    )
    assert not solution.delta.any()
    assert not solution.converged


def test_raising_from_on_step_stops_before_the_next_call() -> None:
    class StopError(Exception):
        pass

    bowl = Bowl(centre(10, 2.0), floor=3.0)

    def stop(step: Step) -> None:
        if step.number == 1:
            raise StopError

    with pytest.raises(StopError):
        search(bowl, ForwardSettings(directions=4), on_step=stop)
    assert [len(batch) for batch in bowl.batches] == [1, 4]


def test_a_loss_that_overflows_is_not_followed() -> None:
    bowl = Bowl(centre(10, 2.0), floor=3.0, noise=lambda count: np.full(count, np.nan if count > 4 else 0.0))
    solution = search(bowl, ForwardSettings(directions=6, step_limit=3))
    assert not solution.delta.any()
    assert not solution.converged


def test_the_last_gradients_are_probed_again() -> None:
    bowl = Bowl(centre(40, 2.0), floor=5.0)
    search(bowl, ForwardSettings(directions=8, memory=2, step_limit=4))
    assert [len(batch) for batch in bowl.batches[1::2]] == [8, 9, 10, 10]


@dataclass
class Compass:
    """Guesses the true gradient of a bowl, and knows the axes."""

    bowl: Bowl

    @property
    def directions(self) -> Array:
        return np.eye(len(self.bowl.centre))[:8]

    def guess(self, row: int) -> Array:
        return np.asarray(self.bowl.batches[-1][row] - self.bowl.centre)


class Chart(Compass):
    """Knows directions and guesses nothing."""

    def guess(self, row: int) -> None:
        return None


def guided(bowl: Bowl, settings: ForwardSettings, guess: bool = True) -> Solution:
    return minimise(
        bowl,
        dimension=len(bowl.centre),
        reference_norm=1.0,
        settings=settings,
        generator=np.random.default_rng(0),
        on_step=lambda step: None,
        guide=Compass(bowl) if guess else Chart(bowl),
    )


def test_the_first_line_search_follows_the_guess_alone() -> None:
    bowl = Bowl(centre(40, 2.0), floor=5.0)
    guided(bowl, ForwardSettings(step_limit=1))
    assert [len(batch) for batch in bowl.batches] == [1, 3]
    cosines = bowl.batches[1] @ bowl.centre / np.linalg.norm(bowl.batches[1], axis=1) / 2.0
    np.testing.assert_allclose(cosines, 1.0)


def test_later_the_guess_leads_the_probes() -> None:
    bowl = Bowl(centre(40, 4.0), floor=5.0)
    guided(bowl, ForwardSettings(step_limit=4, guided_directions=5, learned_directions=3, memory=2))
    # The guess, the gradients before (the first was a guess), three learned directions, five random ones.
    assert [len(batch) for batch in bowl.batches[2::2]] == [1 + 1 + 8, 1 + 2 + 8, 1 + 2 + 8]
    here = bowl.batches[1][int(bowl.losses[1].argmin())]
    first_probe = bowl.batches[2][0] - here
    downhill = here - bowl.centre
    assert first_probe @ downhill == pytest.approx(np.linalg.norm(first_probe) * np.linalg.norm(downhill))


def test_the_learned_directions_take_turns() -> None:
    bowl = Bowl(centre(40, 4.0), floor=5.0, stiffness=0.0)
    guided(bowl, ForwardSettings(step_limit=4, guided_directions=2, learned_directions=3, memory=0))
    seen = [(batch - batch.mean(axis=0))[1:4] for batch in bowl.batches if len(batch) == 6]
    assert len(seen) == 3
    axes = [set(np.abs(rows[:, :8]).argmax(axis=1)) for rows in seen]
    assert axes == [{3, 4, 5}, {6, 7, 0}, {1, 2, 3}]


def test_directions_guide_without_a_guess() -> None:
    bowl = Bowl(centre(40, 4.0), floor=5.0)
    guided(bowl, ForwardSettings(step_limit=2, directions=6, learned_directions=3, memory=1), guess=False)
    assert [len(batch) for batch in bowl.batches[1::2]] == [3 + 6, 1 + 3 + 6]


def test_a_guess_that_is_no_number_is_left_out() -> None:
    bowl = Bowl(np.full(10, np.nan), floor=3.0)
    guided(bowl, ForwardSettings(directions=4, learned_directions=2, step_limit=1))
    assert [len(batch) for batch in bowl.batches] == [1, 6]


@dataclass
class Hill(Bowl):
    """Longer is always better, and steeply so; which way δ points counts little, only when it is long, and
    decides. At 0 it is downhill along the first axis."""

    def evaluate(self, deltas: Array) -> Losses:
        self.batches.append(deltas)
        lengths = np.linalg.norm(deltas + 0.001 * np.eye(len(self.centre))[0], axis=1)
        away = np.linalg.norm(deltas / lengths[:, None] - self.centre / np.linalg.norm(self.centre), axis=1)
        target = 2 * np.where(lengths < 0.5, 1.0, away)
        return Losses(target - 300 * lengths, target)


@pytest.mark.parametrize("differences", ["forward", "central"])
def test_at_its_longest_an_edit_moves_along_the_sphere(
    differences: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ForwardSettings(
        directions=8,
        norm_limit=2.0,
        norm_penalty=0.0,
        perturbation=0.01,
        differences=differences,
        step_limit=30,
    )  # type: ignore[call-arg]
    hill = Hill(centre(8, 1.0))
    solution = search(hill, settings)
    assert solution.converged
    assert np.linalg.norm(solution.delta) <= 2.0 * (1 + 1e-9)
    # Where the clamp takes back what points outwards, hardly anything is left of a step.
    monkeypatch.setattr(forward, "AT_LIMIT", np.inf)
    assert not search(Hill(centre(8, 1.0)), settings).converged


@dataclass
class Settling(Bowl):
    """Loses some of what was gained when δ is settled, the first ``losses_of`` times."""

    gives_back: list[float] = field(default_factory=list)

    def settle(self, delta: Array) -> None:
        super().settle(delta)
        self.floor = self.gives_back.pop(0) if self.gives_back else 0.0


def test_a_goal_that_settling_loses_is_searched_again() -> None:
    stop, goal = 0.7, -float(np.log(0.7))  # what settling takes must leave the goal within reach
    bowl = Settling(centre(12, 2.0), gives_back=[0.8 * goal, 0.4 * goal])
    steps: list[Step] = []
    solution = search(
        bowl, ForwardSettings(directions=12, step_limit=60, stop_probability=stop), on_step=steps.append
    )
    assert solution.converged
    assert len(bowl.settled) >= 2
    first = steps.index(next(step for step in steps if step.target_probability >= stop))
    assert steps[-1].number > steps[first].number
    # What is returned was settled last, and was seen to meet the goal after it.
    np.testing.assert_array_equal(solution.delta, bowl.settled[-1])
    np.testing.assert_array_equal(solution.delta, bowl.batches[-1][0])
    assert solution.target_probability == pytest.approx(np.exp(-bowl.losses[-1][0]))


def test_a_goal_that_settling_loses_for_good_is_not_reached() -> None:
    bowl = Settling(centre(12, 2.0), gives_back=[3.0] * 100)
    solution = search(bowl, ForwardSettings(directions=12, step_limit=20))
    assert len(bowl.settled) == 1
    assert not solution.converged
    assert solution.steps == 20
    assert solution.target_probability < 0.06


def test_a_settled_edit_may_fall_a_little_short() -> None:
    """The trimmed δ is just at the goal, so nearly every write-back would lose it."""
    settings = ForwardSettings(directions=12, step_limit=60, stop_probability=0.7)
    goal = -float(np.log(0.7))
    short = Settling(centre(12, 2.0))
    kept = search(short, settings)
    left = goal - float(short.losses[-1][0])  # below the goal after trimming
    for share, settled in ((0.95, 1), (1.2, 2)):
        bowl = Settling(centre(12, 2.0), gives_back=[left + share * SETTLED_SLACK])
        solution = search(bowl, settings)
        assert solution.converged
        assert len(bowl.settled) == settled
    assert kept.converged


@dataclass
class Unsaid(Bowl):
    """The mean loss falls early; the bare prompt's answer is written from a length of ``written_from`` on."""

    written_from: float = 0.0

    def evaluate(self, deltas: Array) -> Losses:
        losses = super().evaluate(deltas)
        return Losses(losses.total, losses.target, np.linalg.norm(deltas, axis=1) >= self.written_from)


def test_the_bare_prompt_must_write_the_answer_too() -> None:
    settings = ForwardSettings(directions=12, norm_penalty=0.0, step_limit=60)
    early = search(Unsaid(centre(12, 2.0)), settings)
    late = search(Unsaid(centre(12, 2.0), written_from=1.9), settings)
    assert early.converged
    assert np.linalg.norm(early.delta) < 1.9
    assert late.converged
    assert np.linalg.norm(late.delta) >= 1.9
    assert late.steps >= early.steps
    never = Unsaid(centre(12, 2.0), written_from=np.inf)
    solution = search(never, settings)
    assert not solution.converged
    assert (solution.steps, never.settled) == (60, [])
    assert solution.target_probability > STOP


def test_a_plateau_near_the_goal_is_the_goal() -> None:
    """The floor leaves a probability of 0.82, which 0.9 can never follow."""
    settings = ForwardSettings(directions=12, norm_penalty=0.0, step_limit=60)
    steps: list[Step] = []
    bowl = Bowl(centre(12, 2.0), floor=0.2)
    solution = search(bowl, settings, on_step=steps.append)
    assert solution.converged
    assert PLATEAU_STEPS <= solution.steps < 60
    # The last steps gained nearly nothing, and shortening δ gave none of the rest away again.
    losses = {step.number: -np.log(step.target_probability) for step in steps if step.number < solution.steps}
    assert losses[solution.steps - PLATEAU_STEPS] - min(losses.values()) < PLATEAU_NATS
    assert solution.target_probability >= max(step.target_probability for step in steps[1:]) - 1e-12
    np.testing.assert_array_equal(solution.delta, bowl.settled[-1])


@pytest.mark.parametrize(
    ("oracle", "plateau"),
    [
        (Bowl(centre(12, 2.0), floor=0.4), 0.7),
        (Bowl(centre(12, 2.0), floor=0.2), STOP),
        (Unsaid(centre(12, 2.0), floor=0.2, written_from=np.inf), 0.7),
    ],
    ids=["too far from the goal", "turned off", "not written"],
)
def test_another_plateau_is_not(oracle: Bowl, plateau: float) -> None:
    settings = ForwardSettings(directions=12, norm_penalty=0.0, step_limit=30, plateau_probability=plateau)
    solution = search(oracle, settings)
    assert (solution.converged, solution.steps) == (False, 30)


def step_lengths(batches: list[Array]) -> list[float]:
    """Of every batch of probes (those of 16 rows), how far they are from where the search was."""
    return [
        float(np.linalg.norm(batch - batch.mean(axis=0), axis=1).mean())
        for batch in batches
        if len(batch) >= 16
    ]


def test_difference_steps_grow_where_rounding_drowns_the_loss_and_no_further() -> None:
    settings = ForwardSettings(directions=16, memory=0, step_limit=4, perturbation=0.1)
    quiet = Bowl(centre(200, 3.0), floor=5.0, stiffness=0.1)
    assert search(quiet, settings).perturbation == pytest.approx(0.1)
    for noise, least, most in ((1e-6, 0.1, 0.1), (1e-3, 0.15, 0.5), (1.0, 2.0, 2.0)):
        random = np.random.default_rng(1)
        bowl = Bowl(
            quiet.centre,
            floor=5.0,
            stiffness=0.1,
            noise=lambda count, of=noise, by=random: of * by.standard_normal(count),
        )
        found = search(bowl, settings, loss_noise=noise)
        assert found.perturbation is not None
        assert least * 0.999 <= found.perturbation <= most * 1.001
        lengths = step_lengths(bowl.batches)
        assert lengths[0] == pytest.approx(0.1, rel=0.05)
        assert max(lengths) == pytest.approx(found.perturbation, rel=0.05)


def test_a_search_that_rounding_blinds_sees_with_longer_steps() -> None:
    """Losses in steps of a tenth, as coarse graphs give them."""

    class Rounded(Bowl):
        def evaluate(self, deltas: Array) -> Losses:
            found = super().evaluate(deltas)
            coarse = np.round(found.total, 1)
            return Losses(coarse, coarse)

    settings = ForwardSettings(directions=32, step_limit=25, perturbation=0.02, norm_penalty=0.0)
    ends = []
    for noise in (0.0, 0.03):
        bowl = Rounded(centre(60, 3.0), floor=0.0)
        solution = search(bowl, settings, loss_noise=noise)
        ends.append(float(np.linalg.norm(solution.delta - bowl.centre)))
    blind, seeing = ends
    assert seeing < 0.6
    assert blind > 2 * seeing


def test_steps_that_were_asked_for_longer_than_the_limit_stay() -> None:
    bowl = Bowl(centre(50, 3.0), floor=5.0, noise=np.random.default_rng(0).standard_normal)
    settings = ForwardSettings(directions=16, step_limit=3, perturbation=3.0)
    assert search(bowl, settings, loss_noise=1.0).perturbation == pytest.approx(3.0)


def test_no_step_is_told_where_none_was_taken() -> None:
    assert search(Bowl(np.zeros(10)), ForwardSettings(directions=4)).perturbation is None
