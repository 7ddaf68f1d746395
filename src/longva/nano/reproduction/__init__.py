"""The paper's figures 4 and 7 from nothing: budget, stages, measures, report, what ships."""
