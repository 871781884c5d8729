"""The scheduler beside a model that only counts: no sequence is lost, no budget exceeded, no adapter starved."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from veneer.errors import ConfigError
from veneer.generation.blocks import DROPPED_BLOCK, BlockGroup, BlockPool
from veneer.generation.scheduler import Limits, Scheduler
from veneer.generation.sequence import Placement, SequenceState, Work

SIZE = 4
GROUPS = (BlockGroup(8, None), BlockGroup(4, 6))
BUDGET = 40 * 12
LIMITS = {"sequences": 5, "prompt_tokens": 7, "block_tokens": SIZE}


def held(sequence: SequenceState, group: int) -> list[int]:
    """Numbers of the blocks that a sequence has in a group; those behind its window are dropped."""
    return [number for number in sequence.tables[group] if number != DROPPED_BLOCK] if sequence.tables else []


class FakeModel:
    """A cache as tokens by block: what a token sees must be the beginning of its own sequence, prompt as prompt and
    answer as answer where these differ."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.cache: dict[tuple[int, int, int], tuple[bytes | None, int, bool]] = {}

    def computed_as(self, sequence: SequenceState, place: int) -> tuple[bytes | None, int, bool]:
        """What a token's keys and values depend on."""
        answered = self.scheduler.prompts_apart and place >= sequence.prompt_tokens
        return sequence.root, sequence.tokens[place], answered

    def step(self) -> list[Work]:
        """Plan and compute a step, and make the next token of every sequence that has none pending."""
        scheduler, size = self.scheduler, self.scheduler.limits.block_tokens
        work = scheduler.plan(scheduler.limits.prompt_tokens)
        assert scheduler.pool.used_bytes <= scheduler.pool.budget
        assert len(scheduler.running) <= scheduler.limits.sequences
        pieces = [one for one in work if one.sequence.placement is Placement.BLOCKS]
        assert sum(one.count for one in pieces if one.count > 1) <= scheduler.limits.prompt_tokens
        assert len({one.sequence.number for one in work}) == len(work)
        for one in pieces:
            self.write(one, size)
        for one in pieces:
            self.read(one, size)
        scheduler.computed(work)
        for one in work:
            if one.sequence.pending == 0:
                one.sequence.tokens.append((7 * len(one.sequence.tokens) + one.sequence.tokens[-1]) % 50)
        return work

    def write(self, work: Work, size: int) -> None:
        sequence = work.sequence
        for group in range(len(self.scheduler.pool.groups)):
            for place in range(work.start, work.start + work.count):
                number = sequence.tables[group][place // size]
                assert number != DROPPED_BLOCK
                self.cache[group, number, place % size] = self.computed_as(sequence, place)

    def read(self, work: Work, size: int) -> None:
        """Every token that is seen is there, and is the sequence's own."""
        sequence = work.sequence
        for group, kind in enumerate(self.scheduler.pool.groups):
            for place in range(work.start, work.start + work.count):
                oldest = 0 if kind.window is None else max(0, place + 1 - kind.window)
                for seen in range(oldest, place + 1):
                    number = sequence.tables[group][seen // size]
                    assert number != DROPPED_BLOCK
                    assert self.cache[group, number, seen % size] == self.computed_as(sequence, seen)


def sequence_of(number: int, adapter: str, prompt: list[int], most: int, **changes: object) -> SequenceState:
    return SequenceState(
        number=number,
        adapter=adapter,
        root=adapter.encode(),
        tokens=list(prompt),
        prompt_tokens=len(prompt),
        capacity=len(prompt) + most,
        **changes,  # type: ignore[arg-type]
    )


class SchedulerMachine(RuleBasedStateMachine):
    """Sequences come, are cancelled and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(GROUPS, BUDGET)
        self.scheduler = Scheduler(self.pool, Limits(**LIMITS), prompts_apart=True)  # type: ignore[arg-type]
        self.model = FakeModel(self.scheduler)
        self.there: dict[int, SequenceState] = {}
        self.numbers = 0

    @rule(
        adapter=st.sampled_from(["", "a", "b"]),
        beginning=st.sampled_from([[], [1] * 9, [2, 3] * 6]),
        rest=st.lists(st.integers(0, 49), min_size=1, max_size=9),
        most=st.integers(1, 20),
        placement=st.sampled_from([Placement.BLOCKS] * 4 + [Placement.COHORT]),
        shares=st.booleans(),
    )
    def arrives(self, adapter: str, beginning: list[int], rest: list[int], most: int, placement: Placement,
                shares: bool) -> None:  # fmt: skip
        sequence = sequence_of(self.numbers, adapter, beginning + rest, most, placement=placement)
        sequence.root = sequence.root if shares else None
        self.numbers += 1
        self.scheduler.check(sequence)
        self.scheduler.add(sequence)
        self.there[sequence.number] = sequence

    @rule(steps=st.integers(1, 8))
    def steps(self, steps: int) -> None:
        for _ in range(steps):
            work = self.model.step()
            assert work or not self.there
            for one in work:
                if len(one.sequence.tokens) == one.sequence.capacity:
                    self.scheduler.remove(self.there.pop(one.sequence.number))

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def is_cancelled(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.there)))
        self.scheduler.remove(self.there.pop(number))

    @precondition(lambda self: any(one.root is None for one in self.scheduler.running))
    @rule(data=st.data())
    def outgrows(self, data: st.DataObject) -> None:
        own = [one for one in self.scheduler.running if one.root is None and one.placement is Placement.BLOCKS]
        if own:
            self.scheduler.restart(data.draw(st.sampled_from(own)))

    @invariant()
    def nobody_is_lost(self) -> None:
        assert len(self.scheduler.running) + self.scheduler.waiting == len(self.there)

    @invariant()
    def windows_hold_no_more_than_they_see(self) -> None:
        window = GROUPS[1].window
        assert window is not None
        for one in self.scheduler.running:
            if one.placement is Placement.BLOCKS:
                assert len(held(one, 1)) <= -(-window // SIZE) + 1

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        blocks = {(group, number) for one in self.scheduler.running for group in (0, 1) for number in held(one, group)}
        in_use = sum(GROUPS[group].block_bytes for group, _ in blocks)
        assert self.pool.used_bytes - self.pool.idle_bytes == in_use

    def teardown(self) -> None:
        """Whoever is there comes to an end: within so many steps as there are tokens, and replays of them."""
        for _ in range(40 * (1 + sum(one.capacity for one in self.there.values()))):
            if not self.there:
                break
            self.steps(1)
        assert not self.there


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def run_until_idle(scheduler: Scheduler, model: FakeModel, there: dict[int, SequenceState]) -> list[int]:
    """Numbers of the sequences in the order in which they ended."""
    ended = []
    while there:
        for one in model.step():
            if len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(there.pop(one.sequence.number))
                ended.append(one.sequence.number)
    return ended


def make(limits: dict[str, int], budget: int = 10**6, *, prompts_apart: bool = False) -> tuple[Scheduler, FakeModel]:
    pool = BlockPool((BlockGroup(8, None),), budget)
    scheduler = Scheduler(pool, Limits(**limits), prompts_apart=prompts_apart)  # type: ignore[arg-type]
    return scheduler, FakeModel(scheduler)


def test_a_busy_adapter_does_not_starve_another() -> None:
    """A hundred requests are there when another adapter's one comes: it ends among the first, not the last."""
    scheduler, model = make({"sequences": 4, "prompt_tokens": 16, "block_tokens": 4})
    there = {number: sequence_of(number, "busy", [number] * 8, 8) for number in range(100)}
    for one in there.values():
        scheduler.add(one)
    for _ in range(3):
        model.step()
    there[100] = sequence_of(100, "quiet", [5] * 8, 8)
    scheduler.add(there[100])
    assert run_until_idle(scheduler, model, there).index(100) < 6


def test_two_backlogged_adapters_are_served_alike() -> None:
    """The virtual counters of two adapters that both have work differ by no more than what runs at a time."""
    scheduler, model = make({"sequences": 6, "prompt_tokens": 16, "block_tokens": 4})
    source = random.Random(1)
    # One sends long prompts with short answers, and the other short ones with long answers.
    for number in range(80):
        long = sequence_of(number, "long", [source.randrange(50) for _ in range(40)], 3)
        short = sequence_of(100 + number, "short", [source.randrange(50) for _ in range(4)], 25)
        for one in (long, short):
            scheduler.add(one)
    bound = 2 * 6 * (40 + 2 * 25)
    for _ in range(150):
        for one in model.step():
            if len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(one.sequence)
        assert abs(scheduler.served("long") - scheduler.served("short")) <= bound
    assert min(scheduler.served("long"), scheduler.served("short")) > 2 * bound / 4


@pytest.mark.parametrize("head_start", [0, 50])
def test_whoever_comes_back_from_idleness_has_saved_up_a_head_start_at_most(head_start: int) -> None:
    scheduler, model = make({"sequences": 2, "prompt_tokens": 8, "block_tokens": 4, "head_start": head_start})
    scheduler.add(sequence_of(0, "late", [1] * 4, 2))
    there = {0: scheduler.running[0]} if scheduler.running else {}
    for number in range(1, 30):
        scheduler.add(sequence_of(number, "steady", [number] * 12, 6))
    for _ in range(40):
        for one in model.step():
            if len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(one.sequence)
    assert not there
    scheduler.add(sequence_of(99, "late", [1] * 4, 2))
    assert scheduler.served("late") == pytest.approx(scheduler.served("steady") - head_start, abs=1)


def test_whoever_comes_back_soon_is_behind_by_what_it_missed_alone() -> None:
    """A head start larger than what others were served meanwhile gives nothing beyond that."""
    scheduler, model = make({"sequences": 2, "prompt_tokens": 8, "block_tokens": 4, "head_start": 1000})
    there = {number: sequence_of(number, "steady", [number] * 12, 6) for number in range(20)}
    there[50] = sequence_of(50, "late", [1] * 4, 2)
    for one in there.values():
        scheduler.add(one)
    while 50 in there:
        for one in model.step():
            if len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(there.pop(one.sequence.number))
    before = scheduler.served("late")
    model.step()
    scheduler.add(sequence_of(51, "late", [1] * 4, 2))
    assert scheduler.served("late") == before > 0


@pytest.mark.parametrize(("head_start", "together"), [(0, False), (64, True)])
def test_the_pieces_of_a_rare_question_come_one_after_another(head_start: int, together: bool) -> None:
    """A prompt of four steps, beside an adapter that has as many new prompts as a step takes, at each step."""
    limits = {"sequences": 40, "prompt_tokens": 16, "block_tokens": 4, "head_start": head_start}
    scheduler, model = make(limits)
    numbers = iter(range(1000))

    def step() -> list[Work]:
        for _ in range(2):
            scheduler.add(sequence_of(next(numbers), "busy", [3] * 8, 3))
        work = model.step()
        for one in work:
            if len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(one.sequence)
        return work

    for _ in range(10):
        step()
    rare = sequence_of(1000, "rare", [5] * 64, 2)
    scheduler.add(rare)
    pieces = [sum(one.count for one in step() if one.sequence is rare) for _ in range(4)]
    assert (pieces == [16] * 4) is together


def test_preempted_sequences_go_on_where_they_were() -> None:
    """The cache holds three long sequences and ten come: all end, and what was made stays made."""
    scheduler, model = make({"sequences": 8, "prompt_tokens": 16, "block_tokens": 4}, budget=3 * 8 * 8)
    there = {number: sequence_of(number, f"{number % 2}", [number] * 4, 26) for number in range(10)}
    for one in there.values():
        scheduler.check(one)
        scheduler.add(one)
    made = {number: list(one.tokens) for number, one in there.items()}
    while there:
        for one in model.step():
            sequence = one.sequence
            assert sequence.tokens[: len(made[sequence.number])] == made[sequence.number]
            made[sequence.number] = list(sequence.tokens)
            if len(sequence.tokens) == sequence.capacity:
                scheduler.remove(there.pop(sequence.number))
    assert scheduler.preemptions > 0
    assert {len(tokens) for tokens in made.values()} == {30}


def test_beginnings_are_shared_under_one_adapter_alone() -> None:
    scheduler, model = make({"sequences": 4, "prompt_tokens": 64, "block_tokens": 4})
    beginning = list(range(20))
    for number, adapter in enumerate(["a", "a", "b", "a"]):
        one = sequence_of(number, adapter, [*beginning, 40 + number], 2)
        scheduler.add(one)
        while one.pending != 1 or one.computed == 0:
            model.step()
        assert one.cached_tokens == (20 if number in (1, 3) else 0)
        scheduler.remove(one)
    assert (scheduler.asked_tokens, scheduler.shared_tokens) == (84, 40)


@pytest.mark.parametrize(("apart", "shared"), [(False, 28), (True, 20)])
def test_an_answer_is_shared_as_a_prompt_only_where_its_bits_are_the_same(apart: bool, shared: int) -> None:
    """The second turn's prompt holds the first one's answer, which is computed again where kernels differ."""
    scheduler, model = make({"sequences": 4, "prompt_tokens": 64, "block_tokens": 4}, prompts_apart=apart)
    first = sequence_of(0, "a", list(range(21)), 9)
    scheduler.add(first)
    while len(first.tokens) < first.capacity:
        model.step()
    text = list(first.tokens)
    scheduler.remove(first)
    again = sequence_of(1, "a", text, 2)
    scheduler.add(again)
    model.step()
    assert again.cached_tokens == shared
    scheduler.remove(again)
    once_more = sequence_of(2, "a", text[:21], 9)
    scheduler.add(once_more)
    model.step()
    assert once_more.cached_tokens == 20


def test_adapters_stand_together() -> None:
    scheduler, model = make({"sequences": 9, "prompt_tokens": 64, "block_tokens": 4})
    for number in range(9):
        scheduler.add(sequence_of(number, "cab"[number % 3], [number] * 3, 4))
    adapters = [one.sequence.adapter for one in model.step()]
    assert Counter(adapters) == {"a": 3, "b": 3, "c": 3}
    assert adapters == sorted(adapters)


def test_cohorts_wait_for_places() -> None:
    """A cohort is not begun for the one place that has become free."""
    scheduler, model = make({"sequences": 8, "prompt_tokens": 64, "block_tokens": 4})
    for number in range(16):
        most = 2 if number == 0 else 9
        scheduler.add(sequence_of(number, "", [number] * 3, most, placement=Placement.COHORT))
    first = {one.sequence.number for one in model.step()}
    assert first == set(range(8))
    while 0 in first:
        for one in model.step():
            if one.sequence.number == 0 and len(one.sequence.tokens) == one.sequence.capacity:
                scheduler.remove(one.sequence)
                first.remove(0)
    assert {one.sequence.number for one in model.step()} == first


@pytest.mark.parametrize("placement", Placement)
def test_no_more_give_way_to_a_cohort_than_it_waits_for(placement: Placement) -> None:
    scheduler, model = make({"sequences": 8, "prompt_tokens": 64, "block_tokens": 4})
    for number in range(8):
        scheduler.add(sequence_of(number, "", [number] * 3, 9, placement=placement))
    model.step()
    scheduler.add(sequence_of(8, "rare", [8] * 3, 9, placement=Placement.COHORT))
    assert 8 in {one.sequence.number for one in model.step()}
    assert scheduler.preemptions == 2  # a quarter of the places


def test_what_a_cohort_had_answered_comes_behind_its_prompt_token_by_token() -> None:
    """As it came before it was preempted, so that a token is computed by the same operations."""
    scheduler, _ = make({"sequences": 8, "prompt_tokens": 64, "block_tokens": 4})
    again, other = (sequence_of(number, "", [number] * 5, 9, placement=Placement.COHORT) for number in range(2))
    again.tokens += [7, 8, 9]
    scheduler.add(again)
    scheduler.add(other)
    seen = []
    for _ in range(5):
        work = scheduler.plan(64)
        seen.append([(one.sequence.number, one.start, one.count, one.ends) for one in work])
        scheduler.computed(work)
        other.tokens.append(1)
    assert seen[0] == [(0, 0, 5, False), (1, 0, 5, True)]
    assert [step[0] for step in seen[1:4]] == [(0, 5, 1, False), (0, 6, 1, False), (0, 7, 1, True)]
    assert [step[-1] for step in seen[1:]] == [(1, place, 1, True) for place in (5, 6, 7, 8)]
    assert len(seen[4]) == 1  # nobody has added a token to the first one


def test_what_never_fits_is_refused() -> None:
    scheduler, _ = make({"sequences": 2, "prompt_tokens": 8, "block_tokens": 4}, budget=80)
    scheduler.check(sequence_of(0, "", [1] * 30, 10))
    with pytest.raises(ConfigError, match="41 tokens needs 88 bytes"):
        scheduler.check(sequence_of(1, "", [1] * 31, 10))
    assert [scheduler.longest(Placement.BLOCKS, most) for most in (1, 39, 40, 41, 10_000)] == [1, 39, 40, 40, 40]


@pytest.mark.parametrize("name", ["sequences", "prompt_tokens", "block_tokens", "prompt_seconds"])
def test_limits_out_of_range(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: 0"):
        Limits(**{name: 0})  # type: ignore[arg-type]
