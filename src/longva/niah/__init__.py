"""Needle in a haystack: how far does a model see, in text and in video, and does it know where?

    cells -> probes -> a model's rows -> cells.jsonl -> summary.json, heatmap.png

`cells` is the grid and `log` its crash-safe file. `text` and `visual` (with `haystack` and
`needles`) write what is asked in each cell, a model that `open_model` loads answers (`model` has
the kinds), and `measure` keeps the rows. `scoring` and `heatmap` say what they mean.
`evaluate/perplexity.py` measures the same models by length without a needle.
"""
