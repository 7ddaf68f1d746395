"""Budgets of `longva reproduce nano`: how much a run trains and measures."""

from dataclasses import dataclass, field

from longva.errors import LongVAError
from longva.niah.cells import Grid


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a run trains and measures; the defaults are those of `laptop`."""

    context: int = 4096
    """Tokens of the extended model."""

    text_scale: float = 1.0
    """Share of the words of `text.yaml` that is written."""

    overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`--set` of the recipes."""

    tower_steps: int = 5000
    wordless_alignment: tuple[int, int] = (1500, 60)
    """Steps of stages 1 and 2 behind the study's tower that never saw a word embedding."""

    samples: int = 1000
    """Captions, and as many chats, of alignment."""

    frames: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 3600)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 20
    calibration_needles: int = 12
    """Needles by which the evidence heads are found, and the study's RoPE base is chosen."""

    calibration_frames: int = 512
    """Film in which the study's RoPE base is chosen."""

    text_lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    text_trials: int = 4

    @property
    def frame_grid(self) -> Grid:
        """Cells of a V-NIAH measurement."""
        return Grid(lengths=self.frames, depths=self.depths)


_SMOKE_BASE = (
    "ladder=[{seq_len: 64, rope_theta: 1.0e+4, max_steps: 150, samples_per_step: 32, "
    "tokens: packed/copies}, {seq_len: 64, rope_theta: 1.0e+4, max_steps: 50, "
    "samples_per_step: 32, tokens: packed/quizzes}]",
    "loop.max_steps=40",
)
SMOKE = Budget(
    context=512,
    text_scale=0.25,
    overrides={
        "base_lm": _SMOKE_BASE,
        "base_honest": _SMOKE_BASE,
        "extend_honest": (
            "ladder=[]",
            "seq_len=1024",
            "tokens=packed/mixed_1024",
            "loop.max_steps=10",
        ),
        "extend": ("ladder=[]", "seq_len=512", "tokens=packed/mixed_512", "loop.max_steps=20")
        + ("loop.samples_per_step=8", "loop.samples_per_micro_batch=8"),
        "stage1": ("loop.max_steps=10", "loop.eval_every=5"),
        "stage2": ("loop.max_steps=20", "loop.eval_every=10"),
    },
    tower_steps=200,
    wordless_alignment=(20, 20),
    samples=160,
    frames=(16, 32, 64, 128),
    depths=(0.0, 0.5, 1.0),
    needles=6,
    calibration_frames=64,
    text_lengths=(128, 256, 512),
    text_trials=3,
)
BUDGETS = {"smoke": SMOKE, "laptop": Budget()}


def budget_of(name: str) -> Budget:
    """Return a budget by its name.

    Raises:
        LongVAError: there is none.
    """
    if name not in BUDGETS:
        raise LongVAError(f"budget must be one of {', '.join(BUDGETS)}, got {name!r}.")
    return BUDGETS[name]
