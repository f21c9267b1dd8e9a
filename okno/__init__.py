"""okno: the local LLM server that knows its window.

Importing this package is instant on purpose: every room is imported by the code that uses it.
"""

__version__ = "0.1.0"
