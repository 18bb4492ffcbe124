"""The attentions and the deformable convolution as plain loops in double precision: slow, hard to get wrong."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def bilinear(image: Array, x: float, y: float) -> Array:
    """image [h, w, D] at pixel coordinates, pixel centres at integers, zero outside."""
    height, width, channels = image.shape
    total = np.zeros(channels)
    if not (math.isfinite(x) and math.isfinite(y)):
        return total
    left, top = math.floor(x), math.floor(y)
    for row, col in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= col < width:
            total += image[row, col] * (1 - abs(y - row)) * (1 - abs(x - col))
    return total


def level_maps(tokens: Array, shapes: list[tuple[int, int]]) -> list[Array]:
    """tokens [S, H, D] -> one [h, w, H, D] a level."""
    maps, start = [], 0
    for height, width in shapes:
        maps.append(tokens[start : start + height * width].reshape(height, width, *tokens.shape[1:]))
        start += height * width
    return maps


def attend(tokens: Array, references: Array, offsets: Array, logits: Array, shapes: list[tuple[int, int]]) -> Array:
    """One query: tokens [S, H, D], references [P, 2], offsets [H, L, P, 2], logits [H, L*P] -> [H*D]."""
    heads, levels, points, _ = offsets.shape
    output = np.zeros((heads, tokens.shape[-1]))
    maps = level_maps(tokens, shapes)
    for head in range(heads):
        weights = softmax(logits[head]).reshape(levels, points)
        for level, (height, width) in enumerate(shapes):
            for point in range(points):
                x = references[point, 0] * width + offsets[head, level, point, 0] - 0.5
                y = references[point, 1] * height + offsets[head, level, point, 1] - 0.5
                output[head] += weights[level, point] * bilinear(maps[level][:, :, head], x, y)
    return output.ravel()


def ms_deform_attn(value: Array, refs: Array, offsets: Array, logits: Array, shapes: list[tuple[int, int]]) -> Array:
    points = offsets.shape[4]
    return np.stack(
        [
            [
                attend(value[b], np.repeat(refs[b, q][None], points, 0), offsets[b, q], logits[b, q], shapes)
                for q in range(refs.shape[1])
            ]
            for b in range(len(value))
        ]
    )


def temporal_self_attn(value: Array, refs: Array, offsets: Array, logits: Array, bev_hw: tuple[int, int]) -> Array:
    points = offsets.shape[3]
    frames = [
        [
            attend(
                value[f], np.repeat(refs[f, q][None], points, 0), offsets[q, :, f][:, None], logits[q, :, f], [bev_hw]
            )
            for q in range(refs.shape[1])
        ]
        for f in range(2)
    ]
    return np.mean(frames, axis=0)


def spatial_cross_attn(
    value: Array,
    lidar2img: Array,
    offsets: Array,
    logits: Array,
    shapes: list[tuple[int, int]],
    bev_hw: tuple[int, int],
    pc_range: tuple[float, ...],
    z_anchors: tuple[float, ...],
    image_hw: tuple[int, int],
) -> Array:
    points, output = offsets.shape[3], []
    for query in range(bev_hw[0] * bev_hw[1]):
        row, col = divmod(query, bev_hw[1])
        x = (col + 0.5) / bev_hw[1] * (pc_range[3] - pc_range[0]) + pc_range[0]
        y = (row + 0.5) / bev_hw[0] * (pc_range[4] - pc_range[1]) + pc_range[1]
        total, seeing = np.zeros(value.shape[2] * value.shape[3]), 0
        for cam, matrix in enumerate(lidar2img):
            anchors, seen = [], False
            for z in z_anchors:
                camera = matrix @ np.array([x, y, z, 1.0])
                u, v = camera[:2] / max(camera[2], 1e-5) / (image_hw[1], image_hw[0])
                seen = seen or (camera[2] > 1e-5 and 0 < u < 1 and 0 < v < 1)
                anchors.append((u, v))
            if seen:
                references = np.array([anchors[point % len(anchors)] for point in range(points)])
                total += attend(value[cam], references, offsets[query], logits[query], shapes)
                seeing += 1
        output.append(total / max(seeing, 1))
    return np.stack(output)


def modulated_deform_conv2d(
    x: Array, offset: Array, mask: Array, weight: Array, stride: int, padding: int, dilation: int
) -> Array:
    batch, _, out_h, out_w = offset.shape
    out_channels, _, kernel_h, kernel_w = weight.shape
    output = np.zeros((batch, out_channels, out_h, out_w))
    for n in range(batch):
        image = x[n].transpose(1, 2, 0)
        for row in range(out_h):
            for col in range(out_w):
                for tap in range(kernel_h * kernel_w):
                    dy, dx = offset[n, 2 * tap : 2 * tap + 2, row, col]
                    sample = bilinear(
                        image,
                        col * stride - padding + dilation * (tap % kernel_w) + dx,
                        row * stride - padding + dilation * (tap // kernel_w) + dy,
                    )
                    taps = weight[:, :, tap // kernel_w, tap % kernel_w]
                    output[n, :, row, col] += taps @ sample * mask[n, tap, row, col]
    return output
