import pytest
import torch

from agents import losses


def test_rescale_by_hand_and_unscale_is_its_inverse_also_in_single_precision() -> None:
    x = torch.tensor([0, 8, -99], dtype=torch.float64)  # roots of 9 and of 100
    assert losses.rescale(x).tolist() == pytest.approx([0, 2 + 0.008, -9 - 0.099])
    x = torch.logspace(-6, 4, 101, dtype=torch.float64) * torch.tensor([[-1], [1]])
    for y, rtol, atol in ((x, 1e-10, 1e-10), (x.float(), 1e-2, 1e-3)):
        torch.testing.assert_close(losses.unscale(losses.rescale(y)), y, rtol=rtol, atol=atol)
