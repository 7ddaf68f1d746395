"""From HDR video to the sRGB that vision towers know.

    code  --EOTF-->  light of a 1000-nit screen  --EETF-->  light of a 203-nit screen  -->  sRGB
                     BT.2020 primaries                      BT.709 primaries

Taken as they are, the codes of a phone's or a disc's HDR film make a grey, pale picture. The curves
are those of ITU-R BT.2100 (PQ; HLG with its system gamma of 1.2); white is at 203 nits as in
BT.2408. Highlights are compressed by the spline of BT.2390, applied to the brightest channel so
that hues stay: below about 95 nits nothing changes, 203 nits become 159, 1000 become white.

Light is a share of 1000 nits, H and W a picture's height and width.
"""

from functools import cache

import numpy as np

PQ, HLG = 16, 18
"""Transfer characteristics as H.273 numbers them, and FFmpeg with it."""

WHITE = 0.203
LEVELS = 65536
"""Entries of the tables that stand for the curves; without them a picture takes seven times as
long, and differs by one level in a thousandth of its pixels."""

LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""From linear BT.2020, by BT.2087."""


def pq_light(code: np.ndarray) -> np.ndarray:
    """PQ's EOTF: codes 0..1 to light 0..10.

    >>> pq_light(np.array([0.0, 0.5807, 1.0])).round(3)
    array([ 0.   ,  0.203, 10.   ])
    """
    root = code ** (32 / 2523)
    return 10 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (
        8192 / 1305
    )


def pq_code(light: np.ndarray) -> np.ndarray:
    """The inverse of `pq_light`."""
    power = (light / 10) ** (1305 / 8192)
    return ((107 + 2413 * power) / (128 + 2392 * power)) ** (2523 / 32)


def hlg_scene(code: np.ndarray) -> np.ndarray:
    """HLG's inverse OETF: codes 0..1 to light in the scene, 0..1.

    >>> hlg_scene(np.array([0.0, 0.5, 1.0])).round(4)
    array([0.    , 0.0833, 1.    ])
    """
    upper = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(code <= 0.5, code**2 / 3, upper)


def compressed(light: np.ndarray) -> np.ndarray:
    """BT.2390's EETF: light of a 1000-nit screen to that of a 203-nit screen.

    >>> compressed(np.array([0.05, 0.203, 1.0])).round(3)
    array([0.05 , 0.159, 0.203])
    """
    peak = pq_code(np.array(1.0))
    top = pq_code(np.array(WHITE)) / peak
    knee = 1.5 * top - 0.5
    code = pq_code(light) / peak
    t = np.maximum(code - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (3 * t**2 - 2 * t**3) * top
    spline += (t**3 - 2 * t**2 + t) * (1 - knee)
    return pq_light(np.where(code < knee, code, spline) * peak)


@cache
def _tables(transfer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Light of a code; gain at the square root of the brightest light; sRGB level of light."""
    share = np.arange(LEVELS) / (LEVELS - 1)
    light = np.minimum(pq_light(share), 1) if transfer == PQ else hlg_scene(share)
    brightest = np.maximum(share**2, 1e-7)
    gain = compressed(brightest) / brightest / WHITE
    level = np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055) * 255
    return light.astype(np.float32), gain.astype(np.float32), level.round().astype(np.uint8)


def _entry(share: np.ndarray) -> np.ndarray:
    return (share * (LEVELS - 1) + 0.5).astype(np.uint16)


def tone_mapped(picture: np.ndarray, transfer: int) -> np.ndarray:
    """Turn an HDR picture into sRGB.

    Args:
        picture: [H, W, 3] uint16, R'G'B' of BT.2020 over the whole range.
        transfer: `PQ` or `HLG`.

    Returns:
        [H, W, 3] uint8.
    """
    light_of, gain_of, level_of = _tables(transfer)
    light = light_of[picture]  # [H, W, 3]
    if transfer == HLG:  # what a screen of 1000 nits does to the scene's light
        light *= ((light @ LUMINANCE) ** np.float32(0.2))[..., None]
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
    light *= gain_of[_entry(np.sqrt(brightest))][..., None]
    return level_of[_entry((light @ TO_BT709.T).clip(0, 1))]
