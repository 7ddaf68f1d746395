"""From the many ways in which images store colours to 8-bit sRGB without holes.

1, L, P, YCbCr, CMYK, LAB ...    by the image's ICC profile, if it has one
RGBA, LA, a clear palette        drawn on white, as browsers and viewers do
12, 16, 32 bits, float           one channel, by its range
"""

import io

import numpy as np
from PIL import ExifTags, Image, ImageCms

TAGS = ExifTags.Base


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image of any mode into 8-bit sRGB, on white where it is clear."""
    profile, clear = image.info.get("icc_profile"), image.has_transparency_data
    if image.mode[0] in "IF":
        image = _levels(image)
    elif clear or image.mode == "P":  # before a colour that stands for clear is changed
        image = image.convert("RGBA" if clear else "RGB")
    if profile:
        image = _in_srgb(image, profile)
    return on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Draw an RGBA image on white."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Change colours from an ICC profile to sRGB; a profile that does not fit changes nothing."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(described):
            return image
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, described, srgb, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _levels(image: Image.Image) -> Image.Image:
    """Turn one channel of more than 8 bits into 256 levels.

    Integers of 12 and 16 bits and floats in 0..1 have the range of their type. Nothing says how
    others should look: theirs is that of the image, from its smallest value to its largest.
    """
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})  # tags: of a TIFF
    bits = tags.get(TAGS.BitsPerSample, (16,))[0]
    if bits == 32 and image.mode == "I" and tags.get(TAGS.SampleFormat, (1,))[0] == 1:
        values = values.view(np.uint32)  # which Pillow takes for signed
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    usual = 1 if image.mode == "F" else 2**bits - 1
    if low >= 0 and high <= usual and (bits < 32 or image.mode == "F"):
        low, high = 0.0, float(usual)
    share = np.nan_to_num((values - low) / max(high - low, 1e-30), posinf=1.0, neginf=0.0)
    if tags.get(TAGS.PhotometricInterpretation) == 0:  # 0 is white
        share = 1 - share
    return Image.fromarray((share.clip(0, 1) * 255).round().astype(np.uint8))
