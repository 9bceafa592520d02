"""Judges: what a game is, how each kind of judge is asked, and how its words become a verdict."""
