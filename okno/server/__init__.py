"""HTTP: OpenAI-compatible and native routes, security, metrics."""
