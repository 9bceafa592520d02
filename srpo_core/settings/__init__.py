"""Every setting, its meaning, unit and range, in one place; a module for each part of the work.

Two groups: settings that change numbers (they enter fingerprints) and `resources`, which only say how the work is spread.
"""
