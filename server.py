"""`python server.py ...` is exactly `okno serve ...`."""

from okno.cli.main import serve

if __name__ == "__main__":
    serve()
