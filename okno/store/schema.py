"""The tables. A migration, once released, is never changed: the next one is added below it.

The file's `user_version` counts those that were applied. Times are seconds since 1970 UTC;
documents are JSON.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # What `okno calibrate` measured.
        """CREATE TABLE calibrations (
            machine TEXT NOT NULL,
            engine TEXT NOT NULL,
            threads INTEGER NOT NULL CHECK (threads > 0),
            made_s REAL NOT NULL,
            document TEXT NOT NULL CHECK (json_valid(document)),
            PRIMARY KEY (machine, engine, threads)
        ) STRICT, WITHOUT ROWID""",
        # Small facts learnt once per machine, such as bytes of the empty worker process.
        """CREATE TABLE overheads (
            machine TEXT NOT NULL,
            engine TEXT NOT NULL,
            name TEXT NOT NULL,
            value REAL NOT NULL,
            learnt_s REAL NOT NULL,
            PRIMARY KEY (machine, engine, name)
        ) STRICT, WITHOUT ROWID""",
        # Windows that were really run: one row for each figure, the latest run of each load.
        """CREATE TABLE measurements (
            machine TEXT NOT NULL,
            engine TEXT NOT NULL,
            model TEXT NOT NULL,
            load TEXT NOT NULL CHECK (json_valid(load)),
            figure TEXT NOT NULL,
            value REAL NOT NULL,
            low REAL NOT NULL,
            high REAL NOT NULL,
            made_s REAL NOT NULL,
            CHECK (low <= value AND value <= high),
            PRIMARY KEY (machine, engine, model, load, figure)
        ) STRICT, WITHOUT ROWID""",
        # What a window buys in quality: independent of the machine.
        """CREATE TABLE depth_curves (
            model TEXT NOT NULL,
            text TEXT NOT NULL,
            made_s REAL NOT NULL,
            document TEXT NOT NULL CHECK (json_valid(document)),
            PRIMARY KEY (model, text)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # What serving a model has taught about its step times.
        """CREATE TABLE refinements (
            machine TEXT NOT NULL,
            engine TEXT NOT NULL,
            model TEXT NOT NULL,
            made_s REAL NOT NULL,
            document TEXT NOT NULL CHECK (json_valid(document)),
            PRIMARY KEY (machine, engine, model)
        ) STRICT, WITHOUT ROWID""",
    ),
)
