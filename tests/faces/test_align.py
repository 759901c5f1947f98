from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync.faces.align import (
    ARCFACE_TEMPLATE,
    FFHQ_TEMPLATE,
    inverse,
    resized,
    similarity,
    transform,
    warp,
)


def _map(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


@pytest.mark.parametrize("degrees", [0, 30, -75, 180])
def test_a_similarity_is_found_again(degrees):
    known = _map(2.5, degrees, (-40, 300))
    found = similarity(ARCFACE_TEMPLATE, transform(ARCFACE_TEMPLATE, known))
    np.testing.assert_allclose(found, known, atol=2e-4)
    assert found.dtype == np.float64


def test_noisy_points_get_the_least_squares_fit():
    rng = np.random.default_rng(0)
    target = transform(ARCFACE_TEMPLATE, _map(1.7, 12, (5, -9))) + rng.normal(0, 3, (5, 2))
    # The same fit as a linear system in a, b, tx, ty.
    rows, wanted = [], []
    for (x, y), (u, v) in zip(ARCFACE_TEMPLATE.astype(float), target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        wanted += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    np.testing.assert_allclose(
        similarity(ARCFACE_TEMPLATE, target), [[a, -b, tx], [b, a, ty]], rtol=1e-9, atol=1e-9
    )


def test_a_mirrored_face_is_not_flipped():
    mirrored = ARCFACE_TEMPLATE * np.float32([-1, 1])
    matrix = similarity(mirrored, ARCFACE_TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), "coincide"),
        (np.full((5, 2), 1e6), "coincide"),
        (np.zeros((5, 3)), "points"),
        (np.zeros((4, 2)), "points"),
        (np.full((5, 2), np.nan), "finite"),
    ],
)
def test_unusable_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        similarity(points, ARCFACE_TEMPLATE)


def test_the_inverse_leads_back():
    matrix = _map(0.3, 40, (11, 12))
    np.testing.assert_allclose(
        transform(transform(ARCFACE_TEMPLATE, matrix), inverse(matrix)), ARCFACE_TEMPLATE, atol=1e-4
    )
    with pytest.raises(ValueError, match="flattens"):
        inverse(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        inverse(np.eye(3))


def test_warping_moves_what_it_should():
    image = np.zeros((80, 100, 3), np.uint8)
    image[40, 60] = 255
    warped = warp(image, np.array([[1.0, 0, -50], [0, 1, -30]]), (20, 25))
    assert warped.shape == (25, 20, 3)
    assert np.argwhere(warped[..., 0]).tolist() == [[10, 10]]
    assert warp(image, np.array([[1.0, 0, 50], [0, 1, 0]]), 20, fill=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("shrink", [2, 3, 5])
def test_shrinking_averages_and_stays_in_place(shrink):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20 * shrink, 20 * shrink, 3), dtype=np.uint8)
    # Pixel i of the result covers pixels i * shrink .. (i + 1) * shrink - 1.
    offset = (1 / shrink - 1) / 2
    warped = warp(image, np.array([[1 / shrink, 0, offset], [0, 1 / shrink, offset]]), 20)
    blocks = image.reshape(20, shrink, 20, shrink, 3).mean(axis=(1, 3))
    assert np.abs(warped.astype(float) - blocks).max() <= 1
    bilinear = cv2.warpAffine(image, np.array([[1 / shrink, 0, offset], [0, 1 / shrink, offset]]), (20, 20))
    assert np.abs(bilinear.astype(float) - blocks).max() > 5 or shrink == 2


def test_a_map_to_a_resized_picture_takes_pixels_as_areas():
    matrix = _map(1.5, 20, (3, 4))
    # The corners of the picture, half a pixel outside of its first and last pixel, stay corners.
    corners = transform([[-0.5, -0.5], [511.5, 511.5]], inverse(matrix))
    np.testing.assert_allclose(
        transform(corners, resized(matrix, 0.25)), [[-0.5, -0.5], [127.5, 127.5]], atol=1e-3
    )


def test_the_ffhq_template_is_a_face_in_the_middle_of_its_picture():
    eyes, nose, mouth = FFHQ_TEMPLATE[:2].mean(axis=0), FFHQ_TEMPLATE[2], FFHQ_TEMPLATE[3:].mean(axis=0)
    assert eyes[1] < nose[1] < mouth[1]
    assert np.abs(np.array([eyes[0], nose[0], mouth[0]]) - 255.5).max() < 2
    matrix = similarity(ARCFACE_TEMPLATE, FFHQ_TEMPLATE)
    assert np.abs(transform(ARCFACE_TEMPLATE, matrix) - FFHQ_TEMPLATE).max() < 10, "both in the same order"


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_weights_are_warped_like_pictures(scale):
    weights = np.random.default_rng(2).uniform(0, 1, (60, 60)).astype(np.float32)
    matrix = _map(scale, 10, (5, 5))
    warped = warp(weights, matrix, 40)
    assert warped.dtype == np.float32
    assert warped.shape == (40, 40)
    picture = warp(np.rint(weights * 255).astype(np.uint8)[..., None].repeat(3, axis=2), matrix, 40)
    assert np.abs(picture[..., 0] / 255 - warped).max() < 0.01


def test_enlarging_can_be_sharper_than_bilinear():
    edge = np.zeros((20, 20, 3), np.uint8)
    edge[:, 10:] = 200
    matrix = resized(np.eye(2, 3), 4)
    linear, cubic = warp(edge, matrix, 80), warp(edge, matrix, 80, enlarge=cv2.INTER_CUBIC)
    steps = [np.diff(picture[40, :, 0].astype(int)).max() for picture in (linear, cubic)]
    assert steps[1] > steps[0]
