"""Sinks that send readings elsewhere."""
