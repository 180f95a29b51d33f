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
    """A memory that is computed in parts. frames: how many had their turn."""

    index: int
    memory: Memory
    frames: int = 0


class Memories:
    """Memories by the index of their frames. `passes` gives a decode what it reads, moved to the newest frame.

    frames: over how many frames the parts of a memory are spread; at most one a part.
    """

    def __init__(self, backend: Any, frames: int):
        self.backend, self.frames = backend, min(frames, backend.parts)
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
        """Run what one frame has to do for the chain; whether the memory is there with it."""
        if self.chain is None:
            return False
        chain = self.chain
        for i in turn(chain.frames, self.frames, self.backend.parts):
            chain.memory.values = self.backend.remember_part(i, chain.memory.values)
        chain.frames += 1
        if chain.frames < self.frames:
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


def turn(frame: int, frames: int, parts: int) -> range:
    """Which of so many parts run after the answer of a frame, counted from 0, of so many frames."""
    return range(-(-frame * parts // frames), -(-(frame + 1) * parts // frames))
