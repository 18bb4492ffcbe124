"""Quantisers: grids, rounding, gradients, the integers they stand for."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.histogram import Histogram
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer


@pytest.mark.parametrize(
    ("bits", "signed", "limits"),
    [(2, True, (-2, 1)), (4, True, (-8, 7)), (6, True, (-32, 31)), (8, True, (-128, 127)),
     (4, False, (0, 15)), (6, False, (0, 63)), (8, False, (0, 127))],
)  # fmt: skip
def test_grids_fit_int8(bits: int, signed: bool, limits: tuple[int, int]) -> None:
    grid = Grid(bits, signed)
    assert (grid.qmin, grid.qmax) == limits
    assert torch.iinfo(torch.int8).min <= grid.qmin < grid.qmax <= torch.iinfo(torch.int8).max


@pytest.mark.parametrize("bits", [1, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(QdbevError, match="2 to 8 bits"):
        Grid(bits, True)


def activation(bits: int = 6, signed: bool = True, scale: float = 0.5) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(Grid(bits, signed))
    quantizer.set_scale(scale)
    return quantizer


def test_activations_round_half_to_even_and_clip() -> None:
    x = torch.tensor([0.24, 0.26, 0.25, 0.75, 100.0, -100.0])
    assert activation()(x).tolist() == [0.0, 0.5, 0.0, 1.0, 15.5, -16.0]
    assert activation(signed=False)(x).tolist() == [0.0, 0.5, 0.0, 1.0, 31.5, 0.0]


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 6, 8])
@pytest.mark.parametrize("scale", [0.5, 0.0371, 3e-5])  # ties that are told exactly, and scales as training leaves them
def test_whole_numbers_times_the_scale_are_what_forward_gives(
    learned: bool, signed: bool, bits: int, scale: float
) -> None:
    quantizer = ActivationQuantizer(Grid(bits, signed), learned=learned)
    quantizer.set_scale(scale)
    steps = torch.arange(-600, 601) * 0.25 * quantizer.scale.detach()
    x = torch.cat([steps, torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * scale * 60])
    with torch.no_grad():
        whole = quantizer.rounded(x)
        assert torch.equal(whole, whole.round())
        assert torch.equal(whole * quantizer.scale, quantizer(x))
        into = torch.empty_like(x)
        assert quantizer.rounded(x, out=into) is into
        assert torch.equal(into, whole)


def test_without_a_scale_or_disabled_or_observed_it_is_the_identity() -> None:
    x = torch.randn(5)
    observed = activation()
    observed.histogram = Histogram()
    assert torch.equal(observed(x), x)
    assert not observed.rounds
    assert torch.equal(ActivationQuantizer(Grid(4, True))(x), x)
    quantizer = activation()
    quantizer.enabled = False
    assert torch.equal(quantizer(x), x)


def test_gradient_passes_inside_and_stops_outside() -> None:
    x = torch.tensor([0.3, 15.4, 15.9, -15.9, -16.4], requires_grad=True)
    activation()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]


def test_gradient_of_the_scale_is_lsqs() -> None:
    x = torch.tensor([0.3, -1.1, 40.0, -40.0])
    quantizer = activation()
    quantizer(x).sum().backward()
    # Inside: round(x/s) - x/s. Clipped: the limit itself.
    per_element = sum(round(v / 0.5) - v / 0.5 for v in (0.3, -1.1)) + 31 - 32
    factor = 1 / math.sqrt(4 * 31)
    assert quantizer.log_scale.grad is not None
    assert float(quantizer.log_scale.grad) == pytest.approx(per_element * factor * 0.5, rel=1e-5)  # d/d log s = s d/ds


@pytest.mark.parametrize("signed", [True, False])
def test_observed_scales_round_alike_and_get_no_gradient(signed: bool) -> None:
    learned, observed = (ActivationQuantizer(Grid(6, signed), learned=value) for value in (True, False))
    # Ties, both ends, and what lies beyond them.
    values = torch.cat(
        [torch.arange(-40, 41) * 0.25, torch.randn(500, generator=torch.Generator().manual_seed(0)) * 20]
    )
    gradients = []
    for quantizer in (learned, observed):
        quantizer.set_scale(0.5)
        x = values.clone().requires_grad_()
        y = quantizer(x)
        (y * torch.arange(len(x))).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(learned(values), observed(values))
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])
    inside = (observed(values) - values).abs() <= 0.25
    assert torch.equal(gradients[1], torch.arange(len(values)) * inside)  # straight through, none outside
    assert learned.log_scale.grad is not None
    assert observed.log_scale.grad is None
    assert not observed.log_scale.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert observed(values.bfloat16()).dtype == torch.bfloat16


def test_observed_scales_of_weights_round_alike_and_get_no_gradient() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    learned, observed = (WeightQuantizer(weight, Grid(4, True), learned=value) for value in (True, False))
    gradients = []
    for quantizer in (learned, observed):
        x = weight.clone().requires_grad_()
        quantizer(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(learned(weight), observed(weight))
    assert torch.equal(learned.integers(weight), observed.integers(weight))
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])
    steps = weight / observed.scale[:, None, None, None]
    inside = (steps > -8.5) & (steps < 7.5)
    assert not bool(inside.all())  # least squared error clips some
    torch.testing.assert_close(gradients[1], 2 * observed(weight) * inside)
    assert learned.log_scale.grad is not None
    assert observed.log_scale.grad is None


def test_integers_do_not_depend_on_being_enabled() -> None:
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(weight, Grid(4, True))
    enabled = quantizer.integers(weight * 3)
    quantizer.enabled = False
    assert torch.equal(quantizer.integers(weight * 3), enabled)
    assert (int(enabled.min()), int(enabled.max())) == (-8, 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_integers(value: float) -> None:
    weight = torch.randn(3, 4)
    quantizer = WeightQuantizer(weight, Grid(4, True))
    spoilt = weight.clone()
    spoilt[1, 2] = value
    assert bool(torch.isfinite(quantizer(spoilt)).all())  # torch's primitive hides it
    with pytest.raises(QdbevError, match="1 of 12 numbers of 'neck' are not finite"):
        quantizer.integers(spoilt, "'neck'")
    with torch.no_grad():
        quantizer.log_scale[0] = abs(value)
    with pytest.raises(QdbevError, match="1 of 3 numbers of the scales of 'neck' are not finite"):
        quantizer.integers(weight, "'neck'")


@pytest.mark.parametrize("learned", [True, False])
def test_weights_are_integers_times_scales(learned: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 3, 3, 3) * torch.logspace(-3, 1, 6)[:, None, None, None]
    weight[2] = 0  # a dead channel
    quantizer = WeightQuantizer(weight, Grid(4, True), learned=learned)
    integers = quantizer.integers(weight)
    assert integers.dtype == torch.int8
    assert int(integers.min()) >= -8
    assert int(integers.max()) <= 7
    assert torch.equal(integers.float() * quantizer.scale.detach()[:, None, None, None], quantizer(weight).detach())
    assert not integers[2].any()
    assert bool((quantizer.scale > 0).all())
    assert bool(torch.isfinite(quantizer.scale).all())
