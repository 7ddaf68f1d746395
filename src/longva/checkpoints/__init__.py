"""Checkpoints: read, written and converted, in our format and in LLaVA's."""
