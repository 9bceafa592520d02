"""Measurements: ratios within one run, never timed tests; and the study behind the README's claim."""
