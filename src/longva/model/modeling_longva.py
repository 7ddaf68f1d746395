"""LongVA: vision tower -> projector -> 2x2 pool -> language model, on transformers' public API.

Paper section 3.2. Grids are independent, so images and videos take one path:

    grids [G, 3, S, S] -> tower [G, N, Dv] -> projector [G, N, D] -> pool [G, T, D]

and their tokens replace the placeholder tokens of the prompt. Letters used in this file:

    G grids (a frame is a grid)   S pixels a side    N patches a grid (576)    T tokens a grid (144)
    Dv width of the tower         D width of the language model                B batch, L sequence

This file and those that it imports can travel with a checkpoint, so that people without this
package can load it; see `longva.checkpoints.remote_code`.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.utils import can_return_tuple

from longva.model.configuration_longva import LongVAConfig


def cache_argument(decoder: nn.Module) -> str:
    """Name the argument by which a decoder takes its key-value cache.

    It is `cache` where transformers 5.24 or newer wrote the decoder, before that `past_key_values`;
    a checkpoint may bring its own code, so the installed version does not tell.
    """
    named = "cache" in inspect.signature(decoder.forward).parameters
    return "cache" if named else "past_key_values"


def tower_layers(tower: Any) -> nn.ModuleList:
    """Return the layers of a vision tower."""
    return getattr(tower.encoder, "layers", None) or tower.encoder.layer  # so of DINOv2


class LongVAMultiModalProjector(nn.Module):
    """Patches of the tower -> width of the language model: linear, GELU, linear."""

    def __init__(self, config: LongVAConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """[..., Dv] -> [..., D]."""
        return self.linear_2(self.act(self.linear_1(patches)))


def pool_patches(patches: Tensor, stride: int, mode: str) -> Tensor:
    """Pool each grid by itself.

    Args:
        patches: [G, N, D], the N = side * side patches of each grid in raster order.
        stride: side of the window, in patches; divides side.
        mode: `average` or `max`.

    Returns:
        [G, N / stride^2, D], raster order inside each grid.
    """
    side = round(patches.shape[1] ** 0.5)
    pools = {"average": nn.functional.avg_pool2d, "max": nn.functional.max_pool2d}
    x = patches.transpose(1, 2).unflatten(2, (side, side))  # [G, D, side, side]
    return pools[mode](x, stride).flatten(2).transpose(1, 2)  # [G, T, D]


def anyres_raster(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Lay the patches of an image out as AnyRes does: the base grid, then the whole canvas.

    Args:
        patches: [rows * columns, N, D]; in the first row only the base grid counts.
        rows: of the canvas and that first one.
        columns: of the canvas.

    Returns:
        [(1 + (rows - 1) * columns) * N, D]; after the base, patches run along whole rows of the
        canvas, across its grids. No newline tokens.
    """
    side = round(patches.shape[1] ** 0.5)
    canvas = patches[columns:].unflatten(0, (rows - 1, columns)).unflatten(2, (side, side))
    canvas = canvas.transpose(1, 2)  # [rows, side, columns, side, D]
    return torch.cat([patches[0], canvas.flatten(0, 3)])


class LongVAPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of every LongVA model."""

    config_class = LongVAConfig
    base_model_prefix = "model"
    config: LongVAConfig
    input_modalities = ["image", "video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer", "LlamaDecoderLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _apply(self, fn, recurse=True):
        """Convert and move as `.to()`, `.half()` and all the others do, but for RoPE's frequencies.

        In bfloat16 they would be off by up to 0.4 %, which at position 223,000 is many turns.
        """
        exact = {n: b for n, b in self.named_buffers() if n.endswith("inv_freq")}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            owner, _, last = name.rpartition(".")
            module = self.get_submodule(owner)
            if getattr(module, last).dtype != buffer.dtype:
                setattr(module, last, buffer.to(getattr(module, last).device))
        return self


class LongVAModel(LongVAPreTrainedModel):
    """LongVA without the output layer."""

    def __init__(self, config: LongVAConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = LongVAMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def encode_grids(
        self, pixels: Tensor, *, pool: bool = True, towers: list | None = None, **kwargs
    ) -> Tensor:
        """Encode grids (or frames) a chunk of `config.vision_batch_size` at a time.

        Args:
            pixels: [G, 3, S, S], normalised.
            pool: as the config says; otherwise T = N, the patches as they are.
            towers: takes what the tower gave for each chunk, for those who ask for more.
            **kwargs: for the tower, such as `output_attentions`.

        Returns:
            [G, T, D] in the model's dtype. Memory beyond this tensor and `towers` does not grow
            with G, except in a compiled or exported graph, which encodes all grids at once.
        """
        if not len(pixels):  # a rank's share of few grids; attention cannot take none
            tokens = self.config.patches_per_side**2 // (self.config.pool_stride**2 if pool else 1)
            width = self.config.text_config.hidden_size
            return pixels.new_empty(0, tokens, width, dtype=self.dtype)
        size = len(pixels) if torch.compiler.is_compiling() else self.config.vision_batch_size
        if len(pixels) <= size:
            return self._encode_chunk(pixels, pool, towers, kwargs)
        features = None
        for start in range(0, len(pixels), size):
            chunk = self._encode_chunk(pixels[start : start + size], pool, towers, kwargs)
            if features is None:
                features = chunk.new_empty(len(pixels), *chunk.shape[1:])
            features[start : start + len(chunk)] = chunk
        assert features is not None
        return features

    def _encode_chunk(self, pixels: Tensor, pool: bool, towers: list | None, kwargs: dict):
        config = self.config
        # Weights that are offloaded lie nowhere; accelerate then brings the pixels to them.
        device = next(self.vision_tower.parameters()).device
        pixels = pixels.to(pixels.device if device.type == "meta" else device, self.dtype)
        inputs = self._tower_inputs(pixels)
        if towers is None and not kwargs:
            states = self._used_states(**inputs)
        else:
            kwargs = kwargs | {"output_hidden_states": True, "return_dict": True}
            outputs = self.vision_tower(**inputs, **kwargs)
            if towers is not None:
                towers.append(outputs)
            states = outputs.hidden_states[config.vision_feature_layer]
        patches = states[:, -(config.patches_per_side**2) :]  # no class token
        features = self.multi_modal_projector(patches)
        return pool_patches(features, config.pool_stride if pool else 1, config.pool_mode)

    def _used_states(self, pixel_attention_mask: Tensor | None = None, **inputs) -> Tensor:
        """Run the tower up to the layer that is used: the same states, for no layer in vain.

        No patch is masked: SigLIP 2 would be given padding, of which a grid has none.
        """
        tower = self.vision_tower
        states = tower.embeddings(**inputs)
        if hasattr(tower, "pre_layrnorm"):  # of CLIP; so spelt there
            states = tower.pre_layrnorm(states)
        layers = tower_layers(tower)
        for layer in layers[: self.config.vision_feature_layer % (len(layers) + 1)]:
            states = layer(states, None)
        return states

    def _tower_inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """Grids as the tower takes them: pixels, for SigLIP 2 the pixels of each patch."""
        if self.config.vision_config.model_type != "siglip2_vision_model":
            return {"pixel_values": pixels}
        side, patch = self.config.patches_per_side, self.config.vision_config.patch_size
        patches = pixels.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # [G, side, side, patch, patch, 3]
        return {
            "pixel_values": patches.flatten(3).flatten(1, 2),
            "pixel_attention_mask": pixels.new_ones(len(pixels), side**2, dtype=torch.long),
            "spatial_shapes": pixels.new_full((len(pixels), 2), side, dtype=torch.long),
        }

    def _image_tokens(self, pixels: Tensor, grid_thw: Tensor | None, **kwargs) -> list[Tensor]:
        is_pooled = self.config.image_packing == "unires"
        return self.pack_images(self.encode_grids(pixels, pool=is_pooled, **kwargs), grid_thw)

    def pack_images(self, features: Tensor, image_grid_thw: Tensor | None = None) -> list[Tensor]:
        """Lay the encoded grids [G, T, D] of images out as the config says, in reading order."""
        if self.config.image_packing == "unires":
            return pack_grids(features, image_grid_thw)
        if image_grid_thw is None:
            raise ValueError(
                "AnyRes images need image_grid_thw, the (1, rows, columns) of each image"
            )
        images = split_grids(features, image_grid_thw)
        shapes = [(rows, columns) for _, rows, columns in image_grid_thw.tolist()]
        return [anyres_raster(image, *shape) for image, shape in zip(images, shapes, strict=True)]

    def _video_tokens(self, pixels: Tensor, grid_thw: Tensor | None, **kwargs) -> list[Tensor]:
        return pack_grids(self.encode_grids(pixels, **kwargs), grid_thw)

    def _with_tower(self, encode, pixels: Tensor, grid_thw: Tensor | None, kwargs: dict):
        """Run `encode` and add what the tower gave, which the model itself does not keep."""
        asked = kwargs.pop("output_hidden_states", None)
        if asked is None:
            asked = getattr(self.config.vision_config, "output_hidden_states", False)
        towers: list[Any] = []
        tokens = encode(pixels, grid_thw, towers=towers, **kwargs)

        def layers(name: str) -> tuple[Tensor, ...] | None:
            chunks = [getattr(tower, name, None) for tower in towers]
            return tuple(map(torch.cat, zip(*chunks, strict=True))) if all(chunks) else None

        return BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([tower.last_hidden_state for tower in towers]),
            pooler_output=tokens,  # pyright: ignore[reportArgumentType] - one tensor an item
            hidden_states=layers("hidden_states") if asked else None,
            attentions=layers("attentions"),
        )

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of images, pooled as the config says; those of AnyRes are not pooled.

        Args:
            pixel_values: [G, 3, S, S], the grids of all images one after another.
            image_grid_thw: [images, 3] = (1, rows, columns) in grids. None: a single image. The
                first row of an AnyRes image holds its base grid, and else empty grids.
            **kwargs: `return_dict`, and for the tower `output_hidden_states`, `output_attentions`.

        Returns:
            `pooler_output`: a list with one [tokens, D] an image, and of the tower
            `last_hidden_state` [G, N or N + 1, Dv] and what was asked for.
        """
        return self._with_tower(self._image_tokens, pixel_values, image_grid_thw, kwargs)

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: Tensor, video_grid_thw: Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Visual tokens of videos: each frame is a grid.

        Args:
            pixel_values_videos: [G, 3, S, S], the frames of all videos one after another.
            video_grid_thw: [videos, 3] = (frames, 1, 1). None: a single video.
            **kwargs: as of `get_image_features`.

        Returns:
            `pooler_output`: a list with one [tokens, D] a video; the rest as of images.
        """
        return self._with_tower(self._video_tokens, pixel_values_videos, video_grid_thw, kwargs)

    def _placeholders(self, input_ids: Tensor | None, embeddings: Tensor, token_id: int) -> Tensor:
        if input_ids is not None:
            return input_ids == token_id
        token = torch.tensor(token_id, device=embeddings.device)
        return (embeddings == self.get_input_embeddings()(token)).all(-1)

    def embed(
        self,
        input_ids: Tensor | None,
        features: Mapping[str, Sequence[Tensor]],
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens and put visual tokens where their placeholders stand.

        Args:
            input_ids: [B, L], or None when `inputs_embeds` is given.
            features: `{"image": (tensor [tokens, D], ...), "video": (...)}` in order of appearance.
            inputs_embeds: [B, L, D], token embeddings computed by the caller.

        Returns:
            [B, L, D].

        Raises:
            ValueError: when placeholders and visual tokens differ in number.
        """
        table = self.get_input_embeddings()
        embeddings: Tensor = table(input_ids) if inputs_embeds is None else inputs_embeds
        for kind, tensors in features.items():
            token_id = getattr(self.config, f"{kind}_token_id")
            where = self._placeholders(input_ids, embeddings, token_id)  # [B, L]
            tokens = torch.cat([t.flatten(0, -2) for t in tensors])
            if torch.compiler.is_compiling():  # a graph cannot count the placeholders
                embeddings = embeddings.masked_scatter(where[..., None], tokens.to(embeddings))
                continue
            where = where.flatten().nonzero().squeeze(1)
            if not len(where):
                raise ValueError(
                    f"the prompt has no {kind} placeholder token, but {kind}s were given. Where a "
                    "key-value cache holds them already, give the new tokens alone; else put "
                    f"<{kind}> where each {kind} stands."
                )
            if len(where) != len(tokens):
                raise ValueError(
                    f"the prompt has {len(where)} {kind} placeholder tokens, but the {kind}s "
                    f"encode to {len(tokens)} visual tokens. Use one processor for both."
                )
            # Not masked_scatter: its boolean [L, D] mask and prefix sum take 12 GB at 3,000 frames.
            flat = embeddings.flatten(0, 1)
            flat = flat.index_copy(0, where.to(flat.device), tokens.to(flat.device, flat.dtype))
            embeddings = flat.view_as(embeddings)
        return embeddings

    def encode_media(
        self,
        *,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
    ) -> dict[str, list[Tensor]]:
        """Collect visual tokens by kind, encoding what the caller has not encoded before."""
        given = (mm_encoder_outputs or {}).items()
        tokens = {kind: list(out.pooler_output) for kind, out in given if out is not None}
        if pixel_values is not None and "image" not in tokens:
            tokens["image"] = self._image_tokens(pixel_values, image_grid_thw)
        if pixel_values_videos is not None and "video" not in tokens:
            tokens["video"] = self._video_tokens(pixel_values_videos, video_grid_thw)
        return tokens

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Run the model; see `get_image_features` and `get_video_features` for the visual inputs.

        `mm_encoder_outputs` takes their results, `{"image": ..., "video": ...}`, so that media are
        encoded once and used many times. Further keyword arguments go to the language model: its
        cache (`cache`, or `past_key_values` before transformers 5.24), and what its attention
        functions take.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        features = self.encode_media(
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            mm_encoder_outputs=mm_encoder_outputs,
        )
        return self.language_model(
            inputs_embeds=self.embed(input_ids, features, inputs_embeds),
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **kwargs,
        )


class LongVAForConditionalGeneration(LongVAPreTrainedModel, GenerationMixin):
    """LongVA with its output layer: the class that answers."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LongVAConfig):
        super().__init__(config)
        text = config.text_config
        self.model = LongVAModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See `LongVAModel.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    def get_video_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See `LongVAModel.get_video_features`."""
        return self.model.get_video_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict | None = None,
        **kwargs,
    ):
        """Run the model and, for `labels` [B, L] (-100 where there is no target), its loss.

        `logits_to_keep` is the number of last positions, or the positions, that get logits; 0 means
        all. Logits of all positions of a long video do not fit: 3,000 frames would take 263 GB.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **others)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config=None,
        *,
        prefill_chunk_size: int | None = None,
        **kwargs,
    ):
        """Generate as `GenerationMixin.generate` does, with a chunked prefill that is right.

        transformers before 5.23 loses visual tokens when it cuts a multimodal prompt in chunks, so
        with `prefill_chunk_size` (tokens; here or in a generation config) the prompt is read here,
        media encoded once, and only the last token is left to the ordinary generation loop.
        """
        kwargs["generation_config"] = generation_config
        configs = generation_config, self.generation_config

        def setting(name: str):
            given = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
            return next((value for value in given if value is not None), None)

        if prefill_chunk_size is None:
            prefill_chunk_size = setting("prefill_chunk_size")
        media = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
        given = {name: kwargs.pop(name, None) for name in (*media, "mm_encoder_outputs")}
        features = self.model.encode_media(**given)
        if prefill_chunk_size is None:
            # Encoded here, without what the tower gave, which would be kept to the last token.
            if features:
                kwargs["mm_encoder_outputs"] = {
                    kind: BaseModelOutputWithPooling(pooler_output=tokens)  # pyright: ignore
                    for kind, tokens in features.items()
                }
            return super().generate(inputs, **kwargs)
        kwargs["prefill_chunk_size"] = None  # else the configs' would be obeyed a second time
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            raise ValueError("generate(prefill_chunk_size=...) needs input_ids")
        if (setting("num_beams") or 1) > 1 or (setting("num_return_sequences") or 1) > 1:
            raise ValueError(
                "generate(prefill_chunk_size=...) keeps one sequence a prompt: no beams"
            )
        caches = kwargs.pop("cache", None), kwargs.pop("past_key_values", None)
        cache = next((one for one in caches if one is not None), None)
        if cache is None:
            cache = DynamicCache(config=self.config.text_config)
        cached = {cache_argument(self.model.language_model): cache}
        mask = kwargs.setdefault("attention_mask", torch.ones_like(input_ids))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        embeddings = self.model.embed(input_ids, features)
        for start in range(cache.get_seq_length(), input_ids.shape[1] - 1, prefill_chunk_size):
            stop = min(start + prefill_chunk_size, input_ids.shape[1] - 1)
            self.model.language_model(
                inputs_embeds=embeddings[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                use_cache=True,
                **cached,
            )
        return super().generate(input_ids, **cached, **kwargs)


def pack_grids(features: Tensor, grid_thw: Tensor | None) -> list[Tensor]:
    """Join the encoded grids [G, T, D] of each item of `grid_thw`; None: of a single item."""
    if torch.compiler.is_compiling():  # how many grids each has is data: all as one
        return [features.flatten(0, 1)]
    return [item.flatten(0, 1) for item in split_grids(features, grid_thw)]


def split_grids(grids: Tensor, grid_thw: Tensor | None) -> tuple[Tensor, ...]:
    """Split what has a row a grid, [G, ...], into the items of `grid_thw`; None: a single item."""
    counts = [len(grids)] if grid_thw is None else grid_thw.prod(-1).tolist()
    if sum(counts) != len(grids):
        raise ValueError(
            f"grid_thw announces {sum(counts)} grids, but {len(grids)} were given. Was the "
            "image processor set to another packing than the model's image_packing?"
        )
    return grids.split(counts)


__all__ = ["LongVAForConditionalGeneration", "LongVAModel", "LongVAPreTrainedModel"]
