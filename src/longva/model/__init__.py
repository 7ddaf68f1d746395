"""The model and its processors, in transformers' native form.

Importing this package registers LongVA with the Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from longva.model.configuration_longva import LongVAConfig
from longva.model.image_processing_longva import LongVAImageProcessor
from longva.model.modeling_longva import LongVAForConditionalGeneration, LongVAModel
from longva.model.processing_longva import LongVAProcessor
from longva.model.video_processing_longva import LongVAVideoProcessor

AutoConfig.register("longva", LongVAConfig, exist_ok=True)
AutoModel.register(LongVAConfig, LongVAModel, exist_ok=True)
AutoModelForImageTextToText.register(LongVAConfig, LongVAForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(LongVAConfig, LongVAForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(LongVAConfig, LongVAForConditionalGeneration, exist_ok=True)
AutoImageProcessor.register(
    LongVAConfig, slow_image_processor_class=LongVAImageProcessor, exist_ok=True
)
AutoVideoProcessor.register(LongVAConfig, LongVAVideoProcessor, exist_ok=True)
AutoProcessor.register(LongVAConfig, LongVAProcessor, exist_ok=True)

__all__ = [
    "LongVAConfig",
    "LongVAForConditionalGeneration",
    "LongVAImageProcessor",
    "LongVAModel",
    "LongVAProcessor",
    "LongVAVideoProcessor",
]
