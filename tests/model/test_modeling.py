from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.video_utils import VideoMetadata

from longva.errors import LongVAError, VideoError
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.model import LongVAConfig, LongVAImageProcessor, LongVAVideoProcessor
from longva.model.image_processing_longva import flat_images
from longva.model.modeling_longva import anyres_raster, pool_patches
from longva.model.random_model import random_longva
from tests.hard_videos import write_video
from tests.tolerance import SAME

CLOSE = {"rtol": 0, "atol": SAME}


@pytest.fixture(scope="module")
def longva():
    return random_longva(dtype=torch.float64)


def prompt(model, text_before, num_visual, text_after):
    image = [model.config.image_token_id] * num_visual
    return torch.tensor([[*range(text_before), *image, *range(text_after)]])


def test_pooling_averages_windows_inside_each_grid():
    patches = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]]).view(
        1, 16, 1
    )
    assert pool_patches(patches, 2, "average").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_patches(patches, 2, "max").flatten().tolist() == [5, 7, 13, 15]
    assert pool_patches(patches, 4, "max").flatten().tolist() == [15]


def test_anyres_runs_along_the_rows_of_the_whole_canvas():
    base, left, right = ([n, n + 1, n + 2, n + 3] for n in (0, 10, 20))  # three grids of 2 x 2
    empty = [-1] * 4
    patches = torch.tensor([base, empty, left, right])[..., None]
    raster = anyres_raster(patches, rows=2, columns=2).flatten().tolist()
    assert raster == [0, 1, 2, 3, 10, 11, 20, 21, 12, 13, 22, 23]


def test_features_are_tower_projector_pool(longva):
    model, _ = longva
    pixels = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        projected = model.model.multi_modal_projector(states[:, 1:])  # [3, 16, D]
        square = projected.transpose(1, 2).unflatten(2, (4, 4))
        expected = F.avg_pool2d(square, 2).flatten(2).transpose(1, 2)  # [3, 4, D]
        torch.testing.assert_close(model.model.encode_grids(pixels), expected, **CLOSE)


def test_encoding_in_chunks_does_not_change_the_features(longva):
    model, _ = longva
    pixels = torch.randn(7, 3, 56, 56)
    with torch.no_grad():
        whole = model.model.encode_grids(pixels)
        model.config.vision_batch_size, before = 2, model.config.vision_batch_size
        chunked = model.model.encode_grids(pixels)
        model.config.vision_batch_size = before
    torch.testing.assert_close(whole, chunked, **CLOSE)


def test_an_image_and_a_video_of_the_same_grids_give_the_same_tokens(longva):
    model, _ = longva
    pixels = torch.randn(4, 3, 56, 56)
    with torch.no_grad():
        image = model.get_image_features(pixels, torch.tensor([[1, 2, 2]])).pooler_output[0]
        video = model.get_video_features(pixels, torch.tensor([[4, 1, 1]])).pooler_output[0]
    assert torch.equal(image, video)


def test_grids_are_pooled_as_the_config_says():
    model, _ = random_longva(dtype=torch.float64)
    pixels = torch.randn(2, 3, 56, 56)

    def features(stride, mode=None):
        model.config.set_pooling(stride, mode)
        return model.get_video_features(pixels, torch.tensor([[2, 1, 1]])).pooler_output[0]

    with torch.no_grad():
        patches, mean, largest = features(1), features(4), features(4, "max")
    torch.testing.assert_close(mean, patches.view(2, 16, -1).mean(1), **CLOSE)
    torch.testing.assert_close(largest, patches.view(2, 16, -1).amax(1), **CLOSE)
    with pytest.raises(LongVAError, match="pool_mode must be 'average' or 'max', got 'mean'"):
        model.config.set_pooling(mode="mean")


def test_forward_with_other_pooling_takes_fewer_placeholders():
    model, processor = random_longva(pool_stride=4)
    frames = [torch.randint(0, 255, (3, 56, 56, 3), dtype=torch.uint8).numpy()]
    inputs = processor(text="<video> hi", videos=frames, num_frames=3, return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == 3
    with torch.no_grad():
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_features_computed_once_can_be_used_again(longva):
    model, _ = longva
    pixels, thw = torch.randn(2, 3, 56, 56), torch.tensor([[1, 1, 2]])
    ids = prompt(model, 5, 8, 3)
    with torch.no_grad():
        direct = model(ids, pixel_values=pixels, image_grid_thw=thw).logits
        features = model.get_image_features(pixels, thw)
        again = model(ids, mm_encoder_outputs={"image": features}).logits
    assert torch.equal(direct, again)


def test_logits_to_keep_projects_only_the_last_positions(longva):
    model, _ = longva
    ids = torch.arange(12)[None]
    with torch.no_grad():
        two, all_of_them = model(ids, logits_to_keep=2).logits, model(ids).logits
    torch.testing.assert_close(two, all_of_them[:, -2:], **CLOSE)


def test_placeholders_and_tokens_must_agree(longva):
    model, _ = longva
    with pytest.raises(ValueError, match="7 image placeholder tokens, but the images encode to 8"):
        model(prompt(model, 1, 7, 1), pixel_values=torch.randn(2, 3, 56, 56))


def test_a_processor_of_another_packing_is_refused(longva):
    model, _ = longva
    with pytest.raises(ValueError, match="announces 2 grids, but 3 were given.*packing"):
        model.get_image_features(torch.randn(3, 3, 56, 56), torch.tensor([[1, 1, 2]]))


def test_anyres_model_and_processor_agree_on_tokens():
    model, processor = random_longva(image_packing="anyres")
    inputs = processor(
        text="<image> hi", images=[Image.new("RGB", (100, 60), "red")], return_tensors="pt"
    )
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert (rows, columns) == processor.image_layout(100, 60) == (3, 2)
    assert placeholders == (1 + 2 * 2) * 16  # the base grid, and no pooling
    with torch.no_grad():
        assert model(**inputs, logits_to_keep=1).logits.shape[1] == 1


def test_no_grids_become_no_features():
    model, _ = random_longva()
    for pool, tokens in ((True, 4), (False, 16)):
        features = model.model.encode_grids(torch.randn(0, 3, 56, 56), pool=pool)
        assert features.shape == (0, tokens, 64)


def test_the_empty_grids_beside_an_anyres_base_are_left_out():
    model, _ = random_longva(image_packing="anyres", dtype=torch.float64)
    pixels, grid = torch.randn(8, 3, 56, 56), torch.tensor([[1, 2, 3], [1, 2, 1]])
    garbage = pixels.clone()
    garbage[1:3] = torch.nan
    with torch.no_grad():
        first, second = model.get_image_features(pixels, grid).pooler_output
        same, _ = model.get_image_features(garbage, grid).pooler_output
        alone = model.get_image_features(pixels[6:], grid[1:]).pooler_output[0]
    assert first.shape == (4 * 16, 64) and torch.equal(first, same)
    torch.testing.assert_close(alone, second, **CLOSE)


def test_anyres_pools_video_frames_as_unires_does():
    model, _ = random_longva(image_packing="anyres")
    with torch.no_grad():
        tokens = model.get_video_features(torch.randn(3, 3, 56, 56)).pooler_output[0]
    assert tokens.shape[0] == 3 * 4


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_prefill_generates_the_same_tokens(longva, chunk):
    model, _ = longva
    inputs = {
        "input_ids": prompt(model, 6, 12, 5),
        "pixel_values": torch.randn(3, 3, 56, 56),
        "image_grid_thw": torch.tensor([[1, 1, 3]]),
        "max_new_tokens": 8,
        "do_sample": False,
    }
    whole = model.generate(**inputs)
    assert torch.equal(model.generate(**inputs, prefill_chunk_size=chunk), whole)


def test_a_chunk_size_in_a_generation_config_gives_the_same_tokens():
    model, _ = random_longva(dtype=torch.float64)
    inputs = {
        "input_ids": prompt(model, 6, 12, 5),
        "pixel_values": torch.randn(3, 3, 56, 56),
        "image_grid_thw": torch.tensor([[1, 1, 3]]),
    }
    whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    given = GenerationConfig(prefill_chunk_size=7, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**inputs, generation_config=given), whole)
    assert given.prefill_chunk_size == 7
    text = prompt(model, 6, 0, 5)
    by_name = model.generate(text, generation_config=given)
    assert torch.equal(model.generate(text, given), by_name)
    beams = GenerationConfig(prefill_chunk_size=7, num_beams=2)
    with pytest.raises(ValueError, match="no beams"):
        model.generate(**inputs, generation_config=beams)
    model.generation_config.prefill_chunk_size = 7
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False), whole)
    with pytest.raises(ValueError, match="no beams"):
        model.generate(**inputs, num_return_sequences=2, do_sample=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64"])
def test_pixels_of_an_unknown_range_are_refused(longva, dtype):
    _, processor = longva
    picture = np.full((56, 56, 3), 2, dtype)
    with pytest.raises(VideoError, match=rf"uint8 in 0..255 or floats in 0..1, got {dtype} \[56"):
        processor.image_processor(picture)
    with pytest.raises(VideoError, match=f"uint8 in 0..255 or floats in 0..1, got {dtype}"):
        processor.video_processor([np.stack([picture] * 2)])


def test_16_bit_grey_pictures_keep_their_levels():
    grey = Image.fromarray(np.full((56, 56), 100 * 256, np.uint16))
    processor = LongVAImageProcessor(56, image_mean=[0.0] * 3, image_std=[1.0] * 3, grids=[(1, 1)])
    assert processor(grey)["pixel_values"].unique().tolist() == pytest.approx([100 / 255])


def test_clear_parts_of_a_picture_are_white_however_it_is_given(tmp_path):
    picture = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
    picture.save(tmp_path / "sign.png")
    processor = LongVAImageProcessor(56, image_mean=[0.0] * 3, image_std=[1.0] * 3, grids=[(1, 1)])
    for given in (picture, processor.fetch_images(str(tmp_path / "sign.png"))):
        assert processor(given)["pixel_values"].unique().tolist() == [1.0]


def test_metadata_name_the_frames_taken_from_arrays(longva):
    frames = [Image.new(mode, (80, 60)) for mode in ("RGB", "L", "RGBA", "P", "RGB")]
    process = partial(longva[1].video_processor, num_frames=3, return_metadata=True)
    (about,) = process(frames)["video_metadata"]
    assert (about.total_num_frames, about.frames_indices) == (5, [0, 2, 4])
    given = {"total_num_frames": 50, "fps": 5.0, "frames_indices": [0, 10, 20, 30, 40]}
    (about,) = process(frames, video_metadata=[given])["video_metadata"]
    assert about.timestamps == [0.0, 4.0, 8.0]
    given["frames_indices"] = np.arange(0, 50, 10)  # as transformers' own loaders give them
    (about,) = process(frames, video_metadata=[VideoMetadata(**given)])["video_metadata"]
    assert about.frames_indices == [0, 20, 40]
    given["frames_indices"] = [0, 1]  # which name other frames than these
    (about,) = process(frames, video_metadata=[given])["video_metadata"]
    assert about.frames_indices == [0, 2, 4]
    with pytest.raises(VideoError, match=r"shape \[2, 8, 8, 5\] have no axis of 3 colours"):
        process(np.zeros((2, 8, 8, 5), np.uint8))


def test_the_processors_take_what_can_be_watched(longva, video, tmp_path):
    process = partial(longva[1].video_processor, num_frames=3)
    want = process(str(video))["pixel_values_videos"]
    with video.open("rb") as file:
        for given in (video, video.read_bytes(), [file], [video], [str(video)]):
            assert torch.equal(process(given)["pixel_values_videos"], want)
    pictures = np.stack(list(open_media(video).pictures([0, 23, 47])))
    tensors = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    for given in (pictures, tensors, list(map(Image.fromarray, pictures)), pictures / 255):
        assert torch.equal(process(given)["pixel_values_videos"], want)


def test_timestamps_are_presentation_times_where_the_rate_varies(longva, tmp_path):
    stamps = [0, 40, 1000, 9000, 20000]
    film = write_video(tmp_path / "vfr.mkv", 5, milliseconds=stamps)
    process = partial(longva[1].video_processor, return_metadata=True)
    (about,) = process(str(film), num_frames=5)["video_metadata"]
    assert about.timestamps == [0, 0.04, 1, 9, 20]


def test_thin_pixels_keep_their_size(longva):
    for height, width in ((1, 500), (500, 1)):
        line = np.zeros((height, width, 3), np.uint8)
        line[..., 0] = 255
        for given in (line, torch.from_numpy(line).permute(2, 0, 1), Image.fromarray(line)):
            (image,) = flat_images(given)
            assert (image.size, image.getpixel((0, 0))) == ((width, height), (255, 0, 0))


def test_the_cap_on_frames_holds_whatever_samples_them():
    video = LongVAVideoProcessor(num_frames=32)
    assert video.sampling() == FrameSampling(num_frames=32)
    assert video.sampling(max_frames=8) == FrameSampling(num_frames=8)
    assert video.sampling(max_frames=64) == FrameSampling(num_frames=32)
    assert video.sampling(fps=2, max_frames=8) == FrameSampling(fps=2, max_frames=8)
    assert LongVAVideoProcessor(max_frames=5).sampling() == FrameSampling(num_frames=5)
    own = LongVAVideoProcessor(fps=1, max_frames=8)
    assert own.sampling() == FrameSampling(fps=1, max_frames=8)
    assert own.sampling(num_frames=4) == FrameSampling(num_frames=4)
    with pytest.raises(VideoError, match="num_frames and fps are different ways"):
        video.sampling(num_frames=4, fps=1)


def test_generation_equals_one_full_forward_a_token(longva):
    model, _ = longva
    ids, pixels = prompt(model, 6, 8, 5), torch.randn(2, 3, 56, 56)
    generated = model.generate(
        input_ids=ids, pixel_values=pixels, max_new_tokens=6, do_sample=False, prefill_chunk_size=4
    )
    expected = ids
    with torch.no_grad():
        for _ in range(6):
            logits = model(expected, pixel_values=pixels).logits[:, -1]
            logits[:, model.generation_config.suppress_tokens] = float("-inf")
            expected = torch.cat([expected, logits.argmax(-1)[None]], dim=1)
    assert torch.equal(generated, expected)


def test_loss_ignores_masked_labels_and_trains_the_projector():
    model, _ = random_longva()
    ids = prompt(model, 4, 4, 4)
    labels = ids.clone()
    labels[:, :10] = -100
    loss = model(ids, pixel_values=torch.randn(1, 3, 56, 56), labels=labels).loss
    loss.backward()
    assert loss.item() > 0
    assert model.model.multi_modal_projector.linear_1.weight.grad.norm() > 0


def test_gradients_through_vision_chunks_are_those_of_one_batch():
    model, _ = random_longva(vision_batch_size=2, dtype=torch.float64)
    pixels = torch.randn(5, 3, 56, 56)
    weight = model.model.multi_modal_projector.linear_1.weight

    def gradient(batch_size):
        model.config.vision_batch_size = batch_size
        return torch.autograd.grad(model.model.encode_grids(pixels).square().sum(), weight)[0]

    torch.testing.assert_close(gradient(2), gradient(5), rtol=1e-10, atol=1e-10)


def test_config_names_the_strides_that_work():
    with pytest.raises(ValueError, match=r"divide the 24 patches a side, got 5. Choose one of \[1"):
        LongVAConfig(pool_stride=5)
    with pytest.raises(ValueError, match="pool_mode must be 'average' or 'max', got 'sum'"):
        LongVAConfig(pool_mode="sum")


def test_default_config_is_clip_l_with_144_tokens_a_grid():
    config = LongVAConfig()
    assert config.tokens_per_grid() == 144 and config.vision_config.num_hidden_layers == 24
