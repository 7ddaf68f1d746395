"""How lmms-eval finds the model: the entry point `longva_hf` of group `lmms_eval.models`.

    lmms_eval --model longva_hf --model_args model=nano,frames=32 --tasks videomme

`longva`, which lmms-eval knows as the original implementation, is answered by ours as well.
"""

MODEL = "longva_hf"
_MODULE = "longva.evaluate.lmms_eval_model"


def manifest():
    """Return the manifest (`lmms_eval.models.registry_v2.ModelManifest`) of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL,
        chat_class_path=f"{_MODULE}.LongVAChat",
        simple_class_path=f"{_MODULE}.LongVASimple",
        aliases=("longva",),
    )
