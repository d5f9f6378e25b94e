"""Prometheus alert and recording rules, as rows over the catalogue, and the program that writes them as files."""
