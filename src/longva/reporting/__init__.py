"""What measurements and long work share when they report: intervals, figures, progress bars."""
