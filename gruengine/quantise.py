# SPDX-License-Identifier: MIT
"""Weights rounded to bfloat16, int8 and int4, as the engine and the model file have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SECTION = 32  # weights of int4 that share a scale


def round_bfloat16(a: Array) -> Array:
    """Return the nearest bfloat16 (ties to even) of every float32, as float64."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + ((bits >> 16) & 1)
    rounded: Array = (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
    return rounded


def weight_scales(W: Array) -> Array:
    """Return the scale of each row of ``W``: float32 [rows].

    A little more than largest / 127, with 17 bits: every weight, an integer times its scale, is a
    float32 exactly, so quantising what the weights stand for gives the same integers and scales.
    """
    most = np.abs(np.asarray(W, np.float32)).max(axis=-1, initial=0.0)
    bits = (most / np.float32(127)).astype(np.float32).view(np.uint32)
    scales = ((bits + np.uint32(0x7F)) & np.uint32(0xFFFFFF80)).view(np.float32)
    return np.asarray(np.where(most > np.float32(1e-30), scales, np.float32(0)))


def quantise_weights(W: Array) -> tuple[Array, Array]:
    """Return the int8 weights [..., k] of ``W`` and their scales [...]."""
    W = np.asarray(W, np.float32)
    scales = weight_scales(W)
    divisor = np.where(scales > 0, scales, np.float32(1))[..., None]
    return np.rint(np.where(scales[..., None] > 0, W / divisor, 0)).astype(np.int8), scales


def sections(W: Array) -> Array:
    """Return ``W`` [..., k] as [..., sections, SECTION], the last one filled up with zeros."""
    k = W.shape[-1]
    padded = np.zeros((*W.shape[:-1], -(-k // SECTION) * SECTION), W.dtype)
    padded[..., :k] = W
    return padded.reshape(*W.shape[:-1], -1, SECTION)


def quantise_int4(W: Array) -> tuple[Array, Array]:
    """Return the weights [..., k] of ``W`` as integers in [-7, 7], and scales [..., sections].

    A scale is the bfloat16 not below largest / 7 of its section: every weight, an integer times its
    scale, is a float32 exactly, and quantising those gives the same integers and scales.
    """
    W = np.asarray(W, np.float32)
    parts = sections(W)
    most = np.abs(parts).max(axis=-1, initial=0.0)
    bits = (most / np.float32(7)).astype(np.float32).view(np.uint32)
    up = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    scales = np.asarray(np.where(most > np.float32(1e-30), up, np.float32(0)))
    divisor = np.where(scales > 0, scales, np.float32(1))[..., None]
    q = np.rint(np.where(scales[..., None] > 0, parts / divisor, 0)).astype(np.int8)
    return q.reshape(*W.shape[:-1], -1)[..., : W.shape[-1]], scales


def pack_nibbles(q: Array) -> Array:
    """Return the int8 elements of ``q``, in [-8, 7], two in a byte: uint8 [ceil(size / 2)].

    The first of two is the low half; a half to spare is zero.
    """
    halves = np.zeros(q.size + q.size % 2, np.uint8)
    halves[: q.size] = q.reshape(-1).view(np.uint8) & 15
    packed: Array = halves[0::2] | halves[1::2] << 4
    return packed


def unpack_nibbles(packed: Array, shape: tuple[int, ...]) -> Array:
    """Return the int8 elements that :func:`pack_nibbles` made of an array of ``shape``."""
    halves = np.empty((packed.size, 2), np.int8)
    halves[:, 0] = packed & 15
    halves[:, 1] = packed >> 4
    halves ^= 8
    halves -= 8
    return halves.reshape(-1)[: math.prod(shape)].reshape(shape)


def expand_int4(q: Array, scales: Array) -> Array:
    """Return the floats that the integers [..., k] of sections with ``scales`` stand for."""
    k = q.shape[-1]
    floats: Array = q.astype(np.float32) * np.repeat(scales, SECTION, axis=-1)[..., :k]
    return floats
