"""Tests: names are claims."""
