"""Readers of measured layer profiles, one file per format."""
