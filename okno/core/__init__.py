"""Values everyone speaks. Imports the standard library only."""
