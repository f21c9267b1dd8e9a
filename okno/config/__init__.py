"""Settings: one declared tree for flags, environment and file."""
