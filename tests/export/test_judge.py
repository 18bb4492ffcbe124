"""What the proof's judge lets pass and what not, on reports and arrays made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qdbev_deploy.agreement import BoxParity, relative_gap
from qdbev_deploy.export.parity import ActivationParity, ParityReport
from tests.export.students import SHORT

NAN = float("nan")


def float_report(**changes: object) -> ParityReport:
    names = ("bev_embed", "outputs_classes", "outputs_coords")
    report = ParityReport(
        "made up", frames=4, resets=["first frame", "", "new scene", ""],
        outputs=dict.fromkeys(names, 1e-6), outputs_relative=dict.fromkeys(names, 1e-6),
    )  # fmt: skip
    return dataclasses.replace(report, **changes)


def quantised_report(**changes: object) -> ParityReport:
    """Own states drift as far as they like; what is judged is each stretch from the same integers."""
    report = float_report(
        outputs=dict.fromkeys(float_report().outputs, 3.0),
        outputs_relative=dict.fromkeys(float_report().outputs, 0.5),
        boxes=BoxParity(4.0, 2.0, 0.5, 0.5, 3.0, 0.2, 100, 100),
        step_boxes=BoxParity(),
        step_outputs_relative=dict.fromkeys(float_report().outputs, 1e-7),
        activations={"tap": ActivationParity(20_000, 2, 1)},
        weight_integers=1000,
    )
    return dataclasses.replace(report, **changes)


def failures(report: ParityReport) -> list[str]:
    report.judge()
    assert report.passed is (not report.failures)
    return report.failures


def test_what_agrees_passes() -> None:
    assert failures(float_report()) == []
    assert failures(quantised_report()) == []


@pytest.mark.parametrize(
    ("name", "passes", "fails", "words"),
    [
        ("center_m", 0.9e-3, 1.1e-3, "box centres"),
        ("size_share", 0.9e-3, 1.1e-3, "box sizes"),
        ("yaw_sin_cos", 0.9e-3, 1.1e-3, "sines and cosines of yaw"),
        ("velocity_mps", 0.9e-3, 1.1e-3, "velocities"),
        ("score", 0.9e-3, 1.1e-3, "scores"),
        ("detections_moved", 0, 1, "1 of 0 detections"),
    ],
)
def test_boxes(name: str, passes: float, fails: float, words: str) -> None:
    for make, key in ((float_report, "boxes"), (quantised_report, "step_boxes")):
        assert failures(make(**{key: BoxParity(**{name: passes})})) == []
        (failure,) = failures(make(**{key: BoxParity(**{name: fails})}))
        assert failure.startswith(words)
        if name != "detections_moved":
            assert len(failures(make(**{key: BoxParity(**{name: NAN})}))) == 1


@pytest.mark.parametrize("output", ["bev_embed", "outputs_classes", "outputs_coords"])
def test_outputs(output: str) -> None:
    for make, key in ((float_report, "outputs_relative"), (quantised_report, "step_outputs_relative")):
        fine = getattr(make(), key)
        assert failures(make(**{key: {**fine, output: 2e-4}})) == []
        for value in (4e-4, NAN):
            (failure,) = failures(make(**{key: {**fine, output: value}}))
            assert failure.startswith(f"output '{output}'")


def test_a_state_of_its_own_that_is_no_number_fails_though_drift_does_not() -> None:
    outputs = {**quantised_report().outputs, "bev_embed": NAN}
    assert failures(quantised_report(outputs=outputs)) == ["output 'bev_embed' with its own state is not finite"]


@pytest.mark.parametrize(
    ("item", "passes"),
    [
        (ActivationParity(10_000, 1, 1), True),
        (ActivationParity(10_000, 2, 1), False),
        (ActivationParity(1_000_000, 1, 2), False),
        (ActivationParity(0, 0, 0), False),
        (ActivationParity(10_000, 0, 0, beyond=500), True),  # --clip relaxed: told, not judged
    ],
)
def test_integers_of_activations(item: ActivationParity, passes: bool) -> None:
    found = failures(quantised_report(activations={"tap": item}))
    assert [failure.startswith("activation 'tap'") for failure in found] == ([] if passes else [True])


def test_weights_quantisers_and_resets() -> None:
    assert failures(quantised_report(weight_integers_different=1)) == ["1 of 1000 weight integers differ"]
    assert failures(quantised_report(lost=["x"]))[0].startswith("activation 'x' is quantised in torch and has no")
    assert failures(quantised_report(unlike=["x"]))[0].startswith("activation 'x': its quantiser gives other numbers")
    for resets in (["first frame", "", ""], []):
        assert failures(float_report(resets=resets)) == ["the sequence holds no reset after its first frame"]


def test_integers_beyond_their_bits_are_counted_and_brought_back_only_where_bounds_are_given() -> None:
    ours, theirs = np.array([31, 31, -32, 5], np.int8), np.array([31, 90, -40, 5], np.int8)
    exact, relaxed = ActivationParity(), ActivationParity()
    exact.add(ours, theirs)
    relaxed.add(ours, theirs, (-32, 31))
    assert exact == ActivationParity(4, 2, 59)
    assert relaxed == ActivationParity(4, 0, 0, 2)


def outputs(seed: int = 0) -> list[np.ndarray]:
    """One frame's outputs of SHORT; the state is not looked at."""
    rng = np.random.default_rng(seed)
    shape = (SHORT.decoder_layers, 1, SHORT.queries, 10)
    return [np.zeros(1), rng.normal(-3, 1, shape).astype(np.float32), rng.normal(0, 1, shape).astype(np.float32)]


@pytest.mark.parametrize(
    ("tensor", "column", "name"),
    [
        (2, 0, "center_m"), (2, 1, "center_m"), (2, 4, "center_m"),
        (2, 2, "size_share"), (2, 3, "size_share"), (2, 5, "size_share"),
        (2, 6, "yaw_sin_cos"), (2, 7, "yaw_sin_cos"),
        (2, 8, "velocity_mps"), (2, 9, "velocity_mps"),
        (1, 3, "score"),
    ],
)  # fmt: skip
def test_each_column_counts_where_it_belongs(tensor: int, column: int, name: str) -> None:
    ours, theirs, parity = outputs(), outputs(), BoxParity()
    theirs[tensor][0, 0, 1, column] += 0.01
    parity.add(ours, theirs, SHORT)
    largest = {key: getattr(parity, key) for key in ("center_m", "size_share", "yaw_sin_cos", "velocity_mps", "score")}
    assert [key for key, value in largest.items() if value > 0] == [name]
    if name != "score":  # whose slope is not one
        assert largest[name] == pytest.approx(0.01, rel=1e-3)
    theirs[tensor][0, 0, 1, column] = np.nan
    parity.add(ours, theirs, SHORT)
    parity.add(ours, ours, SHORT)
    assert np.isnan(getattr(parity, name))


def test_a_near_tie_at_the_end_of_the_list_is_no_moved_detection() -> None:
    ours, theirs = outputs(), outputs()
    logits = ours[1].ravel()
    order = np.argsort(-logits)
    last, next_one = order[SHORT.max_boxes - 1], order[SHORT.max_boxes]
    theirs[1].ravel()[[last, next_one]] = logits[[next_one, last]]
    parity = BoxParity()
    parity.add(ours, theirs, SHORT)
    assert (parity.detections, parity.detections_moved) == (SHORT.max_boxes, 0)
    best = order[0]
    theirs[1].ravel()[best] = -20.0  # and one that is gone is gone
    parity.add(ours, theirs, SHORT)
    assert parity.detections_moved == 1


def test_a_gap_is_a_share_of_the_output() -> None:
    reference = np.array([3.0, -4.0], np.float32)
    assert relative_gap(reference * np.float32(1.001), reference) == pytest.approx(1e-3, rel=1e-3)
    assert relative_gap(reference, reference) == 0
    assert np.isnan(relative_gap(np.array([np.nan, 0.0]), reference))
