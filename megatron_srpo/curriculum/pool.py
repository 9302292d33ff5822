"""One source's prompts: what is known of each, which of them the present epoch draws, and in which order.

Invariants:
1. an epoch's pool is chosen once, when it begins, from the groups of the epochs before it;
2. in an epoch every prompt of its pool is drawn once, in an order that depends on (seed, source, epoch) alone;
3. an epoch begins when every group of the one before it is recorded: with groups on their way `draw` gives none;
4. the state is a fold over recorded groups: a prompt that was drawn and not recorded is drawn again, first;
5. a prompt that is not in the data set any more is not drawn and not forgotten: it may come back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.curriculum.keys import Ids, Keys, argsort, mixed, prompt_key, prompt_keys
from megatron_srpo.curriculum.outcomes import Outcomes
from megatron_srpo.curriculum.strategies import Strategy
from megatron_srpo.errors import SrpoError


@dataclass(frozen=True)
class PoolSettings:
    """How a pool behaves.

    min_pool: an epoch for which the strategy chooses fewer prompts takes all of the source.
    forgetting: see `Outcomes.record`.
    """

    seed: int
    strategy: Strategy
    min_pool: int
    forgetting: float


@dataclass(frozen=True)
class EpochPool:
    """How an epoch's pool came about: prompts in the source, and how many the strategy chose.

    Where it chose fewer than min_pool, `readmitted` is true and the pool is the whole source.
    """

    source: str
    epoch: int
    prompts: int
    chosen: int
    readmitted: bool

    @property
    def size(self) -> int:
        """Prompts in the pool."""
        return self.prompts if self.readmitted else self.chosen


class SourcePool:
    """Draws from one source, epoch after epoch."""

    def __init__(self, source: str, ids: Ids, settings: PoolSettings) -> None:
        """Begin epoch 0 of the prompts `ids`, in the data set's order.

        Raises SrpoError when there are none, or an id stands twice.
        """
        if not len(ids):
            raise SrpoError(f"source {source}: has no prompts; at least one is needed")
        self.source, self._settings = source, settings
        self._keys = prompt_keys(ids)
        self._by_key = argsort(self._keys)
        ordered = self._keys[self._by_key]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            first, second = (str(ids[index]) for index in self._by_key[same[0] : same[0] + 2].tolist())
            raise SrpoError(
                f"source {source}: the ids {first!r} and {second!r} are the same or have the same 64-bit hash; "
                "rename one"
            )
        self._ordered_keys = ordered
        self.outcomes = Outcomes.unknown(len(ids))
        self._gone: dict[int, Outcomes] = {}
        self.pool = self._begin(0)

    def __len__(self) -> int:
        return len(self._keys)

    def _salt(self, purpose: str) -> str:
        return f"{self._settings.seed}/{self.source}/{purpose}"

    def _begin(self, epoch: int) -> EpochPool:
        """Choose the pool of an epoch from all that is recorded."""
        chosen = self._settings.strategy.chooses(self.outcomes, self._keys, epoch, self._salt("pool"))
        count = int(np.count_nonzero(chosen))
        readmitted = count < self._settings.min_pool and count < len(self)
        self._in_epoch = np.ones(len(self), np.bool_) if readmitted else chosen
        self.epoch, self._left = epoch, len(self) if readmitted else count
        self._draw_anew()
        return EpochPool(self.source, epoch, len(self), count, readmitted)

    def _draw_anew(self) -> None:
        """Forget what was drawn; the order is worked out at the next draw, for most often there is none."""
        self._order: NDArray[np.int32] | None = None
        self._cursor = 0
        self._in_flight: set[int] = set()

    def _line_up(self) -> NDArray[np.int32]:
        """What the epoch still has to record, in its order."""
        left = np.flatnonzero(self._unrecorded()).astype(np.int32)
        return left[argsort(mixed(self._keys[left], self._salt("order"), self.epoch))]

    def _unrecorded(self) -> NDArray[np.bool_]:
        unrecorded: NDArray[np.bool_] = self._in_epoch & (self.outcomes.last_epoch != self.epoch)
        return unrecorded

    @property
    def epochs_done(self) -> int:
        """Epochs whose every group is recorded."""
        return self.epoch if self._left else self.epoch + 1

    def draw(self) -> tuple[int, int] | None:
        """The next (epoch, index), or none while the epoch's last groups are on their way."""
        if not self._left:
            self.pool = self._begin(self.epoch + 1)
        if self._order is None:
            self._order = self._line_up()
        if self._cursor == len(self._order):
            return None
        index = int(self._order[self._cursor])
        self._cursor += 1
        self._in_flight.add(index)
        return self.epoch, index

    def _index_of(self, key: np.uint64) -> int | None:
        """The prompt's place in the data set, or none when it is not there any more."""
        place = int(self._ordered_keys.searchsorted(key))
        if place == len(self) or self._ordered_keys[place] != key:
            return None
        return int(self._by_key[place])

    def record(self, prompt_id: str, epoch: int, correct: int, samples: int) -> None:
        """Take in a finished group, one that `draw` gave or one of the journal; a later epoch begins by it.

        Raises SrpoError when the prompt was recorded in this epoch before, or the epoch is over.
        """
        if epoch > self.epoch:
            self.pool = self._begin(epoch)
        key = prompt_key(prompt_id)
        index = self._index_of(key)
        if index is None:
            outcomes, place = self._gone.setdefault(int(key), Outcomes.unknown(1)), 0
        else:
            outcomes, place = self.outcomes, index
        if epoch < self.epoch or int(outcomes.last_epoch[place]) == epoch:
            raise SrpoError(
                f"the journal records prompt {prompt_id} of source {self.source} twice in epoch {epoch}, or after "
                "its end; restore its step files, or start a new run directory"
            )
        outcomes.record(place, epoch, correct, samples, self._settings.forgetting)
        if index is None:
            return
        self._left -= int(self._in_epoch[index])
        if index in self._in_flight:
            self._in_flight.remove(index)
        else:
            self._draw_anew()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that was folded out of the journal; prompts that are gone stand last."""
        gone = np.fromiter(self._gone, np.uint64, len(self._gone))
        outcomes = self.outcomes.followed_by(self._gone.values()) if self._gone else self.outcomes
        return {
            "keys": np.append(self._keys, gone) if self._gone else self._keys,
            "in_epoch": self._in_epoch,
            "epoch": np.array([self.epoch, self.pool.chosen, self.pool.readmitted], np.int64),
            **outcomes.arrays(),
        }

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> tuple[int, int]:
        """Take over a state; returns how many prompts were added to and removed from the data set since.

        A prompt that was added or has come back joins the present epoch, if the strategy chooses it.
        """
        known: Keys = state["keys"]
        before = len(state["in_epoch"])  # prompts in the data set then; those behind were gone already
        here, there = self._places_in(known)
        outcomes = Outcomes(**{f.name: state[f.name] for f in fields(Outcomes)})
        self.outcomes = Outcomes.unknown(len(self))
        self.outcomes.take(outcomes, here, there)
        missing = np.ones(len(known), np.bool_)
        missing[there] = False
        self._gone = {int(known[place]): outcomes.only(place) for place in np.flatnonzero(missing).tolist()}
        stayed = there < before
        self.epoch, chosen, readmitted = (int(value) for value in state["epoch"])
        self._in_epoch = np.ones(len(self), np.bool_)
        if not (readmitted or (stayed.all() and len(here) == len(self))):
            salt = self._salt("pool")
            self._in_epoch = self._settings.strategy.chooses(self.outcomes, self._keys, self.epoch, salt)
        self._in_epoch[here[stayed]] = state["in_epoch"][there[stayed]]
        self.pool = EpochPool(self.source, self.epoch, len(self), chosen, bool(readmitted))
        self._left = int(np.count_nonzero(self._unrecorded()))
        self._draw_anew()
        kept = int(np.count_nonzero(stayed))
        return len(self) - kept, before - kept

    def _places_in(self, known: Keys) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where the prompts that are among `known` stand here and there."""
        if np.array_equal(known[: len(self)], self._keys):
            everything = np.arange(len(self), dtype=np.int32)
            return everything, everything
        by_key = argsort(known)
        ordered = known[by_key]
        places = np.searchsorted(ordered, self._ordered_keys).clip(max=len(known) - 1)
        found = ordered[places] == self._ordered_keys
        return self._by_key[found], by_key[places[found]]
