"""The child of tokenise.py: `python -m okno.engines.tokenise_child MODEL` with a JSON list of texts
as standard input; a JSON reply as standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp.llama_cpp as lib
import msgspec

from okno.core.errors import ModelUnusable, OknoError
from okno.engines.llama_model import start_backend
from okno.engines.llama_vocab import LlamaVocabulary, vocabulary_of_model
from okno.engines.tokenise import Reply, Tokenised


def main() -> None:
    """Answer once."""
    texts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    try:
        vocab = _vocabulary(Path(sys.argv[1]))
        reply = Reply([_tokenised(vocab, text) for text in texts])
    except OknoError as error:
        reply = Reply(error=error.info)
    sys.stdout.buffer.write(msgspec.json.encode(reply))


def _vocabulary(path: Path) -> LlamaVocabulary:
    start_backend()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelUnusable(
            f"{path.name} cannot be loaded: its header or vocabulary is damaged or of a newer "
            "format. Get it again, or try another quantisation."
        )
    vocab = vocabulary_of_model(model, path)
    if not vocab.n_tokens or lib.llama_vocab_type(lib.llama_model_get_vocab(model)) == 0:
        raise ModelUnusable(f"{path.name} has no vocabulary, so texts cannot be tokenised by it.")
    return vocab


def _tokenised(vocab: LlamaVocabulary, text: str) -> Tokenised:
    found = vocab.encode(text, add_special=False, parse_special=False)
    pieces = [vocab.label(token) for token in found]
    lengths = [len(piece) for piece in pieces]
    joined, data = b"".join(pieces), text.encode()
    if joined == b" " + data:  # SentencePiece puts a space before the first word
        lengths[0] -= 1
        return Tokenised(len(found), lengths)
    return Tokenised(len(found), lengths if joined == data else None)


if __name__ == "__main__":
    main()
