"""The error tree. Every error says what was asked, what is possible and what to change.

A message is a full sentence for a person. `code` is stable, for programs; `details` carries the
numbers of the message (field names with units). `param` names the request field at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

Detail = int | float | str


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error as a plain value: crosses the process boundary and becomes the HTTP body."""

    code: str
    message: str
    param: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)


class OknoError(Exception):
    """Base of every error a user can meet. Subclasses fix `code` and the HTTP `status`."""

    code: ClassVar[str] = "okno_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None, **details: Detail) -> None:
        super().__init__(message)
        self.info = ErrorInfo(self.code, message, param, details)

    @property
    def message(self) -> str:
        return self.info.message


class BadRequest(OknoError):
    """A field that cannot be honoured; `param` names it."""

    code = "invalid_request_error"
    status = 400


class ContextExceeded(BadRequest):
    """The prompt leaves no room in the window. Details: n_prompt_tokens, n_ctx."""

    code = "exceed_context_size_error"


class BadConstraint(BadRequest):
    """A schema, regex or grammar that cannot be honoured; never silently dropped."""

    code = "invalid_constraint"


class BadTemplate(BadRequest):
    """The chat template refused the messages, failed, or exceeded its time or memory bound."""

    code = "chat_template_error"


class QueueFull(OknoError):
    """The waiting line is at its limit. Details: queue_limit, retry_after_s."""

    code = "queue_full"
    status = 503


class NotReady(OknoError):
    """The model is loading, restarting or draining. Details: retry_after_s."""

    code = "model_not_ready"
    status = 503


class EngineFailed(OknoError):
    """The engine died on this request more often than it is retried, or is quarantined."""

    code = "engine_failed"
    status = 503


class ModelNotFound(OknoError):
    """No model of that name; the message lists the nearest ones."""

    code = "model_not_found"
    status = 404


class ModelUnusable(OknoError):
    """The file exists but cannot be loaded as a model."""

    code = "model_unusable"
    status = 422


class AccessDenied(OknoError):
    """A model that its publisher shows only to those who may: private, or gated by a licence."""

    code = "access_denied"
    status = 403


class SourceUnreachable(OknoError):
    """The place a model would come from does not answer, or not as it should."""

    code = "source_unreachable"
    status = 502


class DiskFull(OknoError):
    """A download or a conversion needs more room than the disk has. Details: needed_bytes,
    free_bytes."""

    code = "disk_full"
    status = 507


class DoesNotFit(OknoError):
    """The asked window does not fit into memory. Details: needed_bytes, free_bytes."""

    code = "does_not_fit"
    status = 422


class WindowInUse(OknoError):
    """Requests under way need more room than the asked window has. Details: ctx, n_requests,
    largest_tokens."""

    code = "window_in_use"
    status = 409


class BadSetting(OknoError):
    """A setting (flag, environment, file) that is unknown or out of range."""

    code = "invalid_setting"
    status = 422


class StoreUnusable(OknoError):
    """okno's database cannot be read or written: damaged, busy, of a newer version. Details:
    path."""

    code = "store_unusable"


BY_CODE: Mapping[str, type[OknoError]] = {
    cls.code: cls
    for cls in (
        BadRequest, ContextExceeded, BadConstraint, BadTemplate, QueueFull, NotReady,
        EngineFailed, ModelNotFound, ModelUnusable, AccessDenied, SourceUnreachable, DiskFull,
        DoesNotFit, WindowInUse, BadSetting, OknoError,
    )
}  # fmt: skip


def from_info(info: ErrorInfo) -> OknoError:
    """The exception of `info.code` (an unknown code gives OknoError itself)."""
    cls = BY_CODE.get(info.code, OknoError)
    return cls(info.message, param=info.param, **info.details)
