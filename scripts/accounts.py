"""Label Studio accounts made the way people make theirs: by the invitation link and the sign-up page.

Used for the demo's simulated team and for the link that `make up` shows. Knows nothing of the backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

LET_IN = 302
"""Label Studio sends on to its first page; a refused form comes again with status 200."""


class AccountError(Exception):
    """An account could not be made; says what Label Studio answered."""


@dataclass(frozen=True)
class Account:
    """One person's account in Label Studio."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    """Access token of the person's own."""


def invitation(label_studio_url: str, administrator_token: str) -> str:
    """The link by which people of the team sign up.

    Raises: AccountError: Label Studio refuses.
    """
    answer = httpx.get(
        f"{label_studio_url}/api/invite",
        headers={"Authorization": f"Token {administrator_token}"},
        timeout=30,
    )
    if answer.status_code != 200:
        raise AccountError(f"Label Studio gives no invitation link: status {answer.status_code}")
    return label_studio_url + str(answer.json()["invite_url"])


def sign_up(invitation_link: str, email: str, password: str) -> Account:
    """Make an account by the sign-up page and fetch its access token; log in where the account exists.

    Raises: AccountError: Label Studio refuses, for instance because the password is too short.
    """
    url = httpx.URL(invitation_link)
    with httpx.Client(base_url=url.copy_with(raw_path=b"/"), timeout=30) as browser:
        refusals = []
        for page in (invitation_link, "/user/login/"):
            if (status := _post_form(browser, page, email, password)) == LET_IN:
                break
            refusals.append(str(status))
        else:
            raise AccountError(
                f"Label Studio does not sign up or log in `{email}` (status {', then '.join(refusals)}); "
                "needed is a new address with a password of 8 or more characters, or the account's own"
            )
        answer = browser.get("/api/current-user/token")
        if answer.status_code != 200:
            raise AccountError(f"Label Studio gives `{email}` no access token: status {answer.status_code}")
        return Account(email, password, str(answer.json()["token"]))


def _post_form(browser: httpx.Client, page: str, email: str, password: str) -> int:
    """Send one of Label Studio's forms. Returns: the answer's status, `LET_IN` if it did."""
    browser.get(page)
    fields = {
        "email": email,
        "password": password,
        "allow_newsletters": "false",
        "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
    }
    return browser.post(page, data=fields, headers={"Referer": str(browser.base_url)}).status_code
