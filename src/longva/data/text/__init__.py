"""Documents to packed, length up-sampled text."""
