"""Untrusted media: fetched from public addresses, checked, kept by content."""
