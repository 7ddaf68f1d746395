"""A prompt as a vector of integers, one sequence in a KV cache, and the tree of many prompts."""
