"""From a submitted request to a task: encode, check against the window, compile the constraint.

Runs in a few threads beside the loop, so that slow work delays no step. Untrusted work (templates,
grammars) happens in sandbox processes: one for templates, another for grammars, which may take up
to a second each and wait for each other in a thread of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Tokens

from llguidance import LLTokenizer

from okno.core.errors import BadConstraint, BadRequest
from okno.core.request import PRIORITY_WEIGHTS, Constraint, Request
from okno.engines.constraints import GrammarCompiler, Matcher, make_tokenizer
from okno.engines.engine import Engine
from okno.engines.prompt import PromptEncoder
from okno.engines.protocol import Submit
from okno.engines.sampling import Sampler
from okno.engines.sandbox import Sandbox
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence

REMEMBERED_REFUSALS = 64


class Preparer:
    """`task` may be called from several threads; constrained requests from one only."""

    def __init__(self, engine: Engine, prompts: PromptEncoder) -> None:
        self._engine = engine
        self._vocab = engine.vocab
        self._prompts = prompts
        self._grammars: Sandbox | None = None  # started with the first constraint
        self._refused: OrderedDict[Constraint, BadConstraint] = OrderedDict()
        self._compiler: GrammarCompiler | None = None

    def task(self, submit: Submit) -> Task:
        """The task of a request. Raises BadRequest (a field at fault), ContextExceeded,
        BadConstraint or BadTemplate."""
        request = submit.request
        request.check()
        self._check_generates()
        prompt = self._prompts.encode(request.prompt, now_s=request.created_s)
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
        if len(prompt) + len(emitted) >= ctx:
            is_chat = request.prompt.messages is not None
            raise self._prompts.exceeded(len(prompt), "messages" if is_chat else "prompt")
        room = ctx if request.stop.max_tokens is None else len(prompt) + request.stop.max_tokens
        return Sequence(
            request.id,
            prompt,
            max_tokens=min(ctx, room),
            emitted=emitted,
            client=request.client,
            salt=request.cache_salt,
            weight=PRIORITY_WEIGHTS[request.priority],
        )

    def _sampler(self, request: Request, prompt: Tokens[int]) -> Sampler:
        assert request.sampling.seed is not None, "the supervisor draws one"
        banned = self._vocab.end_tokens if request.stop.ignore_eos else ()
        return Sampler(
            request.sampling,
            seed=request.sampling.seed,
            n_vocab=self._vocab.n_tokens,
            prompt=prompt,
            banned=banned,
            piece_of=self._vocab.label,
        )

    def _matcher(self, constraint: Constraint | None) -> Matcher | None:
        if constraint is None:
            return None
        self._try(constraint)
        if self._compiler is None:
            self._compiler = GrammarCompiler(self._grammar_tokenizer())
        return self._compiler.compile(constraint)

    def _try(self, constraint: Constraint) -> None:
        """Compile it in the sandbox; what was refused once is refused again without trying."""
        known = self._refused.get(constraint)
        if known is not None:
            raise known
        if self._grammars is None:
            self._grammars = Sandbox()
        try:
            self._grammars.check_constraint(constraint)
        except BadConstraint as error:
            self._refused[constraint] = error
            if len(self._refused) > REMEMBERED_REFUSALS:
                self._refused.popitem(last=False)
            raise

    def _grammar_tokenizer(self) -> LLTokenizer:
        vocab = self._vocab
        return make_tokenizer(
            [vocab.label(token) for token in range(vocab.n_tokens)],
            vocab.special,
            sorted(vocab.end_tokens),
            lambda text: vocab.encode(text, add_special=False, parse_special=False),
        )
