from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.designs import ALL_PHONES, Arm, Block, Comparison, Verdict, block_orders, compare


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def run(
    number: int,
    *,
    effect: float = 0.0,
    noise: float = 0.02,
    drift: float = 0.0,
    phone: str = "p",
    seed: int = 0,
) -> list[Block]:
    """Blocks of an AB design: 10 s an edit, B longer by the effect, a drift per edit within the block."""
    rng = generator(seed)
    return [
        Block(
            phone,
            arms,
            tuple(
                math.exp(
                    math.log(10)
                    + (effect if arm == "B" else 0.0)
                    + drift * place
                    + noise * float(rng.standard_normal())
                )
                for place, arm in enumerate(arms)
            ),
        )
        for arms in block_orders("ab", number, rng)
    ]


def one(blocks: list[Block], relative: bool = True) -> Comparison:
    (found,) = compare(blocks, relative=relative, generator=generator())
    return found


@given(st.integers(0, 50), st.integers(0, 100))
def test_both_orders_come_equally_often(number: int, seed: int) -> None:
    orders = block_orders("ab", number, generator(seed))
    counts = Counter(orders)
    assert len(orders) == number
    assert abs(counts[("A", "B", "B", "A")] - counts[("B", "A", "A", "B")]) == number % 2
    assert sum(counts.values()) == number


def test_orders_follow_the_seed_alone() -> None:
    assert block_orders("ab", 20, generator(1)) == block_orders("ab", 20, generator(1))
    assert block_orders("ab", 20, generator(1)) != block_orders("ab", 20, generator(2))
    assert block_orders("aa", 2, generator()) == [("A", "A"), ("A", "A")]


def test_a_difference_beyond_the_noise_is_told() -> None:
    found = one(run(12, effect=math.log(1.3)))
    assert found.verdict is Verdict.HIGHER
    assert found.effect == pytest.approx(0.3, abs=0.04)
    assert found.low is not None
    assert found.high is not None
    assert found.floor is not None
    assert 0 < found.floor < found.low < 0.3 < found.high + 0.02


def test_a_difference_below_the_noise_is_inconclusive() -> None:
    assert one(run(12, effect=math.log(1.01), noise=0.2)).verdict is Verdict.INCONCLUSIVE


def test_nothing_is_seldom_taken_for_something() -> None:
    verdicts = Counter(one(run(8, seed=seed)).verdict for seed in range(200))
    assert verdicts[Verdict.INCONCLUSIVE] >= 190


@given(st.floats(-0.3, 0.3))
def test_an_even_drift_cancels(drift: float) -> None:
    still, drifting = one(run(6)), one(run(6, drift=drift))
    assert still.effect is not None
    assert drifting.effect is not None
    assert drifting.effect == pytest.approx(still.effect, abs=1e-9)


@given(st.integers(0, 30))
def test_the_arms_can_be_exchanged(seed: int) -> None:
    blocks = run(9, effect=0.3, seed=seed)
    other: dict[Arm, Arm] = {"A": "B", "B": "A"}
    swapped = [Block(b.phone, tuple(other[arm] for arm in b.arms), b.values) for b in blocks]
    one_way, other_way = one(blocks), one(swapped)
    assert one_way.effect is not None
    assert other_way.effect is not None
    assert (1 + one_way.effect) * (1 + other_way.effect) == pytest.approx(1)
    assert {one_way.verdict, other_way.verdict} == {Verdict.HIGHER, Verdict.LOWER}


def test_every_phone_has_its_own_noise() -> None:
    calm = run(10, effect=0.1, noise=0.01, phone="calm")
    loud = run(10, effect=0.1, noise=0.5, phone="loud", seed=3)
    rows = {row.phone: row for row in compare([*calm, *loud], relative=True, generator=generator())}
    assert list(rows) == ["calm", "loud", ALL_PHONES]
    assert rows["calm"].verdict is Verdict.HIGHER
    assert rows["loud"].verdict is Verdict.INCONCLUSIVE
    assert (rows["calm"].floor or 0) < (rows[ALL_PHONES].floor or 0) < (rows["loud"].floor or 0)
    assert rows[ALL_PHONES].blocks == 20


def test_what_is_always_the_same_needs_no_statistics() -> None:
    arms: tuple[Arm, ...] = ("A", "B", "B", "A")
    found = one([Block("p", arms, (3.0, 2.0, 2.0, 3.0))] * 3, relative=False)
    assert (found.effect, found.low, found.high, found.floor) == (-1.0, -1.0, -1.0, 0.0)
    assert found.verdict is Verdict.LOWER
    assert one([Block("p", arms, (3.0,) * 4)] * 3).verdict is Verdict.INCONCLUSIVE


def test_few_blocks_say_nothing() -> None:
    found = one(run(2, effect=1.0))
    assert (found.verdict, found.effect, found.floor) == (Verdict.TOO_FEW, None, None)
    assert compare([], relative=True, generator=generator()) == []


def test_pairs_alone_give_the_floor() -> None:
    rng = generator(5)
    pairs = [Block("p", ("A", "A"), (1 + 0.1 * rng.random(), 1 + 0.1 * rng.random())) for _ in range(10)]
    found = one(pairs)
    assert (found.verdict, found.effect) == (Verdict.NOISE, None)
    assert found.floor is not None
    assert 0 < found.floor < 0.1
