"""Tests of the mixins that do not fit LongVA, by the reason why."""

REASONS: dict[str, tuple[str, ...]] = {
    "the tower takes RGB: do_convert_rgb=False is refused": (
        "LongVAImageProcessingTest.test_call_numpy_4_channels",
        "LongVAImageProcessingTest.test_image_processor_from_dict_with_kwargs_has_attributes",
    ),
    "frames of all videos stand one after another, without an axis of videos": (
        "LongVAVideoProcessingTest.test_call_numpy_4_channels",
        "LongVAVideoProcessingTest.test_call_sample_frames",
    ),
    "a grid has the size of the tower: another size is refused": (
        "LongVAVideoProcessingTest.test_video_processor_from_dict_with_kwargs",
    ),
    "transformers' AutoVideoProcessor needs torchvision; AutoProcessor loads ours without it": (
        "LongVAVideoProcessingTest.test_video_processor_save_load_with_autovideoprocessor",
    ),
    "of models inside transformers, which must have a processor for torchvision": (
        "LongVAImageProcessingTest.test_new_models_require_torchvision_backend",
    ),
    "pictures in a list are sampled as the frames of a file, not refused": (
        "LongVAProcessingTest.test_apply_chat_template_video_frame_sampling",
    ),
}
