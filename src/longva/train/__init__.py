"""Training: extension of the context, alignment in two stages, preference optimisation.

One loop serves all stages; a stage is a dataset, a loss and a recipe.
"""
