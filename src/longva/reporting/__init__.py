"""What is reported: intervals and figures of measurements, progress of long work."""
