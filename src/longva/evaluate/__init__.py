"""Benchmarks: LongVA inside lmms-eval, the judge of open answers, and the paper's tables."""
