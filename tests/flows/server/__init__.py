"""Tests of flows/server."""
