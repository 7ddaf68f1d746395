"""Checkpoints: read, written and converted, in our format and in LLaVA's."""

from typing import Literal

Precision = Literal["model", "int8", "int4"]
"""Of weights or of a KV cache: the model's dtype, or quantised."""

Dtype = Literal["float32", "bfloat16", "float16"]
"""Of weights and activations, by torch's names."""
