"""Attention kernels that merge blocks, and attention that tells where the answer looked."""
