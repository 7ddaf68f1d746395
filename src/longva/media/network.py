"""Downloads from public addresses only.

    http://films.example/a.mp4    resolve -> 93.184.216.34, 2606:2800::1    every one public?
                                  connect to 93.184.216.34                  the one just checked
                                  TLS for films.example                     the name verified
    302 http://10.0.0.5/          the same again, hop by hop

A name is resolved once for a connection, and the connection goes to the address that was checked:
a DNS server that would answer differently the second time is not asked again. Certificates are
verified for the name. Compressed transfer is refused: media gain nothing by it, and a small body
could expand to a huge one.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import httpcore
import httpx

from longva.errors import VideoError

NO_ANSWER = (
    *(httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError),
    *(OSError, ValueError),
)
"""What is raised when a server cannot be reached, or breaks HTTP."""

MAX_REDIRECTS = 5
REDIRECTS = {301, 302, 303, 307, 308}
MAX_URL = 8192
HEADERS = {
    "Accept": "video/*, image/*, */*;q=0.5",
    "Accept-Encoding": "identity",
    "User-Agent": "longva",  # some large sites refuse clients without a name
}

NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        # IPv4: this host, private, shared (carrier NAT), loopback, link-local (cloud metadata), ...
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # IPv6 that carries an IPv4 address inside: NAT64, Teredo, 6to4; mapped ones are unpacked
        *("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        # Documentation, benchmarking, ORCHID
        *("2001:db8::/32", "3fff::/20", "2001:2::/48", "2001:10::/28", "2001:20::/28"),
    )
]
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given to the public; the rest is local, loopback, multicast or unused."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names by which a machine calls itself."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port -> its addresses."""

Conditions = Callable[[str], Mapping[str, bytes]]
"""Address of one hop -> headers of its request that allow it to answer 304."""


class AddressError(VideoError):
    """A medium's address that is not allowed, or gives nothing; `code` is its word for programs."""

    def __init__(self, message: str, code: str = "address_not_allowed"):
        super().__init__(message)
        self.code = code


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one that anybody on the internet may reach.

    >>> [is_public(a) for a in ("93.184.216.34", "2606:2800::1", "10.0.0.1", "::ffff:127.0.0.1")]
    [True, True, False, False]
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip not in PUBLIC_IPV6 or ip.scope_id:
            return False
    return not any(ip in network for network in NOT_PUBLIC)


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system for a host's addresses."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only, and to the address that was checked.

    Args:
        resolve: names to addresses.
        allow_private: connect to any address; for tests and closed networks.
        inner: makes the connections.
    """

    def __init__(
        self,
        resolve: Resolve = resolve,
        *,
        allow_private: bool = False,
        inner: httpcore.AsyncNetworkBackend | None = None,
    ):
        self._resolve, self._allow_private = resolve, allow_private
        self._inner = inner or httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host, port, timeout=None, local_address=None, socket_options=None
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect.

        Raises:
            AddressError: the host is not public.
            httpcore.ConnectError: it has no address, or none that answers.
        """
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolve(host.strip("[]"), port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name has no address") from error
        # One private address among public ones is an attack or a mistake: never pick the others.
        if not self._allow_private and not all(map(is_public, addresses)):
            raise AddressError(
                "media are fetched from public addresses only: give the file itself."
            )
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:2]:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def check_url(url: str | httpx.URL, *, allow_private: bool) -> httpx.URL:
    """Parse an address, or refuse it for its form.

    Raises:
        AddressError: not a plain http(s) address.
    """
    problem, parsed = "it is not a valid http(s) address", httpx.URL()
    text = str(url)
    if len(text) > MAX_URL:
        problem = f"an address may have {MAX_URL} characters"
    elif all(c.isprintable() and not c.isspace() and c != "\\" for c in text):
        try:
            parsed = httpx.URL(url)
            problem = ""
        except (httpx.InvalidURL, ValueError, TypeError):
            pass
    if not problem:
        port = parsed.port or {"http": 80, "https": 443}.get(parsed.scheme, 0)
        if parsed.scheme not in ("http", "https") or not parsed.raw_host:
            problem = "it must begin with http:// or https:// and a host"
        elif parsed.userinfo:
            problem = "it may not carry a user name or password"
        elif port > 65535 or port not in (80, 443) and port < 1024 and not allow_private:
            problem = f"port {port} is not for the web"
    if problem:
        raise AddressError(f"an address of a medium cannot be used: {problem}.")
    return parsed


@asynccontextmanager
async def open_url(
    url: str,
    network: httpcore.AsyncNetworkBackend,
    *,
    timeout: float,
    conditions: Conditions | None = None,
    allow_private: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, httpcore.Response]]:
    """Follow redirects, each hop checked, to a plain 200 whose body can be read in a stream.

    Gives the response and the address that it came from, after all redirects.

    Args:
        url: http or https.
        network: a `PublicNetwork`.
        timeout: seconds of silence after which the server is given up.
        conditions: of the requests; an address for which there are some may answer 304 as well.
        allow_private: allow any port as well; see `PublicNetwork` for hosts.
        ssl_context: by default verifies certificates against the usual authorities.

    Raises:
        AddressError: the address is not allowed, or what it gives is not a file.
        httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError: no connection.
    """
    target = check_url(url, allow_private=allow_private)
    names = ("connect", "read", "write", "pool")
    async with httpcore.AsyncConnectionPool(
        network_backend=network, ssl_context=ssl_context, max_connections=2
    ) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            wire = httpcore.URL(
                scheme=target.raw_scheme,
                host=target.raw_host,
                port=target.port,
                target=target.raw_path,
            )
            base = target.copy_with(fragment=None)
            asked = conditions(str(base)) if conditions else {}
            async with pool.stream(
                "GET",
                wire,
                headers={**HEADERS, **asked},
                extensions={"timeout": dict.fromkeys(names, timeout)},
            ) as response:
                headers = {name.lower(): value for name, value in response.headers}
                if response.status not in REDIRECTS:
                    if response.status != 304 or not asked:
                        _check_response(response.status, headers)
                    yield str(base), response
                    return
                location = headers.get(b"location", b"").decode("latin-1")
            try:
                joined = base.join(location)
            except (httpx.InvalidURL, ValueError) as error:
                raise refused("it redirects to an address that is not valid") from error
            target = check_url(joined, allow_private=allow_private)
        raise refused(f"it redirects more than {MAX_REDIRECTS} times")


def _check_response(status: int, headers: dict[bytes, bytes]) -> None:
    if status != 200:
        raise refused(f"the server answered with status {status}")
    if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        raise refused("the server compresses it; media are fetched as they are")


def refused(problem: str) -> AddressError:
    """Say why a medium could not be fetched."""
    return AddressError(f"a medium could not be fetched: {problem}.", code="media_not_fetched")
