"""Facts about hardware and models."""
