"""Every setting, its meaning, unit and range, in one place; a module for each part of the work.

What changes numbers enters fingerprints. What does not, stays out of them: `resources`, names, and how fast, how patiently and
for how much money a judge is asked.
"""
