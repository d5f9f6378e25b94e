"""The API port: JSON for scripts and the built-in page, and the page itself."""
