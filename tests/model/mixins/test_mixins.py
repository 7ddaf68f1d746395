"""transformers' own tests of a model, its config and its processors, run on LongVA.

`make test-mixins` fetches them and runs this file; without them it is skipped.
"""

import copy
import unittest
from unittest.mock import patch

import pytest
import torch
from transformers.models.auto import modeling_auto

from longva.model import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    LongVAImageProcessor,
    LongVAModel,
    LongVAProcessor,
    LongVAVideoProcessor,
)
from longva.model.random_model import byte_tokenizer
from tests.model.mixins.skips import REASONS

pytest.importorskip("transformers_tests", reason="make test-mixins fetches transformers' tests")
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
)
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from transformers_tests.test_processing_common import ProcessorTesterMixin
from transformers_tests.test_video_processing_common import (
    VideoProcessingTestMixin,
    prepare_video_inputs,
)

GRID = 56


class WithReasons:
    """Skips what the table of reasons names."""

    def setUp(self):
        name = self.id().partition(f"{type(self).__module__}.")[2]
        for reason, tests in REASONS.items():
            if name in tests:
                self.skipTest(reason)
        super().setUp()


class LongVATester:
    """A LongVA of two layers, and a batch of two images with a question each."""

    def __init__(self, parent):
        self.parent = parent
        self.batch_size, self.is_training = 2, True
        self.image_size, self.patch_size = GRID, 14
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = 32, 2, 4
        self.grids, self.tokens_per_grid = 2, 4
        self.seq_length = 6 + self.grids * self.tokens_per_grid
        self.text_config, self.vision_config = self.parts()

    def parts(self):
        config = self.get_config().to_dict()
        return config["text_config"], config["vision_config"]

    def get_config(self) -> LongVAConfig:
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": GRID,
            "patch_size": 14,
            "projection_dim": 32,
        }
        text = {
            "model_type": "qwen2",
            "vocab_size": 99,
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 580,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
        }
        return LongVAConfig(
            vision_config=vision, text_config=text, image_token_id=3, video_token_id=4
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        shape = [self.batch_size * self.grids, 3, GRID, GRID]
        input_ids = ids_tensor([self.batch_size, self.seq_length], 90) + 5
        input_ids[:, 1 : 1 + self.grids * self.tokens_per_grid] = config.image_token_id
        return config, {
            "pixel_values": floats_tensor(shape),
            "image_grid_thw": torch.tensor([[1, 1, self.grids]] * self.batch_size),
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }


class LongVAModelTest(WithReasons, ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LongVAModel, LongVAForConditionalGeneration)
    _is_composite = True
    test_all_params_have_gradient = False  # the features are those before the tower's last layer

    @classmethod
    def setUpClass(cls):
        """The mixin asks these lists what a class is for."""
        super().setUpClass()
        lists = {
            "MODEL_MAPPING_NAMES": LongVAModel,
            "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": LongVAForConditionalGeneration,
        }
        for name, model in lists.items():
            cls.enterClassContext(
                patch.dict(getattr(modeling_auto, name), {"longva": model.__name__})
            )

    def setUp(self):
        super().setUp()
        self.model_tester = LongVATester(self)
        self.config_tester = ConfigTester(self, config_class=LongVAConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is LongVAForConditionalGeneration:
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


class LongVAImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent)

    def prepare_image_processor_dict(self):
        return {"grid_size": GRID, "grids": [[1, 1]], "image_mean": [0.5] * 3}

    def _get_image_processing_classes(self):
        return {"pil": LongVAImageProcessor}

    def expected_output_image_shape(self, images):
        return 3, GRID, GRID


class LongVAImageProcessingTest(WithReasons, ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = LongVAImageProcessingTester
    test_cast_dtype = True


class LongVAVideoProcessingTester:
    batch_size, num_frames, num_channels = 3, 8, 3

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=80,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, videos):
        return self.num_frames, 3, GRID, GRID


class LongVAVideoProcessingTest(WithReasons, VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = LongVAVideoProcessor
    test_cast_dtype = True
    video_processor_dict = {"grid_size": GRID, "num_frames": None, "image_mean": [0.5] * 3}

    def setUp(self):
        super().setUp()
        self.video_processor_tester = LongVAVideoProcessingTester()

    def assert_expected_videos_shape(self, encoded, expected, num_videos):
        self.assertEqual(tuple(encoded.shape), (num_videos * expected[0], *expected[1:]))


class LongVAProcessingTest(WithReasons, ProcessorTesterMixin, unittest.TestCase):
    processor_class = LongVAProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer()

    @classmethod
    def _setup_image_processor(cls):
        return LongVAImageProcessor(GRID)

    @classmethod
    def _setup_video_processor(cls):
        return LongVAVideoProcessor(GRID)

    @staticmethod
    def prepare_processor_dict():
        return {"patches_per_grid": 16}
