"""The optimisers, by name."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor


class CenteredRmsProp(torch.optim.Optimizer):
    """RMSProp with the gradient's running variance: Graves 2013, eqs. 38-42, without momentum.

    rho = 0.95 as in Mnih et al. 2015. The step divides by sqrt(variance) + eps, as torch does, and
    not by sqrt(variance + eps). The variance is updated from g - mean, so it is never below 0.
    Torch subtracts the squared mean from the running square: if a gradient hardly changes, the
    difference rounds to below 0.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, eps: float) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "rho": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rho = group["rho"]
            for p in group["params"]:
                slots = self.state[p] or {k: torch.zeros_like(p) for k in ("mean", "variance")}
                self.state[p] = slots
                change = p.grad - slots["mean"]
                slots["mean"].add_(change, alpha=1 - rho)
                slots["variance"].mul_(rho).addcmul_(change, change, value=rho * (1 - rho))
                p.addcdiv_(p.grad, slots["variance"].sqrt() + group["eps"], value=-group["lr"])


# Those of torch are fused if there is a fused one.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "radam": partial(torch.optim.RAdam, foreach=True),
    "rmsprop": CenteredRmsProp,
    # rho as in Hausknecht & Stone 2015.
    "adadelta": partial(torch.optim.Adadelta, rho=0.95, foreach=True),
}
