import torch

from agents.optimizers import OPTIMIZERS


def test_rmsprop_never_takes_the_root_of_a_negative_number() -> None:
    """The gradient's variance is less than the rounding of its square."""
    weight = torch.zeros(1_000, requires_grad=True)
    optimizer = OPTIMIZERS["rmsprop"]([weight], lr=1e-6, eps=1e-8)
    mean, square = 0.0, 0.0
    for _ in range(1_000):
        weight.grad = 1 + 1e-3 * torch.rand(1_000)
        before, g = weight.detach().clone(), weight.grad.double()
        optimizer.step()
        mean, square = 0.95 * mean + 0.05 * g, 0.95 * square + 0.05 * g**2
        assert (weight < before).all()  # NaN is not
    variance = optimizer.state[weight]["variance"].double()
    assert (variance > 0).all()
    torch.testing.assert_close(variance, square - mean**2, rtol=1e-2, atol=0)
