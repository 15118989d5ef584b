"""HTTP connections: creates clients and explains failures. `http_retry` repeats requests.

Environment variables configure proxies and certificates, so creating a client can fail too. Each failure is reported on one line
that names the variable, without credentials.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.request import getproxies

from ..errors import ConfigError, DataError, extra

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
CONNECT_SECONDS = 10


class Connection:
    """A client for one server.

    Args:
        url: address of the server or of one of its endpoints.
        option: name of the option that holds the address, for messages.
        key: API key, sent as `Authorization: Bearer`; None or blank for none.
        timeout: seconds for one response. Connecting may take at most CONNECT_SECONDS of them.

    Attributes:
        where: the address for messages, with the variable of its proxy.
        failures: exceptions that `request` raises if there is no response; see `explain`.

    Raises:
        ConfigError: the address, the key or an environment variable is invalid.
    """

    def __init__(self, url: str, option: str, key: str | None = None, timeout: float = 300) -> None:
        with extra("client"):
            import httpx2 as httpx
        host, port, scheme = _parsed(httpx, url, option)
        self.url, self.host, self.proxy = url, host, proxy_for(scheme, host, port)
        self.where = f"{url} (through the proxy in {self.proxy.variable})" if self.proxy else url
        self.failures = (httpx.RequestError, httpx.InvalidURL)
        self._permanent = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)
        self.client = httpx.Client(
            transport=self._transport(httpx),
            headers=_authorization(key),
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
        )

    def _transport(self, httpx: Any) -> Any:
        setting = self.proxy
        try:
            proxy = httpx.Proxy(self._proxy_url(httpx, setting)) if setting else None
            with _certificates():
                return httpx.HTTPTransport(proxy=proxy, limits=httpx.Limits(max_connections=None))
        except ImportError as error:
            if setting is None:
                raise
            remedy = f"pip install 'httpx2[socks]', {self._without(setting)}"
            raise ConfigError(f"{setting.variable} names a SOCKS proxy, which needs the package socksio: {remedy}") from error

    def _proxy_url(self, httpx: Any, proxy: ProxySetting) -> Any:
        """Return the address of a proxy. Raises ConfigError without quoting it, because it may contain a password."""
        try:
            url = httpx.URL(proxy.address)
            if url.scheme in PROXY_SCHEMES and _is_host(url.host) and _is_port(url.port):
                return url
        except (httpx.InvalidURL, ValueError):
            pass
        raise ConfigError(
            f"{proxy.variable} is not the address of a proxy; expected http://HOST:PORT, https:// or socks5://: correct it, "
            f"{self._without(proxy)}"
        ) from None

    def _without(self, proxy: ProxySetting) -> str:
        return f"or unset {proxy.variable} or add {self.host} to NO_PROXY to go without a proxy"

    def request(self, method: str, path: str = "", **options: Any) -> Any:
        """Send a request and return the response, with any status.

        Args:
            method: HTTP method.
            path: path relative to the address.
            **options: passed to the client of httpx.

        Raises:
            one of `failures`: there was no response.
            DataError: a text cannot be encoded as UTF-8.
        """
        try:
            return self.client.request(method, self.url + path, **options)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.url}: a text contains half of a surrogate pair, which UTF-8 cannot encode; correct the text"
            ) from error

    def explain(self, error: Exception) -> str:
        """Return one line with the reason why there was no response, and the remedy."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if fault := _tls_error(error):
            return f"{reason}; {_tls_remedy(fault)}"
        if self.proxy:
            through = f"through the proxy {self.proxy.shown} from {self.proxy.variable}"
            return f"{reason}, {through}; start or correct the proxy, {self._without(self.proxy)}"
        return f"{reason}; is the server running?"

    def refused_by_proxy(self, status: int) -> str | None:
        """Return one line about a status that only proxies send (407); None for any other status."""
        if status != 407:
            return None
        variable = self.proxy.variable if self.proxy else "HTTP_PROXY"
        return f"a proxy requires credentials (status 407); put them into {variable}: http://USER:PASSWORD@HOST:PORT"

    def is_permanent(self, error: Exception) -> bool:
        """Whether another attempt would fail in the same way."""
        return isinstance(error, self._permanent) or _tls_error(error) is not None

    def close(self) -> None:
        """Close all connections."""
        self.client.close()


@dataclass(frozen=True)
class ProxySetting:
    """A proxy from the environment.

    Attributes:
        url: its address.
        variable: the environment variable that sets it.
    """

    address: str
    variable: str

    @property
    def shown(self) -> str:
        """The address without credentials."""
        scheme, _, rest = self.address.rpartition("://")
        return f"{scheme}://{rest.rpartition('@')[2].rstrip('/')}"


def proxy_for(scheme: str, host: str, port: int) -> ProxySetting | None:
    """Return the proxy that the environment or the system sets for an address; None for a direct connection.

    Args:
        scheme: "http" or "https". `HTTP_PROXY` or `HTTPS_PROXY` is read, then `ALL_PROXY`, in upper or lower case.
        host, port: the address.
    """
    settings = getproxies()
    kind = next((kind for kind in (scheme, "all") if settings.get(kind)), None)
    if kind is None or _is_exempt(settings.get("no", ""), host, port):
        return None
    address = settings[kind].strip()
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name)), names[1])
    return ProxySetting(address if "://" in address else f"http://{address}", variable)


def _is_exempt(exceptions: str, host: str, port: int) -> bool:
    """Whether NO_PROXY covers an address: by `*`, a name, a domain, an address or a network, each with or without a port."""
    return any(_covers(entry, host.lower(), port) for entry in exceptions.lower().replace(",", " ").split())


def _covers(entry: str, host: str, port: int) -> bool:
    entry = entry.rpartition("://")[2]
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name, _, number = entry.rpartition(":")
        if number.isdigit() and name.count(":") == 0:
            return int(number) == port and _covers(name, host, port)
        domain = entry.lstrip("*.")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _parsed(httpx: Any, url: str, option: str) -> tuple[str, int, str]:
    """Return (host, port, scheme) of an address. Raises ConfigError if it is invalid."""
    try:
        parsed = httpx.URL(url)
        usual = {"http": 80, "https": 443}[parsed.scheme]
        if _is_host(parsed.host) and _is_port(parsed.port):
            return parsed.host, parsed.port or usual, parsed.scheme
    except (httpx.InvalidURL, KeyError, ValueError):
        pass
    raise ConfigError(f"{option} {url}: expected an address such as http://localhost:8000") from None


def _is_host(host: str) -> bool:
    return bool(host.strip(".")) and not any(character.isspace() or character in "%/\\" for character in host)


def _is_port(port: int | None) -> bool:
    return port is None or 0 < port < 65536


def _authorization(key: str | None) -> dict[str, str]:
    if not (key and key.strip()):
        return {}
    if not (key.strip().isascii() and key.strip().isprintable()):
        raise ConfigError("the API key has characters that headers cannot contain; check the environment variable it comes from")
    return {"authorization": f"Bearer {key.strip()}"}


@contextmanager
def _certificates() -> Iterator[None]:
    """Convert errors from reading SSL_CERT_FILE or SSL_CERT_DIR to ConfigError."""
    name, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if folders and not name and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise ConfigError(f"SSL_CERT_DIR {folders}: no such folder; set it to a folder of certificates, or unset SSL_CERT_DIR")
    try:
        yield
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        source = f"SSL_CERT_FILE {name}" if name else "the system's certificates"
        raise ConfigError(f"{source}: {reason}; set SSL_CERT_FILE to a file of certificates (PEM), or unset it") from error


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error that caused an error, if any."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _tls_remedy(fault: ssl.SSLError) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        path = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        now = f" (now {path})" if path else ""
        return f"set SSL_CERT_FILE to the certificate of its authority{now}"
    return "if the server does not use TLS, begin the address with http://"
