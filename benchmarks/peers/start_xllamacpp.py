"""Runs in xllamacpp's Python: its server on a port, until SIGTERM.

python start_xllamacpp.py MODEL PORT BATCH_SIZE POOL_TOKENS THREADS(0: its own choice)
"""

from __future__ import annotations

import signal
import sys

import xllamacpp


def main() -> None:
    model, port, batch_size, pool, threads = sys.argv[1], *map(int, sys.argv[2:6])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = port  # it listens on 127.0.0.1 unless told otherwise
    params.n_parallel, params.n_ctx = batch_size, pool
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
