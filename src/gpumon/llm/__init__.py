"""Model servers: finding them, reading them without touching them, and what single requests and tokens cost."""
