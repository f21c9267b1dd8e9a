"""A child process for work on untrusted text: chat templates and the trial of constraints.

A hostile template or grammar may loop, eat memory, or abort the interpreter; here that costs one
BadTemplate or BadConstraint, and a new child (sandbox_child.py). It has none of our environment
or files, bounded memory, and a clock that kills it even if its parent is gone.

Parent and child speak over one socket pair: frames of 4 bytes little-endian length and a msgpack
body, one request and one reply at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from okno.core.errors import (
    BadConstraint,
    BadRequest,
    BadTemplate,
    EngineFailed,
    ErrorInfo,
    OknoError,
    from_info,
)
from okno.core.request import Constraint, Message
from okno.engines.asked_child import AskedChild

START_TIMEOUT_S = 60.0
MAX_REPLY_BYTES = 80 * 1024 * 1024
_PASSED_ON = ("TZ", "SYSTEMROOT")


class RenderJob(msgspec.Struct, tag="render"):
    """See template.render. limit_s: seconds after which the child kills itself."""

    limit_s: float
    template: str
    messages: tuple[Message, ...]
    special_tokens: dict[str, str]
    add_generation_prompt: bool
    continue_last: bool
    now_s: float


class ConstraintJob(msgspec.Struct, tag="constraint"):
    """Compile on a byte vocabulary."""

    limit_s: float
    constraint: Constraint


class Done(msgspec.Struct, tag="done"):
    """The rendered text (empty for a constraint). Also sent once, when the child is ready.
    worn_out: see Refused."""

    text: str = ""
    worn_out: bool = False


class Refused(msgspec.Struct, tag="refused"):
    """The job's own error. worn_out: the child has grown too large and ends after this."""

    error: ErrorInfo
    worn_out: bool = False


Job = RenderJob | ConstraintJob
Reply = Done | Refused

encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


# The parent's side ------------------------------------------------------------------------------


class Sandbox:
    """One reused child, started with the object and again whenever it had to be killed.

    Thread-safe: jobs run one after the other. template_timeout_s, constraint_timeout_s: wall
    seconds for one job, waiting for other jobs not included.
    """

    def __init__(self, template_timeout_s: float = 2.0, constraint_timeout_s: float = 1.0) -> None:
        self._template_timeout_s = template_timeout_s
        self._constraint_timeout_s = constraint_timeout_s
        self._lock = threading.Lock()
        # The parent-death signal fires when the *thread* that started the child ends, so one
        # thread that lives as long as this object starts them all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="okno-sandbox")
        self._child: _Child | None = self._starter.submit(_Child).result()
        self._closed = False

    def render(
        self,
        template: str,
        messages: Sequence[Message],
        *,
        special_tokens: Mapping[str, str],
        add_generation_prompt: bool = True,
        continue_last: bool = False,
        now_s: float = 0.0,
    ) -> str:
        """The prompt text, see template.render. Raises BadTemplate; BadRequest if continue_last
        is asked for and the last message is not the assistant's."""
        if continue_last and (not messages or messages[-1].role != "assistant"):
            raise BadRequest(
                "Only an assistant message can be continued; the last message has another role.",
                param="messages",
            )
        job = RenderJob(
            self._template_timeout_s, template, tuple(messages), dict(special_tokens),
            add_generation_prompt, continue_last, now_s,
        )  # fmt: skip
        return self._run(job, BadTemplate, "The model's chat template", "messages")

    def check_constraint(self, constraint: Constraint) -> None:
        """Compile it once under bounds. Raises BadConstraint."""
        job = ConstraintJob(self._constraint_timeout_s, constraint)
        self._run(job, BadConstraint, f"The {constraint.kind}", "response_format")

    @property
    def pid(self) -> int | None:
        """The child's process id; None after close."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child. Later calls raise EngineFailed."""
        with self._lock:
            self._closed = True
            self._drop()
            self._starter.shutdown()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run(self, job: Job, failure: type[OknoError], what: str, param: str) -> str:
        with self._lock:
            if self._closed:
                raise EngineFailed("The sandbox for templates and constraints is closed.")
            child = self._ready_child()
            try:
                reply = child.ask(job, job.limit_s)
            except TimeoutError:
                self._restart()
                raise failure(
                    f"{what} did not finish within {job.limit_s:g} s. Make it simpler.",
                    param=param,
                    limit_s=job.limit_s,
                ) from None
            except OSError:
                died = child.how_it_ended()
                self._restart()
                raise failure(
                    f"{what} ended its sandbox ({died}). Make it simpler.", param=param
                ) from None
            if reply.worn_out:
                self._restart()
        if isinstance(reply, Refused):
            raise from_info(reply.error)
        return reply.text

    def _ready_child(self) -> _Child:
        """A child that takes jobs. One that somebody killed while it started is replaced once;
        raises EngineFailed if the second one does not start either."""
        if self._child is not None and not self._child.is_dead():
            try:
                return self._child.when_ready()
            except EngineFailed:
                pass  # said by the next one too, if the reason is not this one child
        self._restart()
        assert self._child is not None
        return self._child.when_ready()

    def _restart(self) -> None:
        self._drop()
        self._child = self._starter.submit(_Child).result()

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """The child process, of which it is known whether it has become ready."""

    def __init__(self) -> None:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._asked = AskedChild("okno.engines.sandbox_child", passed_on, MAX_REPLY_BYTES)
        self.pid, self.is_dead = self._asked.pid, self._asked.is_dead
        self.how_it_ended, self.end = self._asked.how_it_ended, self._asked.end
        self._is_ready = False

    def when_ready(self) -> _Child:
        """Itself, once its imports are done. Raises EngineFailed if it cannot start."""
        if self._is_ready:
            return self
        try:
            self._asked.receive(START_TIMEOUT_S)
        except OSError as error:
            raise EngineFailed(
                f"The sandbox process did not start ({self.how_it_ended()}; {error}). "
                "`python -m okno.engines.sandbox_child` shows why."
            ) from None
        self._is_ready = True
        return self

    def ask(self, job: Job, limit_s: float) -> Reply:
        """Raises TimeoutError after limit_s, another OSError if the child died."""
        return _reply_decoder.decode(self._asked.ask(encode(job), limit_s))
