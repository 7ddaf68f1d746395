"""Needle in a haystack: how far does a model see, in text and in video, and does it know where?

    cells -> prompts -> a model's answers -> cells.jsonl -> summary.json, heatmap.png

`cells` is the grid and `log` its crash-safe file; `text` and `visual` (with `frames` and `needles`)
make the prompts; `models` answers them; `scoring` and `heatmap` say what the answers mean.
`perplexity` measures the same models by length without a needle.
"""
