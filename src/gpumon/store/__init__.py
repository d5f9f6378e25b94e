"""History: SQLite for the last days, Parquet for what is older. pyarrow is only ever imported in child processes."""
