"""Sequence replay: one ring of rows, or several (one for each actor elsewhere), drawn uniformly or
by priority."""

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
    """The replay: its size, and how sequences are drawn."""

    update: Literal["stored", "random"] = "stored"
    """Core state a drawn sequence starts from: the actor's, stored (R2D2), or zeros (the
    bootstrapped random updates of DRQN, Hausknecht & Stone 2015)."""
    replay_rows: Count = 1_000_000
    """Rows kept, of all envs together."""
    start_rows: Whole = 20_000
    """Rows gathered before learning starts."""
    sequence_stride: Annotated[int, Field(ge=1, le=2000)] = 8
    """Sequences may start at every so many rows; the core state is kept there."""
    priority_exponent: Share = 0.0
    """0: sequences are drawn uniformly; else by priority to this power (R2D2: 0.9)."""
    importance_exponent: Share = 0.6
    """Correction of prioritised draws, 0 (none) to 1 (full)."""


class Replay:
    """Rings of one shape, drawn from as one. `rng` drives all draws."""

    def __init__(
        self,
        settings: ReplaySettings,
        rings: list[Ring],
        rng: np.random.Generator,
        pin: bool = False,
    ) -> None:
        self.settings, self.rings, self.rng = settings, rings, rng
        # Frames are restored into pinned memory: a GPU copies from it while the host goes on.
        self._pin = pin

    def __len__(self) -> int:
        """Rows that can be read."""
        return sum(map(len, self.rings))

    @property
    def ready(self) -> bool:
        """Whether learning may begin: --start-rows rows were gathered, or a ring is full. Stays
        true."""
        gathered = sum(ring.time * ring.lanes for ring in self.rings) >= self.settings.start_rows
        enough = gathered or any(ring.time >= ring.capacity for ring in self.rings)
        return enough and any(ring.origins for ring in self.rings)

    @property
    def nbytes(self) -> int:
        return sum(ring.nbytes for ring in self.rings)

    @property
    def nbytes_when_full(self) -> int:
        return sum(ring.nbytes_when_full for ring in self.rings)

    def append(self, new: Rows | Stretch) -> None:
        """Write one row in every lane; or the rows of an actor elsewhere, if there are any."""
        if isinstance(new, Rows):
            self.rings[0].append(new)
        elif new.steps:
            self.rings[new.ring].extend(new)

    def sample(self, batch_size: int) -> Sequence:
        """Draw `batch_size` sequences with replacement. Their origins count the rings too, which
        vary fastest.

        ValueError while there is no sequence yet.
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
        # The same for all where draws are uniform.
        scaled = (count * (mass / total)) ** -s.importance_exponent
        weight = (scaled / scaled.max()).astype(np.float32)
        images, *size = self.rings[0].frames_shape
        frames = torch.empty((images, batch_size, *size), dtype=torch.uint8, pin_memory=self._pin)
        for b, (place, i) in enumerate(zip(*np.divmod(origin, len(self.rings)), strict=True)):
            frames.numpy()[:, b] = self.rings[i].frames(int(place))
        return self.rings[0].as_sequence(rows, state, frames, weight, origin)

    def update_priorities(self, origin: np.ndarray, priority: torch.Tensor) -> None:
        """New priorities [B] for drawn sequences; those overwritten since are passed over."""
        if self.settings.priority_exponent:  # else no device is waited for
            (origin, of), priorities = np.divmod(origin, len(self.rings)), priority.cpu().numpy()
            for i in np.unique(of):
                self.rings[i].set_priorities(origin[of == i], priorities[of == i])

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the generator, as arrays."""
        return {f"{i}.{k}": v for i, ring in enumerate(self.rings) for k, v in ring.state().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` gave. KeyError or ValueError if it does not fit."""
        for i, ring in enumerate(self.rings):
            ring.restore(
                {k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")}
            )
