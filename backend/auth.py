"""Who may call the backend: nobody without credentials, on any route but `/health`.

Label Studio and scripts send HTTP basic credentials; people log in once and carry a signed session cookie,
and each of their requests that changes something carries the session's CSRF token. Webhooks have a secret of
their own (`backend.hooks`). Knows nothing of what the routes do.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from datetime import timedelta
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Flask,
    abort,
    current_app,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
)
from werkzeug.wrappers import Response

from backend.errors import SettingsError
from backend.rate_limit import RateLimit
from backend.settings import Settings, variable

OPEN_ENDPOINTS = frozenset({"protocol.health"})
"""Answer to everyone."""
OWN_CHECK_ENDPOINTS = frozenset({"hooks.receive", "login.log_in"})
"""Check a secret of their own when posted to."""
SESSION_HOURS = 12
_SECRETS = ("password", "webhook_secret", "session_secret")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

login_pages = Blueprint("login", __name__, template_folder="console/templates")


class Guard:
    """Stands before every route of one application."""

    def __init__(self, settings: Settings) -> None:
        """Raises: SettingsError: a secret is empty."""
        if missing := [variable(name) for name in _SECRETS if not getattr(settings, name)]:
            faults = [f"`{name}` is empty; needed is a secret (`openssl rand -hex 24`)" for name in missing]
            raise SettingsError(faults)
        self.settings = settings
        self.failed_logins = RateLimit(most=10, window_s=300)
        self.failed_basic = RateLimit(most=300, window_s=60)

    def protect(self, app: Flask) -> None:
        """Deny by default from here on."""
        secret, password = self.settings.session_secret.encode(), self.settings.password.encode()
        app.secret_key = hmac.digest(secret, password, hashlib.sha256)  # a new password ends the old sessions
        app.config.update(
            SESSION_COOKIE_NAME="rlhf_session",
            SESSION_COOKIE_HTTPONLY=True,
            SESSION_COOKIE_SAMESITE="Strict",
            SESSION_COOKIE_SECURE=self.settings.backend_url.startswith("https://"),
            PERMANENT_SESSION_LIFETIME=timedelta(hours=SESSION_HOURS),
            SESSION_REFRESH_EACH_REQUEST=False,
        )
        app.extensions["rlhf_guard"] = self
        app.before_request(self.check)
        app.register_blueprint(login_pages)

    def check(self) -> Response | None:
        """Before each request: the Host, then who it is, then whether it may change something."""
        if _host_name(request.host) not in self.settings.hosts:
            abort(400, "the Host header names no host of this backend; add the host to `ALLOWED_HOSTS`")
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        if request.endpoint in OWN_CHECK_ENDPOINTS and request.method == "POST":
            return None
        by_session = self._has_session()
        if not by_session and not self._has_basic_credentials():
            return unauthorised()
        if request.method not in _SAFE_METHODS:
            check_origin()
            if by_session:
                check_csrf()
        return None

    def log_in(self, username: str, password: str) -> bool:
        """429 after ten wrong passwords in five minutes from one address."""
        _limit(self.failed_logins)
        if self._are_valid(username, password):
            return True
        if password:
            self.failed_logins.add(request.remote_addr)
        return False

    def _has_session(self) -> bool:
        return "user" in session and same(str(session["user"]), self.settings.username)

    def _has_basic_credentials(self) -> bool:
        try:
            given = request.authorization
        except ValueError:  # werkzeug on a header with characters outside ASCII
            return False
        if given is None or given.type != "basic":
            return False
        _limit(self.failed_basic)
        if self._are_valid(given.username or "", given.password or ""):
            return True
        self.failed_basic.add(request.remote_addr)
        return False

    def _are_valid(self, username: str, password: str) -> bool:
        # `&`, not `and`: both are compared, always
        return same(username, self.settings.username) & same(password, self.settings.password)


@login_pages.post("/login")
def log_in() -> Response:
    """The form's credentials open a session."""
    guard = _guard()
    if not guard.log_in(request.form.get("username", ""), request.form.get("password", "")):
        return _login_form(failed=True)
    check_origin()
    check_csrf()
    session.clear()
    session.permanent = True
    session["user"] = guard.settings.username
    csrf_token()
    return redirect("/", code=303)


@login_pages.post("/logout")
def log_out() -> Response:
    session.clear()
    return redirect("/", code=303)


def unauthorised() -> Response:
    """401: the login form for a browser that opens a page, JSON for everyone else."""
    opens_page = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
    if not opens_page or "Authorization" in request.headers:
        abort(401, "needed are HTTP basic credentials (`BACKEND_USERNAME`, `BACKEND_PASSWORD`) or a login")
    return _login_form(failed=False)


def _login_form(*, failed: bool) -> Response:
    g.nonce = secrets.token_urlsafe(16)
    page = render_template(
        "login.html", csrf=csrf_token(), failed=failed, language=page_language(), nonce=g.nonce
    )
    return make_response(page, 401)


def csrf_token() -> str:
    """The session's token; made if it has none."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def check_csrf() -> None:
    """403 unless the request carries the session's token, in a header or a form field."""
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token", "")
    if not same(given, str(session.get("csrf", ""))):
        abort(403, "the page's token is missing or old; reload the page")


def check_origin() -> None:
    """403 if a browser says that the request comes from another site's page."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or origin.partition("://")[2] == request.host
    if not own:
        abort(403, "the request comes from another site's page")


def same(given: str, expected: str) -> bool:
    """Compare secrets in a time that depends on neither; nothing equals an empty secret."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, expected))
    return hmac.compare_digest(*digests) and bool(expected)


def page_language() -> str:
    """`zh` or `en`: the visitor's choice, else the setting, else the browser's."""
    chosen = request.cookies.get("language") or _guard().settings.language
    return chosen if chosen in ("zh", "en") else request.accept_languages.best_match(["zh", "en"], "en")


def _limit(failures: RateLimit) -> None:
    if (wait := failures.wait_s(request.remote_addr)) > 0:
        abort(429, f"too many wrong passwords from this address; try again in {math.ceil(wait)} s")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _guard() -> Guard:
    guard: Guard = current_app.extensions["rlhf_guard"]
    return guard
