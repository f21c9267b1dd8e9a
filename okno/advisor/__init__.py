"""Plans and recommendations for what was asked: header, hardware, store and the engine's dry run
brought together. The command line and HTTP call the same functions here."""
