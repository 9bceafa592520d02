"""What a retraining asks, a module for each question: standing, prompt_parts, comparison, proposal.

The order in which it asks is in `flows/retraining.py`.
"""
