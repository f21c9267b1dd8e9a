"""Runs in OpenVINO GenAI's Python: its continuous batching behind the thinnest HTTP there is.

    python start_openvino.py MODEL PORT BATCH_SIZE POOL_TOKENS THREADS(0: its own choice)

POST /v1/completions with `prompt`, `max_tokens`, `stream`; GET /health and /v1/models. One thread
steps the pipeline; each connection's thread waits for its own tokens.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openvino_genai

BLOCK_TOKENS = 32  # of its KV cache on the CPU
END = None


class Pipeline:
    """The pipeline and the one thread that may touch it."""

    def __init__(self, model, batch_size, pool, threads):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = pool // BLOCK_TOKENS
        scheduler.max_num_seqs = batch_size
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        more = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self.pipe = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", more)
        self.tokenizer = self.pipe.get_tokenizer()
        self.asked = queue.SimpleQueue()
        self.live = {}
        self.numbers = itertools.count()
        threading.Thread(target=self.run, daemon=True).start()

    def ask(self, prompt, max_tokens, ignore_eos):
        """A queue of lists of token ids; END closes it."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = max_tokens, ignore_eos
        config.do_sample = False
        tokens = queue.SimpleQueue()
        self.asked.put((self.tokenizer.encode(prompt).input_ids, config, tokens))
        return tokens

    def run(self):
        while True:
            self.admit()
            self.pipe.step()
            for number, (handle, tokens) in list(self.live.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        tokens.put(list(output.generated_ids))
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    tokens.put(END)
                    del self.live[number]

    def admit(self):
        """All that was asked meanwhile; waits when there is nothing to step."""
        while not self.live or not self.asked.empty():
            prompt, config, tokens = self.asked.get()
            number = next(self.numbers)
            self.live[number] = (self.pipe.add_request(number, prompt, config), tokens)


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    pipeline = None

    def do_GET(self):
        self.reply({"data": [{"id": "openvino"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt_tokens = self.pipeline.tokenizer.encode(body["prompt"]).input_ids.shape[1]
        tokens = self.pipeline.ask(
            body["prompt"], body["max_tokens"], body.get("ignore_eos", False)
        )
        pieces = iter(tokens.get, END)
        if body.get("stream"):
            self.stream(pieces, prompt_tokens)
            return
        made = [token for piece in pieces for token in piece]
        choice = {"text": self.pipeline.tokenizer.decode(made), "finish_reason": "length"}
        self.reply({"choices": [choice], "usage": usage(prompt_tokens, len(made))})

    def stream(self, pieces, prompt_tokens):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = 0
        for piece in pieces:
            count += len(piece)
            text = self.pipeline.tokenizer.decode(piece) or "\u200b"
            self.event({"choices": [{"text": text, "finish_reason": None}]})
        self.event({"choices": [{"text": "", "finish_reason": "length"}],
                    "usage": usage(prompt_tokens, count)})  # fmt: skip
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, value):
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    request_queue_size = 128  # the default of 5 makes a burst of clients wait a second
    daemon_threads = True


def usage(prompt_tokens, completion_tokens):
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}


def main():
    model, port, batch_size, pool, threads = sys.argv[1], *map(int, sys.argv[2:6])
    Handler.pipeline = Pipeline(model, batch_size, pool, threads)
    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
