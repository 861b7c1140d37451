import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sum_tree import SumTree


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_sum_tree_equals_a_list(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tree, naive = SumTree(size), np.zeros(size)
    for _ in range(5):
        index = generator.choice(size, generator.integers(1, size + 1), replace=False)
        # Whole numbers: sums are exact.
        priority = generator.integers(0, 5, len(index)).astype(float)
        tree.set(index, priority)
        naive[index] = priority
        assert tree.total == naive.sum()
        assert (tree.get(np.arange(size)) == naive).all()
        if naive.any():
            mass = np.arange(0, naive.sum(), 0.5)
            assert (tree.draw(mass) == np.searchsorted(naive.cumsum(), mass, side="right")).all()


def test_a_mass_that_rounding_has_made_too_large_still_falls_on_a_leaf_with_priority() -> None:
    tree = SumTree(5)
    tree.set(np.array([1, 3]), np.array([0.1, 0.2]))
    assert tree.draw(np.array([tree.total, 1.0])).tolist() == [3, 3]
