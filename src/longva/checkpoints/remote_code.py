"""Model code that travels with a checkpoint, for people (and servers) without this package.

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)` and vLLM take the code
of a model from the checkpoint's own folder, where all files lie side by side:

    longva/model/modeling_longva.py      ->  modeling_longva.py
      from longva.model.unires import x        from .unires import x
    longva/media/medium.py               ->  medium.py
"""

import re
from collections.abc import Sequence
from pathlib import Path

import longva
from longva.files.writing import read_json, write_json

ENTRY_POINTS = {
    "AutoConfig": "configuration_longva.LongVAConfig",
    # vLLM builds its own output layer on the base model and wants that one named AutoModel, first.
    "AutoModel": "modeling_longva.LongVAModel",
    "AutoModelForImageTextToText": "modeling_longva.LongVAForConditionalGeneration",
    # Trainers that know no model of images and text ask for this one.
    "AutoModelForCausalLM": "modeling_longva.LongVAForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_longva.LongVAForConditionalGeneration",
}
PROCESSOR_ENTRY_POINTS = {
    "AutoProcessor": "processing_longva.LongVAProcessor",
    "AutoImageProcessor": "image_processing_longva.LongVAImageProcessor",
    "AutoVideoProcessor": "video_processing_longva.LongVAVideoProcessor",
}

OWN_IMPORT = re.compile(r"^( *)from longva\.((?:\w+\.)*)(\w+) import ", re.MULTILINE)
"""`from longva.model.unires import `: indent, packages between, module."""


def write_remote_code(folder: str | Path) -> list[Path]:
    """Put the model's code beside a saved checkpoint and name its classes in the configs.

    Args:
        folder: with `config.json` and `processor_config.json`, as `save_pretrained` of a model and
            of its processor leave it.

    Returns:
        The files of code, which are the model's own and whatever of this package they import.
    """
    folder = Path(folder)
    package = Path(longva.__file__).parent
    targets = (ENTRY_POINTS | PROCESSOR_ENTRY_POINTS).values()
    waiting = {f"model/{target.split('.')[0]}" for target in targets}
    written: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        code = (package / f"{module}.py").read_text(encoding="utf-8")
        imported = {
            f"{parents.replace('.', '/')}{name}" for _, parents, name in OWN_IMPORT.findall(code)
        }
        written[module] = folder / f"{Path(module).name}.py"
        written[module].write_text(OWN_IMPORT.sub(r"\1from .\3 import ", code), encoding="utf-8")
        waiting |= imported - written.keys()

    _add_auto_map(folder / "config.json", ENTRY_POINTS)
    # Each part of the processor is looked up in its own section of the file.
    parts = ["image_processor", "video_processor"]
    _add_auto_map(folder / "processor_config.json", PROCESSOR_ENTRY_POINTS, parts)
    return sorted(written.values())


def _add_auto_map(path: Path, auto_map: dict[str, str], sections: Sequence[str] = ()) -> None:
    values = read_json(path)
    for part in (values, *(values[section] for section in sections)):
        part["auto_map"] = auto_map
    write_json(path, values)
