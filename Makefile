# `make` is the developer loop: format, lint, types, tests.
.PHONY: all fix test docs
all: fix
	uv run mypy
	uv run pytest -q

fix:
	uv run ruff check --fix -q .
	uv run ruff format -q .

test:
	uv run pytest -q

docs:  ## the generated pages
	uv run python -m okno.cli.docs
