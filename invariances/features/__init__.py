"""Moments and representations on disk: filled once, streamed."""
