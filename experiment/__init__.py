"""How a run is set up, kept, shown and measured."""

import agents  # noqa: F401  (sets OpenMP and the allocator before anything imports torch)
