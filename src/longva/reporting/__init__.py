"""What measurements share when they report: intervals, and figures."""
