"""What keyframes left for the frames after them, and how it gets to where those frames see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vss_ros.media.motion import Track


@dataclass
class Memory:
    """values: the backend's; track: the way back to its frame, or None if it is read where it lies."""

    stamp: float
    values: Any
    track: Track | None


@dataclass
class Chain:
    """A memory that is computed in parts, `done` of them so far."""

    index: int
    memory: Memory
    done: int = 0


class Memories:
    """Memories by the index of their frames. `passes` gives a decode what it reads, moved to the newest frame."""

    def __init__(self, backend: Any):
        self.backend = backend
        self.kept: dict[int, Memory] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.kept.clear()
        self.chain: Chain | None = None

    def put(self, index: int, memory: Memory) -> None:
        self.kept[index], self.chain = memory, None

    def begin(self, index: int, features: Any, stamp: float, track: Track | None) -> None:
        """Start on a keyframe's memory; an older one serves until the last part is done."""
        self.chain = Chain(index, Memory(stamp, features, track))

    def part(self) -> bool:
        """Run the next part of the chain; whether the memory is there with it."""
        if self.chain is None:
            return False
        chain = self.chain
        chain.memory.values = self.backend.remember_part(chain.done, chain.memory.values)
        chain.done += 1
        if chain.done < self.backend.parts:
            return False
        self.put(chain.index, chain.memory)
        return True

    def moved(self, index: int) -> Any:
        memory = self.kept[index]
        if memory.track is None or memory.track.flow is None:
            return memory.values
        return self.backend.move(memory.values, memory.track.flow)

    def passes(self, t: int) -> list[list[Any]]:
        """One list of memories a decode pass of frame t."""
        if len(self.kept) <= self.backend.keeps <= 1:
            return [[self.moved(i) for i in self.kept]]  # there is nothing to choose from
        return [[self.moved(i) for i in reads] for reads in self.backend.reads(t, sorted(self.kept))]

    def read(self, t: int, stamp: float) -> tuple[list[list[Any]], int, float]:
        """What frame t, of this stamp, reads, then the index and stamp of its keyframe (its own without memories);
        memories that no later frame reads are dropped."""
        passes = self.passes(t)
        key = max((index for index in self.kept if index <= t), default=None)
        found = (t, stamp) if key is None else (key, self.kept[key].stamp)
        self.prune(t)
        return passes, *found

    def prune(self, t: int) -> None:
        """Drop what no frame after t will read."""
        past = sorted(index for index in self.kept if index <= t)
        for old in past[: max(0, len(past) - self.backend.keeps)]:
            del self.kept[old]
