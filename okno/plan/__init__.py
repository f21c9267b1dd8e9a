"""Deciding: memory and speed of windows, and which one to pick. Pure."""
