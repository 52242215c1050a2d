"""Errors in the shape that OpenAI's clients expect."""

from __future__ import annotations

import json
from typing import Any

KINDS = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Refuses a request. status: of HTTP; param: the field that is wrong; code: a word for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> bytes:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def invalid(message: str, param: str | None = None) -> ApiError:
    """400: a field that cannot be used."""
    return ApiError(400, message, param=param, code="invalid_value")


def too_long(tokens: int | str, context: int) -> ApiError:
    """400: the prompt leaves no room in the model's context."""
    said = (
        f"This model's maximum context length is {context} tokens, and the prompt has {tokens}: no room for an answer"
    )
    return ApiError(400, said, param="messages", code="context_length_exceeded")
