"""One sequence over many devices: zigzag sharding, ring attention, the mesh of processes.

Importing this package makes the attention `zigzag_ring` known to transformers.
"""

from longva.parallel.mesh import ParallelMesh, parallel_mesh
from longva.parallel.registered_attention import check_ring, ring_forward
from longva.parallel.ring_attention import RingSequence, ring_attention

__all__ = [
    "ParallelMesh",
    "RingSequence",
    "check_ring",
    "parallel_mesh",
    "ring_attention",
    "ring_forward",
]
