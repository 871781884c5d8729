"""Which tokens the next step computes: plain Python, without a model.

Every step computes the next token of all running sequences, and as many prompt tokens as there is time for. A sequence
runs once it is admitted, in turns of the adapters: each has a virtual counter of the tokens that it was served (Sheng
et al., 2024, arXiv:2401.00588), and the one that was served least comes first. An adapter that returns from idleness
has a counter lower than the others' by no more than a head start of one long question. So occasional requests need not
wait for adapters that are always busy, and cannot save up more than that.

When the cache is full, the sequence that was admitted last gives up its blocks. It waits at the front of its adapter's
queue with all tokens that it has made, and its keys and values are computed again. The sequence that was admitted first
is never preempted, so that some sequence always comes to its end. An adapter that has at least two running sequences
more than another one also gives way to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from veneer.errors import ConfigError, listing
from veneer.generation.blocks import DROPPED_BLOCK, BlockPool, content_key
from veneer.generation.sequence import Placement, SequenceState, Work

BLOCK_TOKENS = 16
"""The tokens of a block of the cache, unless the caller says otherwise."""
PROMPT_WEIGHT, ANSWER_WEIGHT = 1, 2
"""The weights of a prompt's token and of an answer's token, as in the paper."""


@dataclass(slots=True)
class Limits:
    """The limits of one step.

    Raises:
        ConfigError: a value is out of range.
    """

    sequences: int = 64
    """The most sequences that run at a time."""
    prompt_tokens: int = 256
    """The most prompt tokens that a step computes, besides the next tokens of all other sequences."""
    block_tokens: int = BLOCK_TOKENS
    """Tokens of a block of the cache."""
    prompt_seconds: float | None = 0.25
    """A step computes no more prompt tokens than fit into this time, in seconds; None sets no limit of time."""
    head_start: int = 1024
    """The tokens by which the counter of an adapter that returns from idleness may be below those of all busy ones.
    This is our addition: in the paper such an adapter starts level, and then the pieces of its prompt alternate with
    the prompts of the others.
    """

    def __post_init__(self) -> None:
        problems = []
        if self.sequences < 1:
            problems.append(f"sequences: {self.sequences}, must be at least 1")
        if self.prompt_tokens < 1:
            problems.append(f"prompt_tokens: {self.prompt_tokens}, must be at least 1")
        if self.block_tokens < 1:
            problems.append(f"block_tokens: {self.block_tokens}, must be at least 1")
        if self.head_start < 0:
            problems.append(f"head_start: {self.head_start}, must be at least 0")
        if self.prompt_seconds is not None and not self.prompt_seconds > 0:
            problems.append(f"prompt_seconds: {self.prompt_seconds}, must be above 0")
        if problems:
            raise ConfigError(f"limits of the engine out of range:\n{listing(problems)}")

    @property
    def step_tokens(self) -> int:
        """The most tokens that a step computes."""
        return self.sequences + self.prompt_tokens


class Scheduler:
    """Decides which sequences run, and which of their tokens a step computes.

    Args:
        pool: the cache's blocks.
        limits: the limits of a step.
        prompts_apart: see `veneer.generation.runner.Runner.prompts_apart`.
    """

    def __init__(self, pool: BlockPool, limits: Limits, *, prompts_apart: bool = False):
        self.pool, self.limits, self.prompts_apart = pool, limits, prompts_apart
        self.running: list[SequenceState] = []
        """The admitted sequences, in the order of their admission."""
        self._waiting: dict[str, deque[SequenceState]] = {}
        self._counters: dict[str, float] = {}
        self._floor = 0.0
        self.preemptions = 0
        """How often a sequence gave up its blocks."""
        self.asked_tokens = self.shared_tokens = 0
        """Prompt tokens of all admissions, and those among them that were in the cache."""

    @property
    def waiting(self) -> int:
        """Number of sequences that wait."""
        return sum(map(len, self._waiting.values()))

    def served(self, adapter: str) -> float:
        """The virtual counter of an adapter."""
        return self._counters.get(adapter, self._start)

    def check(self, sequence: SequenceState) -> None:
        """Raise ConfigError for a sequence that could never be in the cache as a whole.

        This changes nothing, and may be called on any thread.
        """
        need = self._bytes_for(sequence.placement, sequence.capacity)
        if need > self.pool.budget:
            raise ConfigError(
                f"a sequence of {sequence.capacity:,} tokens needs {need:,} bytes of cache, but there are only "
                f"{self.pool.budget:,}; give a shorter prompt, a shorter answer, or a larger cache (--cache-memory)"
            )

    def longest(self, placement: Placement, most: int) -> int:
        """The most tokens, up to `most`, of a sequence that `check` accepts."""
        return bisect_right(range(1, most + 1), self.pool.budget, key=partial(self._bytes_for, placement))

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence that `check` accepts."""
        self._lift(sequence.adapter)
        self._waiting.setdefault(sequence.adapter, deque()).append(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence that has ended; its whole blocks may still be shared."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
            return
        queue = self._waiting[sequence.adapter]
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.adapter]

    def plan(self, prompt_tokens: int) -> list[Work]:
        """The work of the next step, with its blocks allocated; sequences of one adapter are together.

        It has at most `prompt_tokens` prompt tokens, which must not exceed those of the limits.
        """
        self._admit()
        found: list[Work] = []
        left = prompt_tokens
        for sequence in self._in_turn():
            if sequence not in self.running:
                continue  # it was preempted for an earlier one
            count = _next_count(sequence, left)
            if count == 0 or not self._cover(sequence, sequence.computed + count):
                continue
            found.append(Work(sequence, sequence.computed, count))
            left -= min(count, left) if sequence.pending > 1 else 0
        kept = [work for work in found if work.sequence in self.running]
        return sorted(kept, key=lambda work: (work.sequence.adapter, work.sequence.number))

    def computed(self, work: list[Work]) -> None:
        """Record a step that was carried out."""
        for one in work:
            sequence = one.sequence
            sequence.computed = one.start + one.count
            self._register(sequence)
            self._slide(sequence)
            # Tokens that are computed again after a preemption have been counted before.
            fresh = max(0, sequence.computed - max(one.start, sequence.charged))
            weight = ANSWER_WEIGHT if sequence.computed > sequence.prompt_tokens else PROMPT_WEIGHT
            self._counters[sequence.adapter] = self.served(sequence.adapter) + weight * fresh
            sequence.charged = max(sequence.charged, sequence.computed)

    def restart(self, sequence: SequenceState) -> None:
        """Drop what a running sequence has in the cache, because it is no longer valid; nothing of it is shared."""
        sequence.root = None
        self._release(sequence)

    def preempt(self, sequence: SequenceState) -> None:
        """Take a sequence's blocks away; it waits at the front of its adapter's queue."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.setdefault(sequence.adapter, deque()).appendleft(sequence)

    def _in_turn(self) -> list[SequenceState]:
        """The running sequences: first those with one token to compute, then prompts, those of the least served adapter
        first."""
        steps = [sequence for sequence in self.running if sequence.pending == 1]
        prompts = [sequence for sequence in self.running if sequence.pending != 1]
        return steps + sorted(prompts, key=lambda sequence: self.served(sequence.adapter))

    def _admit(self) -> None:
        joins = self._joinable()
        while self._waiting:
            adapter = min(self._waiting, key=lambda name: (self.served(name), self._waiting[name][0].number))
            sequence = self._waiting[adapter][0]
            while not self._fits(sequence, joins):
                victim = self._in_the_way(adapter)
                if victim is None:
                    return
                self.preempt(victim)
                joins = joins or self._joinable()
            self._waiting[adapter].popleft()
            if not self._waiting[adapter]:
                del self._waiting[adapter]
            self._begin(sequence)

    def _joinable(self) -> bool:
        """Whether a new cohort may begin. Cohorts are computed one after another, so there should be few: none begins
        for the last few places."""
        places, room = self.limits.sequences - len(self.running), self.pool.room()
        return not self.running or (4 * places >= self.limits.sequences and 4 * room >= self.pool.budget)

    def _fits(self, sequence: SequenceState, joins: bool) -> bool:
        """Whether a place and the blocks of all its tokens, and of one more, are free.

        One block more is left to each running sequence, so that those do not preempt it in their next steps. A cohort
        fits only if it `joins`.
        """
        if sequence.placement is Placement.COHORT and not joins:
            return False
        tokens = min(sequence.length + 1, sequence.capacity)
        tokens = sequence.capacity if sequence.placement is Placement.COHORT else tokens
        need = self._bytes_for(sequence.placement, tokens)
        reserve = len(self.running) * sum(kind.block_bytes for kind in self.pool.groups)
        return len(self.running) < self.limits.sequences and need + reserve <= self.pool.room()

    def _in_the_way(self, adapter: str) -> SequenceState | None:
        """The running sequence that gives way to one of an adapter: the last of the adapter with most of them."""
        counts = Counter(sequence.adapter for sequence in self.running)
        if not counts:
            return None
        most, count = max(counts.items(), key=lambda item: (item[1], self.served(item[0])))
        if count < counts[adapter] + 2:
            return None
        return next(sequence for sequence in reversed(self.running) if sequence.adapter == most)

    def _begin(self, sequence: SequenceState) -> None:
        sequence.begin()
        shared = self._shared_keys(sequence)
        sequence.tables, sequence.keys = [[] for _ in self.pool.groups], shared
        size = self.limits.block_tokens
        for group, (table, kind) in enumerate(zip(sequence.tables, self.pool.groups, strict=True)):
            first = 0 if kind.window is None else max(0, len(shared) * size + 1 - kind.window) // size
            for place, key in enumerate(shared):
                number = DROPPED_BLOCK if place < first else self.pool.share(group, key)
                assert number is not None
                table.append(number)
        sequence.computed = len(shared) * size
        if not sequence.preemptions:
            sequence.cached_tokens = sequence.computed
            self.asked_tokens += sequence.prompt_tokens
            self.shared_tokens += sequence.computed
        self.running.append(sequence)

    def _shared_keys(self, sequence: SequenceState) -> list[bytes]:
        """Keys of the longest beginning that is in the cache; the last token is left out, because its logits are
        wanted."""
        if sequence.root is None or sequence.placement is Placement.COHORT:
            return []
        size, key, keys = self.limits.block_tokens, sequence.root, []
        wide = [group for group, kind in enumerate(self.pool.groups) if kind.window is None]
        for start in range(0, len(sequence.tokens) - size, size):
            key = self._key(key, sequence, start)
            if not all(self.pool.holds(group, key) for group in wide):
                break
            keys.append(key)
        while keys and not self._windows_hold(keys):
            keys.pop()
        return keys

    def _key(self, before: bytes, sequence: SequenceState, start: int) -> bytes:
        """The key of the block that begins at a token.

        Tokens computed as an answer are not shared as a prompt if their bits differ: a second turn finds the prompt of
        the first one, and computes the answer again.
        """
        stop = start + self.limits.block_tokens
        answered = stop - max(start, sequence.prompt_tokens) if self.prompts_apart else 0
        return content_key(before, sequence.tokens[start:stop], max(0, answered))

    def _windows_hold(self, keys: list[bytes]) -> bool:
        """Whether everything that the token after these blocks sees is cached in all layers with a window."""
        size = self.limits.block_tokens
        return all(
            self.pool.holds(group, key)
            for group, kind in enumerate(self.pool.groups)
            if kind.window is not None
            for key in keys[max(0, len(keys) * size + 1 - kind.window) // size :]
        )

    def _cover(self, sequence: SequenceState, tokens: int) -> bool:
        """Allocate blocks for up to this many tokens. Later sequences are preempted for it; False if the sequence
        itself had to give way."""
        if sequence.placement is Placement.COHORT:
            tokens = sequence.capacity
        for group, table in enumerate(sequence.tables):
            while len(table) * self.limits.block_tokens < tokens:
                number = self.pool.take(group)
                while number is None:
                    victim = self.running[-1]
                    self.preempt(victim)
                    if victim is sequence:
                        return False
                    number = self.pool.take(group)
                table.append(number)
        return True

    def _register(self, sequence: SequenceState) -> None:
        """Let others share the blocks that have become complete."""
        if sequence.root is None or sequence.placement is Placement.COHORT:
            return
        size = self.limits.block_tokens
        for place in range(len(sequence.keys), sequence.computed // size):
            before = sequence.keys[-1] if sequence.keys else sequence.root
            key = self._key(before, sequence, place * size)
            sequence.keys.append(key)
            for group, table in enumerate(sequence.tables):
                self.pool.register(group, table[place], key)

    def _slide(self, sequence: SequenceState) -> None:
        """Free the blocks that the next token no longer sees."""
        if sequence.placement is Placement.COHORT:
            return
        for group, table in enumerate(sequence.tables):
            window = self.pool.groups[group].window
            if window is None:
                continue
            for place in range(max(0, sequence.computed + 1 - window) // self.limits.block_tokens):
                if table[place] != DROPPED_BLOCK:
                    self.pool.release(group, table[place])
                    table[place] = DROPPED_BLOCK

    def _release(self, sequence: SequenceState) -> None:
        for group, table in enumerate(sequence.tables):
            # The last first: a beginning is useful without its end, but not the other way round.
            for number in reversed(table):
                if number != DROPPED_BLOCK:
                    self.pool.release(group, number)
        sequence.tables = [[] for _ in self.pool.groups]
        sequence.keys, sequence.computed = [], 0

    def _bytes_for(self, placement: Placement, tokens: int) -> int:
        """The bytes of the blocks of this many tokens, before any window slides: the most that a step can need."""
        return sum(kind.block_bytes * self._blocks_for(placement, tokens, kind.window) for kind in self.pool.groups)

    def _blocks_for(self, placement: Placement, tokens: int, window: int | None) -> int:
        size = self.limits.block_tokens
        if window is not None and placement is Placement.BLOCKS:
            # Between two steps a sequence holds what the next token sees; in a step also the tokens computed. Neither
            # needs to begin or to end with a block.
            tokens = min(tokens, window + self.limits.prompt_tokens + 2 * size)
        return -(-tokens // size)

    def _lift(self, adapter: str) -> None:
        """Start an adapter that returns from idleness a little below the lowest counter of the busy ones."""
        busy = {*self._waiting, *self._busy()}
        if adapter in busy:
            return
        if busy:
            self._floor = max(self._floor, min(self.served(name) for name in busy))
        start = self._start
        self._counters[adapter] = max(self.served(adapter), start)
        # An idle adapter that was served no more than that would start there too.
        self._counters = {
            name: count for name, count in self._counters.items() if count > start or name in busy | {adapter}
        }

    @property
    def _start(self) -> float:
        """The counter of an adapter that was served little or nothing so far."""
        return max(0.0, self._floor - self.limits.head_start)

    def _busy(self) -> Iterator[str]:
        return (sequence.adapter for sequence in self.running)


def _next_count(sequence: SequenceState, left: int) -> int:
    """How many tokens of a sequence are computed next, if `left` prompt tokens are allowed.

    A cohort's prompt is computed at once. After a preemption the answer follows it token by token, as it was computed
    before: as part of a prompt its tokens would have other bits.
    """
    if sequence.placement is Placement.COHORT:
        return min(sequence.pending, 1 if sequence.computed else sequence.prompt_tokens)
    return min(sequence.pending, left) if sequence.pending > 1 else sequence.pending
