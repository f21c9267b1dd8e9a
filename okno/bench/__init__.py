"""Measure: shapes with random weights, overhead, load."""
