"""Writes Grafana's dashboards from the catalogue: `python -m generate` in the folder above, or `make dashboards`."""
