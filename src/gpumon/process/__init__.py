"""Who uses the GPUs: processes, their kind of work, containers and pods, and what share of a device each has."""
