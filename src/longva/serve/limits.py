"""What one request may ask of the server."""

from dataclasses import dataclass

from longva.errors import LongVAError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on media, prompts, answers and waiting. Sizes in bytes, times in seconds."""

    body_bytes: int = 128 * 10**6
    """Of a request, data: URIs included."""

    media_bytes: int = 2 * 10**9
    """Of one medium, however it arrives."""

    spool_bytes: int = 16 * 2**30
    """Of all media on disk at a time; they are deleted when their request ends, or kept."""

    kept_bytes: int = 4 * 2**30
    """Of downloaded media kept on disk for the next question about their URL; 0 keeps none."""

    open_files: int = 256
    """Shared files that are being watched, or wait for it, at a time."""

    media: int = 16
    """Media of one conversation."""

    media_seconds: float = 4 * 3600
    """Length of a video or animation."""

    stored_frames: int = 1_000_000
    """Frames in a video file, whether watched or not."""

    pixels: int = 7680 * 4320
    """Of one frame or image."""

    decoded_pixels: float = 1e12
    """Of all frames of a file together: 4 hours of 1080p at 30 frames a second."""

    animation_pixels: float = 4e9
    """The same for GIF, WebP and PNG animations, which are composed more slowly than videos."""

    animation_frames: int = 20_000
    """Of them; each is composed from the one before, at about 1,000 a second."""

    animation_bytes: int = 32 * 2**20
    """Of their files: a GIF tells how many pictures it holds only when all of it is read."""

    listed_frames: int = 4096
    """Pictures of a video that is given as a list of them."""

    frames: int | None = None
    """Watched frames of one conversation; None leaves the model's context and memory as limits."""

    decode_seconds: float = 1800.0
    """That one question may wait for its media to be decoded; others are answered meanwhile."""

    fetch_seconds: float = 300.0
    """To download one medium, or for a request to arrive."""

    silent_seconds: float = 20.0
    """Silence after which a connection is given up."""

    prompt_characters: int = 100_000
    new_tokens: int = 4096

    waiting: int = 64
    """Requests in the queue, the one that is being answered not counted."""

    waiting_per_client: int = 32
    """Of them, requests of one client."""

    together: int = 32
    """Questions about the same media that are answered together."""

    def __post_init__(self) -> None:
        """Refuse bounds that let nothing through."""
        bounds = {**vars(self), "kept_bytes": self.kept_bytes + 1}  # this one may be 0
        small = [name for name, value in bounds.items() if value is not None and value <= 0]
        if small:
            raise LongVAError(f"limits must be greater than 0: {', '.join(small)}.")
