"""A small LLaVA-format LongVA checkpoint and its inputs, the same on every machine.

All numbers come from SHAKE-256 of a name, so nothing but names is stored: the expected logits in
`data/parity.json` were computed by the original code on exactly these weights and pixels.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

PARITY = Path(__file__).with_name("data") / "parity.json"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("u s", "e r", "us er", "i n", "a t", "Ġ a", "Ġ t", "Ġt h", "Ċ W", "t Ċ")


@cache
def parity() -> dict:
    """What the original code gave; see `about` in the file."""
    return json.loads(PARITY.read_text(encoding="utf-8"))


def random_uint16(name: str, count: int) -> np.ndarray:
    """Uniform 16-bit numbers that depend on nothing but `name`."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * count), "<u2")


def tensor_values(name: str, shape: list[int]) -> torch.Tensor:
    """Float32 values of a weight: norms near 1, small biases, matrices that keep the scale."""
    u = random_uint16(name, int(np.prod(shape))).astype(np.float32) / 32767.5 - 1  # std 0.58
    if "norm" in name and name.endswith("weight"):
        u = 1 + 0.2 * u
    elif len(shape) < 2:
        u = 0.2 * u
    elif "embed" in name and "patch" not in name:
        u = 0.8 * u
    elif name == "lm_head.weight":
        u = 0.4 * u
    else:
        u = 2.5 * u / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(u.reshape(shape).astype(np.float32))


def write_tokenizer(folder: Path) -> None:
    """A byte-level Qwen2 tokenizer as transformers 4 saved it: no tokenizer.json."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = alphabet + [merge.replace(" ", "") for merge in MERGES]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    merges = "\n".join(("#version: 0.2", *MERGES, ""))
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "added_tokens_decoder": {
            str(len(tokens) + i): {"content": token, **flags, "special": True}
            for i, token in enumerate(SPECIALS)
        },
        "additional_special_tokens": list(SPECIALS[1:]),
        "bos_token": None,
        "chat_template": "{{ 'another template' }}",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_vision_tower(folder: Path) -> Path:
    """The folder that `mm_vision_tower` names: an architecture, no weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(parity()["vision_config"]))
    return folder


def write_llava_checkpoint(
    folder: Path, *, shards: int = 1, bin_files: bool = False, **config
) -> Path:
    """Write the checkpoint, and its vision tower's folder beside it.

    Args:
        folder: to create.
        shards: number of weight files.
        bin_files: `pytorch_model*.bin` instead of safetensors.
        **config: other values in config.json.
    """
    folder.mkdir(parents=True)
    tower = write_vision_tower(folder.with_name(folder.name + "-tower"))
    values = parity()["config"] | {"mm_vision_tower": str(tower)} | config
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    generation = {"do_sample": False, "eos_token_id": values["eos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder)
    tensors = {name: tensor_values(name, shape) for name, shape in parity()["tensors"].items()}
    stem, suffix = ("pytorch_model", "bin") if bin_files else ("model", "safetensors")
    names, weight_map = sorted(tensors), {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        file = (
            f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
            if shards > 1
            else f"{stem}.{suffix}"
        )
        weight_map |= dict.fromkeys(part, file)
        if bin_files:
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def picture(name: str, width: int, height: int) -> Image.Image:
    """Coloured blocks of about 1/12 of the picture, with fine noise on top."""
    coarse = random_uint16(f"{name} blocks", 12 * 12 * 3).reshape(12, 12, 3) % 200
    rows, columns = np.arange(height) * 12 // height, np.arange(width) * 12 // width
    noise = random_uint16(f"{name} noise", height * width * 3).reshape(height, width, 3) % 56
    return Image.fromarray((coarse[rows][:, columns] + noise).astype(np.uint8))


def frames(name: str, count: int, width: int, height: int) -> np.ndarray:
    """A clip of unrelated pictures, uint8 [count, height, width, 3]."""
    return np.stack([np.asarray(picture(f"{name} {i}", width, height)) for i in range(count)])


def write_lossless_video(path: Path, clip: np.ndarray, fps: int = 8) -> Path:
    """Write a clip whose decoded frames equal `clip` with every version of FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def image_sizes(count: int = 12_000) -> list[tuple[int, int]]:
    """(width, height) of random images, a third of them square."""
    numbers = random_uint16("image sizes", 3 * count).reshape(count, 3).astype(int)
    return [
        (20 + w % 4000, 20 + (w if kind % 3 == 0 else h) % 4000) for w, h, kind in numbers.tolist()
    ]


def message(kind: str, medium, text: str = "What is this?") -> list[dict]:
    """A chat of one question about one medium."""
    return [
        {"role": "user", "content": [{"type": kind, kind: medium}, {"type": "text", "text": text}]}
    ]


def model_inputs(processor, messages, **kwargs):
    """What the model takes for a chat, or for a batch of them."""
    return processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=kwargs,
    )


def answer(model, inputs, new_tokens: int = 8) -> torch.Tensor:
    """Greedy answer tokens [B, new_tokens]."""
    tokens = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return tokens[:, inputs["input_ids"].shape[1] :]
