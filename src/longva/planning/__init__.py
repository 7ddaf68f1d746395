"""Will it fit: the memory of devices, and what watching takes."""
