"""The processors honour or refuse what every processor of transformers takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from longva.errors import LongVAError, VideoError
from longva.model import LongVAImageProcessor, LongVAVideoProcessor
from longva.model.random_model import random_longva

SQUARE = np.full((28, 28, 3), [0, 51, 255], np.uint8)


def images(**kwargs) -> LongVAImageProcessor:
    return LongVAImageProcessor(28, grids=[(1, 1)], **kwargs)


def colours(processor, **kwargs) -> list[float]:
    """The three values that a one-coloured square becomes."""
    (pixels,) = processor(
        *([SQUARE] if isinstance(processor, LongVAImageProcessor) else [SQUARE[None]]), **kwargs
    )[processor.model_input_names[0]]
    assert pixels.shape == (3, 28, 28) and all(len(plane.unique()) == 1 for plane in pixels)
    return [round(value, 5) for value in pixels[:, 0, 0].tolist()]


@pytest.mark.parametrize("kind", [images, lambda **kwargs: LongVAVideoProcessor(28, **kwargs)])
def test_pixels_are_scaled_and_normalised_as_asked(kind):
    half = {"image_mean": [0.5] * 3, "image_std": 0.5}
    for arguments, values in [
        ({"do_normalize": False}, [0, 0.2, 1]),
        ({"do_rescale": False, "do_normalize": False}, [0, 51, 255]),
        ({"rescale_factor": -1.0, "do_normalize": False}, [0, -51, -255]),
        (half, [-1, -0.6, 1]),
        (half | {"rescale_factor": 2 / 255}, [-1, -0.2, 3]),
    ]:
        assert colours(kind(), **arguments) == values
        assert colours(kind(**arguments)) == values
    assert colours(kind(do_normalize=False), do_normalize=True, **half) == [-1, -0.6, 1]


def test_an_array_of_three_rows_is_read_by_its_input_data_format():
    rows = np.zeros((3, 28, 3), np.uint8)
    rows[0] = 255
    with pytest.raises(VideoError, match="colours first or last"):
        images()(rows)
    first = images(do_normalize=False)(rows, input_data_format="channels_first")
    assert first["pixel_values"][0, 0].max() == 1 and first["pixel_values"][0, 1:].max() == 0
    last = images(do_normalize=False)(rows, input_data_format="channels_last")
    assert (last["pixel_values"][0].amax((1, 2)) > 0.9).all()
    with pytest.raises(LongVAError, match="input_data_format='first' given, needed 'channels_f"):
        images()(rows, input_data_format="first")


def test_pixels_come_on_the_device_that_is_asked_for():
    assert images()(SQUARE, device="meta")["pixel_values"].device.type == "meta"


REFUSED = [
    ({"do_resize": False}, "do_resize=False given, needed True"),
    ({"size": {"height": 56, "width": 56}}, "a grid has 28 pixels a side"),
    ({"size": 56}, "a grid has 28 pixels a side"),
    ({"resample": 2}, "resample=2 given, needed"),
    ({"do_convert_rgb": False}, "the tower takes RGB"),
    ({"data_format": "channels_last"}, "the tower takes its colours first"),
    ({"do_pad": True}, "do_pad=True given, needed False"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_done_is_refused(arguments, message):
    for processor in (images(), LongVAVideoProcessor(28)):
        with pytest.raises(LongVAError, match=message):
            colours(processor, **arguments)
        with pytest.raises(LongVAError, match=message):
            type(processor)(28, **arguments)


def test_what_is_done_anyway_may_be_asked_for():
    assert colours(images(), size=28, do_resize=True, resample=3) == colours(images())


def test_a_crop_that_is_not_made_is_refused():
    with pytest.raises(LongVAError, match="nothing of an image is cut off"):
        colours(images(), do_center_crop=True)
    with pytest.raises(LongVAError, match="do_center_crop=False given: say fit='pad'"):
        colours(LongVAVideoProcessor(28), do_center_crop=False)
    colours(LongVAVideoProcessor(28), do_center_crop=False, fit="pad")


def test_a_misspelt_argument_is_refused_wherever_it_is_given():
    _, processor = random_longva()
    meant = "no argument max_grid. Did you mean max_grids"
    with pytest.raises(LongVAError, match=meant):
        images(max_grid=2)
    with pytest.raises(LongVAError, match=meant):
        images()(SQUARE, max_grid=2)
    with pytest.raises(LongVAError, match=meant):
        processor(text="<image>", images=[Image.new("RGB", (9, 9))], max_grid=2)
    with pytest.raises(LongVAError, match="no argument num_frame. Did you mean num_frames"):
        processor(text="<video>", videos=[SQUARE[None]], num_frame=2)
    with pytest.raises(LongVAError, match="no argument colour_depth. There are"):
        images()(SQUARE, colour_depth=8)


def test_the_size_of_a_grid_is_one_truth(tmp_path):
    images().save_pretrained(tmp_path)
    changed = LongVAImageProcessor.from_pretrained(tmp_path, grid_size=56)
    assert changed.size == {"height": 56, "width": 56} == changed.to_dict()["size"]
    assert changed(SQUARE)["pixel_values"].shape[-1] == 56
    with pytest.raises(LongVAError, match="load the processor with grid_size="):
        LongVAImageProcessor.from_pretrained(tmp_path, size=56)
    LongVAVideoProcessor(28, num_frames=None).save_pretrained(tmp_path / "video")
    video = LongVAVideoProcessor.from_pretrained(tmp_path / "video", grid_size=56)
    assert video.size["width"] == 56 and video.num_frames is None


def test_frames_without_times_are_not_sampled_by_time():
    video = LongVAVideoProcessor(28)
    frames = torch.zeros(8, 3, 28, 28, dtype=torch.uint8)
    for asked in ({"fps": 2}, {"end": 1, "num_frames": 2}):
        with pytest.raises(VideoError, match="have no times.*video_metadata"):
            video(frames, **asked)
    metadata = {"fps": 4.0, "total_num_frames": 8}
    for given in ([metadata], [[metadata]], metadata):
        assert len(video(frames, fps=2, video_metadata=given)["pixel_values_videos"]) == 4
    assert len(video(frames, fps=2, do_sample_frames=False)["pixel_values_videos"]) == 8
    assert len(video(frames, num_frames=3)["pixel_values_videos"]) == 3
