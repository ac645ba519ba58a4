"""Keeps everybody else out of the studio: other sites in the same browser, other users of the machine, other machines.

Every request, web sockets included, must name this machine as its host (so no site can read the page by pointing its own name
at this address), must not come from another site's page, and must bring the token: once in the address, and from then on as a
cookie that no other site's request carries.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, final
from urllib.parse import parse_qs, urlsplit

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@final
class Guard:
    """ASGI middleware. hosts: names that a request may give for this machine; None for any, where others are served, too."""

    def __init__(self, app: App, token: str, hosts: frozenset[str] | None = LOOPBACK) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        why = self._refusal(headers, given)
        if why is not None:
            await refuse(scope, receive, send, why)
            return

        async def with_cookie(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._is_token(given):
                cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie.encode())]
            await send(message)

        await self._app(scope, receive, with_cookie)

    def _refusal(self, headers: dict[bytes, str], given: str) -> str | None:
        """Why a request is refused, or None."""
        if not self._is_here(f"//{headers.get(b'host', '')}"):
            return "this page is served under the name of this machine only"
        origin = headers.get(b"origin")
        if origin is not None and not self._is_here(origin):
            return "this page takes no requests of other sites"
        if not self._is_token(given) and not self._is_token(cookie_of(headers.get(b"cookie", ""))):
            return "open the address that `styleres studio` printed: it holds the token"
        return None

    def _is_here(self, address: str) -> bool:
        if self._hosts is None:
            return True
        try:
            return urlsplit(address).hostname in self._hosts
        except ValueError:
            return False

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


COOKIE: Final = "styleres_studio"


def cookie_of(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


async def refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    """403, and the sentence."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"styleres studio: {why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
