"""Sequence replay: one ring of rows, or one for each actor process, and draws from all of them.

Draws are uniform or by priority.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Count, Share, Whole
from agents.ring import Ring, Stretch
from agents.rows import Rows, Sequence


@dataclass(frozen=True, config=FORBID)
class ReplaySettings:
    """The replay: its size and its draws."""

    update: Literal["stored", "random"] = "stored"
    """Core state at the start of a sequence: stored (the actor's, R2D2) or random (zeros, as in the
    bootstrapped random updates of DRQN, Hausknecht & Stone 2015)."""
    replay_rows: Count = 1_000_000
    """Capacity in rows, of all envs together."""
    start_rows: Whole = 5_000
    """Rows to play before learning starts."""
    sequence_stride: Annotated[int, Field(ge=1, le=2000)] = 8
    """Rows between the possible starts of sequences; only there is the core state stored."""
    priority_exponent: Share = 0.0
    """Sequences are drawn by priority to this power (R2D2: 0.9). 0: uniformly."""
    importance_exponent: Share = 0.6
    """Correction of draws by priority, 0 (none) to 1 (full)."""


class Replay:
    """Rings of one shape; a draw is from all of them. `rng` serves the draws alone."""

    def __init__(
        self,
        settings: ReplaySettings,
        rings: list[Ring],
        rng: np.random.Generator,
        pin: bool = False,
    ) -> None:
        self.settings, self.rings, self.rng = settings, rings, rng
        # A GPU copies frames from pinned memory while the host continues.
        self._pin = pin

    def __len__(self) -> int:
        """Rows that can be read."""
        return sum(map(len, self.rings))

    @property
    def ready(self) -> bool:
        """Whether learning may begin: after --start-rows rows, or once a ring is full.

        Once true, it remains true.
        """
        rows = sum(ring.time * ring.lanes for ring in self.rings)
        full = any(ring.time >= ring.capacity for ring in self.rings)
        return (full or rows >= self.settings.start_rows) and any(r.origins for r in self.rings)

    @property
    def nbytes(self) -> int:
        return sum(ring.nbytes for ring in self.rings)

    @property
    def nbytes_when_full(self) -> int:
        return sum(ring.nbytes_when_full for ring in self.rings)

    def append(self, new: Rows | Stretch) -> None:
        """Write one row in every lane, or the rows of an actor process, which may be none."""
        if isinstance(new, Rows):
            self.rings[0].append(new)
        elif new.steps:
            self.rings[new.ring].extend(new)

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement. ValueError if there is none yet.

        Their origins number the rings too: origin in ring i * number of rings + i.
        """
        s, ends = self.settings, np.cumsum([0, *(ring.mass for ring in self.rings)])
        total, count = ends[-1], sum(len(ring.origins) for ring in self.rings)
        if not count:
            raise ValueError(f"the replay holds {len(self)} rows: no sequence yet")
        # One point in each of B equal parts (Schaul et al. 2016, appendix B.2.1).
        if s.priority_exponent:
            point = (np.arange(batch_size) + self.rng.random(batch_size)) / batch_size * total
            point = np.minimum(point, np.nextafter(total, 0))  # rounding may reach the total
        else:
            point = self.rng.integers(total, size=batch_size)
        of, parts = np.searchsorted(ends, point, side="right") - 1, []
        for i in np.unique(of):
            origin, mass = self.rings[i].locate(point[of == i] - ends[i])
            parts.append((*self.rings[i].gather(origin), origin * len(self.rings) + i, mass))
        rows, state, origin, mass = map(np.concatenate, zip(*parts, strict=True))
        # Uniform draws have equal weights.
        scaled = (count * (mass / total)) ** -s.importance_exponent
        weight = (scaled / scaled.max()).astype(np.float32)
        images, *size = self.rings[0].frames_shape
        frames = torch.empty((images, batch_size, *size), dtype=torch.uint8, pin_memory=self._pin)
        for b, (place, i) in enumerate(zip(*np.divmod(origin, len(self.rings)), strict=True)):
            frames.numpy()[:, b] = self.rings[i].frames(int(place))
        return self.rings[0].as_sequence(rows, state, frames, weight, origin)

    def update_priorities(self, origin: np.ndarray, priority: torch.Tensor) -> None:
        """Set priorities [B] of sequences; those that were overwritten since are ignored."""
        if self.settings.priority_exponent:  # otherwise there is no need to wait for the device
            (origin, of), priorities = np.divmod(origin, len(self.rings)), priority.cpu().numpy()
            for i in np.unique(of):
                self.rings[i].set_priorities(origin[of == i], priorities[of == i])

    def state(self) -> dict[str, np.ndarray]:
        """All of the replay except the generator, as arrays by name."""
        return {f"{i}.{k}": v for i, ring in enumerate(self.rings) for k, v in ring.state().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore from a result of `state`. KeyError or ValueError if names or shapes differ."""
        for i, ring in enumerate(self.rings):
            ring.restore(
                {k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")}
            )
