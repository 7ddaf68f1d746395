"""Media of strangers: fetched from public addresses, checked, kept by content."""
