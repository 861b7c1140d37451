"""A tree of sums: draws in proportion to priority (Schaul et al. 2016, appendix B.2.1)."""

import numpy as np


class SumTree:
    """Priorities of `size` leaves; `set` and `draw` take O(log size) vector operations."""

    def __init__(self, size: int) -> None:
        self.leaves = 1 << max(size - 1, 1).bit_length()
        # Node i has the children 2 i and 2 i + 1; the leaves start at node `leaves`.
        self.nodes = np.zeros(2 * self.leaves)

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    def get(self, index: np.ndarray) -> np.ndarray:
        return self.nodes[self.leaves + index]

    def set(self, index: np.ndarray, priority: np.ndarray | float) -> None:
        node = self.leaves + index
        self.nodes[node] = priority
        while (node > 1).any():
            node = np.unique(node >> 1)
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def draw(self, mass: np.ndarray) -> np.ndarray:
        """The leaf [B] at each point of `mass` [B], 0 <= mass < total."""
        node = np.ones(len(mass), np.int64)
        while node[0] < self.leaves:
            node <<= 1
            left = self.nodes[node]
            right = (mass >= left) & (self.nodes[node + 1] > 0)
            mass = np.where(right, mass - left, mass)
            node += right
        return node - self.leaves
