"""Mask the passwords of URLs in texts that are printed, logged, raised or stored."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import unquote, unquote_plus, urlsplit

MASK = "***"
# what the name of an option says that holds a secret; `key` alone is a file of SSH's
_SECRET = re.compile(r"pass|pwd|secret|token|credential|signature|^sig$|^key_?id$|.key$|access_?key")
# scheme://USER:PASSWORD@ ; a password may hold a "/" (SQLAlchemy reads up to the first @) or an "@" (RFC 3986 reads up to the last one
# before a "/")
_LOGIN = re.compile(r"""(?P<before>[a-z][a-z0-9+.-]*://[^\s:/?#@'"]*:)(?P<secret>[^\s@'"]*@(?:[^\s/?#@'"]*@)*)""", re.IGNORECASE)
_OPTION = re.compile(r"""(?P<before>[?&;])(?P<name>[^=&?;\s#'"]+)=(?P<value>[^&;\s#'"]*)""")
# libpq's and boto3's own form, outside of a URL: password=..., aws_secret_access_key = '...'
_NAMED = re.compile(
    r"""(?P<name>\b[a-z_]*(?:password|passwd|pwd|secret|token|access_key)[a-z_]*)(?P<between>['"]?\s*[=:]\s*)"""
    r"""(?P<value>'[^']*'|"[^"]*"|[^\s,;&'"}\])]+)""",
    re.IGNORECASE,
)
_LEAST_LETTERS = 4


def masked(text: str, *urls: str) -> str:
    """Return a text in which the passwords of all URLs read `***`; what are passwords in `urls` is masked wherever it stands.

    A password may stand before the @, percent-encoded or not, or in an option such as ?password=, ?sslpassword= or ?secret_key=.
    """
    for secret in sorted({secret for url in urls for secret in secrets_of(url)}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < _LEAST_LETTERS else re.escape(secret), MASK, text)
    text = _LOGIN.sub(_without_login, text)
    text = _OPTION.sub(_without_option, text)
    return _NAMED.sub(_without_value, text)


def secrets_of(url: str) -> set[str]:
    """Return the passwords in a URL, as they are written there and as they are meant."""
    found = {match["secret"][:-1] for match in _LOGIN.finditer(url)}
    found |= {match["value"] for match in _OPTION.finditer(url) if _is_secret(match["name"])}
    with suppress(ValueError):  # not a URL to the standard library, but the patterns above have read it
        found.add(urlsplit(url).password or "")
    return {form for secret in found for form in (secret, unquote(secret), unquote_plus(secret)) if form not in ("", MASK)}


def _is_secret(name: str) -> bool:
    return _SECRET.search(unquote_plus(name).lower()) is not None


def _without_login(found: re.Match[str]) -> str:
    return f"{found['before']}{MASK}@"


def _without_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][0] in "'\"" else ""
    return found[0] if found["value"].startswith(MASK) else f"{found['name']}{found['between']}{quote}{MASK}{quote}"


def _without_option(found: re.Match[str]) -> str:
    return f"{found['before']}{found['name']}={MASK}" if _is_secret(found["name"]) else found[0]
