"""Tests, one file per module of the same name."""
