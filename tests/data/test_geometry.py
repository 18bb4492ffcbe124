"""Quaternions and rigid transforms, against the devkit's own library."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev_deploy.data.geometry import (
    inverse,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_vector,
    transform,
    yaw_quaternion,
)


def quaternions() -> np.ndarray:
    random = np.random.default_rng(0).normal(size=(50, 4))
    # Half turns about each axis: where a careless formula divides by zero.
    return np.concatenate([random, np.eye(4), [[1e-9, 1, 0, 0], [-0.5, 0.5, -0.5, 0.5]]])


def test_against_pyquaternion() -> None:
    pyquaternion = pytest.importorskip("pyquaternion")
    for q in quaternions():
        theirs = pyquaternion.Quaternion(q).rotation_matrix
        np.testing.assert_allclose(quaternion_to_matrix(q), theirs, atol=1e-12)
    np.testing.assert_allclose(
        quaternion_to_matrix(quaternions()), [quaternion_to_matrix(q) for q in quaternions()], atol=1e-15
    )


def test_there_and_back() -> None:
    for q in quaternions():
        back = np.array(matrix_to_quaternion(quaternion_to_matrix(q)))
        unit = q / np.linalg.norm(q)
        assert back[0] >= 0
        assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-9


def test_inverse_is_exact_far_from_the_origin() -> None:
    matrix = transform((1234.567, -9876.5, 12.0), (0.3, -0.2, 0.9, 0.1))
    np.testing.assert_allclose(inverse(matrix) @ matrix, np.eye(4), atol=1e-11)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, -3.1])
def test_rotation_vector(angle: float) -> None:
    np.testing.assert_allclose(rotation_vector(quaternion_to_matrix(yaw_quaternion(angle))), [0, 0, angle], atol=1e-9)
