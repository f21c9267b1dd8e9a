"""From a submitted request to a task: render, tokenize, check against the window, compile.

Runs in a few threads beside the loop, so that a slow template or grammar delays only its own
request. Untrusted work (templates, grammars) happens in the sandbox process first.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from llguidance import LLTokenizer

from okno.core.errors import BadRequest, ContextExceeded
from okno.core.request import Constraint, Message, Prompt, Request
from okno.engines.constraints import GrammarCompiler, Matcher, make_tokenizer
from okno.engines.engine import Engine
from okno.engines.protocol import Submit
from okno.engines.sampling import Sampler
from okno.engines.sandbox import Sandbox
from okno.engines.task import Task
from okno.engines.template import FALLBACK_TEMPLATE
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence


class Preparer:
    """Thread-safe: the vocabulary is only read, the sandbox has its own lock."""

    def __init__(self, engine: Engine, sandbox: Sandbox) -> None:
        self._engine = engine
        self._vocab = engine.vocab
        self._sandbox = sandbox
        self._template = engine.chat_template or FALLBACK_TEMPLATE
        vocab = engine.vocab
        self._longest_piece = max(len(vocab.label(t)) for t in range(vocab.n_tokens))
        self._compiler: GrammarCompiler | None = None

    def task(self, submit: Submit) -> Task:
        """The task of a request. Raises BadRequest (a field at fault), ContextExceeded,
        BadConstraint or BadTemplate."""
        request = submit.request
        request.check()
        self._check_generates()
        prompt = self.prompt_tokens(request.prompt, now_s=request.created_s)
        sequence = self._sequence(request, prompt, submit.emitted)
        task = Task(
            request,
            sequence,
            self._sampler(request, prompt),
            TextStream(request.stop.strings, include_stop=request.stop.include_stop),
            self._vocab,
            self._matcher(request.constraint),
        )
        task.replay(submit.emitted)
        return task

    def prompt_tokens(self, prompt: Prompt, *, now_s: float) -> list[int]:
        """The ids the model sees."""
        if prompt.tokens is not None:
            return self.checked_ids(prompt.tokens, param="prompt")
        if prompt.messages is not None:
            text = self.render(prompt.messages, continue_last=prompt.continue_last, now_s=now_s)
            self._check_length(text, "messages")
            return self.encode_chat(text)
        self._check_length(prompt.text or "", "prompt")
        return self._vocab.encode(prompt.text or "", add_special=True, parse_special=True)

    def render(self, messages: Tokens[Message], *, continue_last: bool, now_s: float) -> str:
        """The chat template's text for `messages`."""
        return self._sandbox.render(
            self._template,
            messages,
            special_tokens=self._special_texts(),
            add_generation_prompt=not continue_last,
            continue_last=continue_last,
            now_s=now_s,
        )

    def encode_chat(self, text: str) -> list[int]:
        """Templates write BOS themselves when the model wants one; those that do not get it."""
        tokens = self._vocab.encode(text, add_special=False, parse_special=True)
        bos = self._engine.facts.special_tokens.get("bos")
        if self._engine.adds_bos and tokens[:1] != [bos]:
            return self._vocab.encode(text, add_special=True, parse_special=True)
        return tokens

    def _check_length(self, text: str, param: str) -> None:
        """Refuse what cannot fit however it is tokenized, before spending time on it."""
        at_least = -(-len(text.encode()) // self._longest_piece)
        if at_least >= self._engine.window.ctx:
            raise self._exceeded(at_least, param, "at least ")

    def _exceeded(self, n_prompt_tokens: int, param: str, how_exact: str = "") -> ContextExceeded:
        ctx = self._engine.window.ctx
        return ContextExceeded(
            f"The prompt has {how_exact}{n_prompt_tokens:,} tokens and the context window is "
            f"{ctx:,}, which must hold the prompt and at least one token of the answer. Shorten "
            "the conversation, or serve with a larger --ctx.",
            param=param,
            n_prompt_tokens=n_prompt_tokens,
            n_ctx=ctx,
        )

    def _special_texts(self) -> dict[str, str]:
        ids = self._engine.facts.special_tokens
        return {
            f"{name}_token": self._vocab.label(ids[name]).decode(errors="replace")
            for name in ("bos", "eos")
            if name in ids
        }

    def checked_ids(self, tokens: Tokens[int], *, param: str) -> list[int]:
        """`tokens`, or BadRequest naming the first id the model does not have."""
        for token in tokens:
            if not 0 <= token < self._vocab.n_tokens:
                raise BadRequest(
                    f"`{param}` holds token {token}; this model has ids 0 to "
                    f"{self._vocab.n_tokens - 1}.",
                    param=param,
                )
        return list(tokens)

    def _check_generates(self) -> None:
        if self._engine.facts.is_embedding_model:
            raise BadRequest(
                f"{self._engine.facts.name} is an embedding model and generates no text. "
                "Use /v1/embeddings, or serve a generative model.",
                param="model",
            )

    def _sequence(self, request: Request, prompt: list[int], emitted: Tokens[int]) -> Sequence:
        ctx = self._engine.window.ctx
        if not prompt:
            raise BadRequest("The prompt has no tokens; send some text.", param="prompt")
        if len(prompt) >= ctx:
            is_chat = request.prompt.messages is not None
            raise self._exceeded(len(prompt), "messages" if is_chat else "prompt")
        room = ctx if request.stop.max_tokens is None else len(prompt) + request.stop.max_tokens
        return Sequence(
            request.id,
            prompt,
            max_tokens=min(ctx, room),
            emitted=emitted,
            client=request.client,
        )

    def _sampler(self, request: Request, prompt: Tokens[int]) -> Sampler:
        banned = self._vocab.end_tokens if request.stop.ignore_eos else ()
        return Sampler(
            request.sampling,
            seed=request.sampling.seed or 0,
            n_vocab=self._vocab.n_tokens,
            prompt=prompt,
            banned=banned,
            piece_of=self._vocab.label,
        )

    def _matcher(self, constraint: Constraint | None) -> Matcher | None:
        if constraint is None:
            return None
        self._sandbox.check_constraint(constraint)
        if self._compiler is None:
            self._compiler = GrammarCompiler(self._grammar_tokenizer())
        return self._compiler.compile(constraint)

    def _grammar_tokenizer(self) -> LLTokenizer:
        vocab = self._vocab
        return make_tokenizer(
            [vocab.label(token) for token in range(vocab.n_tokens)],
            vocab.special,
            sorted(vocab.end_tokens),
            lambda text: vocab.encode(text, add_special=False, parse_special=False),
        )
