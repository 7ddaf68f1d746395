"""How close the same number is when it is computed twice, in float64 and in another order.

Sums that are added up in another order (chunks, a cache, threads, wider SIMD) differ by about 1e-15
of their size. Two steps of transformers' models are float32 even in a float64 model: RMSNorm, and
the softmax of eager attention. They round both results alike, except where the two lie on either
side of a boundary; then one value moves by 2**-24 = 6e-8 of its size, and what the small models
here make of it by less than ten times that.
"""

SAME = 1e-6
"""Absolute, for logits, log-probabilities and features of size 1 to 20 of a float64 model."""
