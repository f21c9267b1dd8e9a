"""Engines, the step loop, the worker process and its supervisor."""
