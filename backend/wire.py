"""What all routes share: the service in effect, JSON bodies, the one shape of errors, the security headers.

Knows no route. An error answers `{"error": {"status", "name", "message"}}`; the message of an unexpected one
stays in the log, where it holds the place but nothing of what the request brought.
"""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from flask import Flask, abort, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from backend import errors
from backend.service import Service

logger = logging.getLogger(__name__)

_STATUS_OF = (
    (errors.NotFoundInStoreError, 404),
    (errors.ConflictError, 409),
    (errors.RegistryError, 409),
    (errors.LabelStudioError, 502),
    (errors.BackendError, 400),
)


def install(app: Flask) -> None:
    """Give the application its error answers and headers."""
    app.register_error_handler(HTTPException, _show_http_error)
    app.register_error_handler(errors.BackendError, _show_backend_error)
    app.register_error_handler(Exception, _show_bug)
    app.after_request(_secure)


def current_service() -> Service:
    """The service that this application was made for."""
    service: Service = current_app.extensions["rlhf_service"]
    return service


def json_body() -> dict[str, Any]:
    """The request's JSON object, `{}` if there is no body; 400 for anything else, however deep."""
    try:
        body = json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError):
        abort(400, "the body cannot be read; needed is a JSON object")
    if not isinstance(body, dict):
        abort(400, "the body is no JSON object")
    return body


def _show_http_error(error: HTTPException) -> Response:
    response = _error(error.code or 500, error.name, error.description or "")
    for header, value in error.get_headers():
        if header in ("Allow", "Retry-After"):
            response.headers[header] = value
    if error.code == 401 and "Sec-Fetch-Mode" not in request.headers:
        # from a page's own request it would make the browser ask for a password
        response.headers["WWW-Authenticate"] = 'Basic realm="label-studio-rlhf", charset="UTF-8"'
    return response


def _show_backend_error(error: errors.BackendError) -> Response:
    status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
    return _error(status, type(error).__name__, str(error))


def _show_bug(error: Exception) -> Response:
    number = secrets.token_hex(4)
    logger.error("bug %s in `%s`: %s", number, request.endpoint, _place(error))
    return _error(500, "Internal Server Error", f"this is a bug; the backend's log has more under `{number}`")


def _error(status: int, name: str, message: str) -> Response:
    response = jsonify(error={"status": status, "name": name, "message": message})
    response.status_code = status
    return response


def _place(error: Exception) -> str:
    """Type and innermost places; not the message, which may quote what the request brought."""
    trace, places = error.__traceback__, []
    while trace:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-4:])}"


def _secure(response: Response) -> Response:
    style = f"'nonce-{g.nonce}'" if "nonce" in g else "'self'"
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'; style-src {style}; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    # tells other sites nothing; with `no-referrer` a browser would call the Origin of our own forms `null`
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
