"""A small world that is drawn, described and asked about by code."""
