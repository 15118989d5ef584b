"""Connections to other servers: proxies, certificates, keys, pauses between attempts.

Proxies are small HTTP servers on this machine; dead ones are ports that nobody listens on.
"""

import os
import threading
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank import errors
from prorank.cli.command_line import app
from prorank.data.chat_endpoint import Endpoint
from prorank.errors import ConfigError, DataError
from prorank.remote.client import Remote
from prorank.utils.http import Connection, proxy_for
from prorank.utils.http_retry import MAX_RETRY_AFTER, pauses, retry_after
from prorank.utils.threads import share_processors

DEAD = "127.0.0.1:9"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment that names no proxy and no certificates."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Web:
    """A server or a forward proxy: answers everything with a status and the body `{"results": []}`, and keeps the paths."""

    def __init__(self, status=200, headers=()):
        self.paths = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                web.paths.append(self.path)
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b'{"results": []}')

            do_GET = do_POST = answer

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.http.server_address[1]}"
        self.url = f"http://{self.place}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def web():
    made = []
    yield lambda *given, **more: made.append(Web(*given, **more)) or made[-1]
    for one in made:
        one.http.shutdown()
        one.http.server_close()


def ask_once(url):
    endpoint = Endpoint(url, "big", patience=0.1)
    try:
        return endpoint.complete("?")
    finally:
        endpoint.close()


USERS = {"rank": Remote, "label": ask_once}
BROKEN = {
    "ALL_PROXY": ["socks5://user:secret@127.0.0.1:1080", "socks5h://x"],
    "HTTP_PROXY": [
        "socks://x:1", "socks4://x:1", "ftp://x", "http://", "://", "http://[::1", "http://x:port", "http://x:0", "http://x:99999",
        "http://u:se#cret@x:1", "http://a b:1", "http://x:1/\x07",
    ],
    "http_proxy": ["file:///etc/secret"],
    "SSL_CERT_FILE": ["/nowhere/ca.pem", "/", __file__],
    "SSL_CERT_DIR": ["/nowhere/certs"],
}  # fmt: skip


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name, value", [(name, value) for name, values in BROKEN.items() for value in values])
def test_invalid_environment_variables_are_named(monkeypatch, web, user, name, value):
    """Making a client can fail, too."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}.*unset") as caught:
        USERS[user](web().url)
    said = str(caught.value)
    assert "\n" not in said and "secret" not in said and "server running" not in said


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_dead_proxy_is_blamed_and_not_the_server(monkeypatch, web, user, name):
    """The server runs, the proxy does not."""
    server = web()
    monkeypatch.setenv(name, f"http://user:secret@{DEAD}/")
    said = f"proxy http://{DEAD} from {name}.*127.0.0.1 to NO_PROXY"
    with pytest.raises((errors.ServerAway, DataError), match=said) as caught:
        USERS[user](server.url)
    assert "server running" not in str(caught.value) and "secret" not in str(caught.value) and not server.paths


def test_errors_of_a_proxy_are_attributed_to_it(monkeypatch, web):
    """407 is a proxy's, 502 may be."""
    for status, said in ((407, "put them into HTTP_PROXY"), (502, "through the proxy in HTTP_PROXY.*status 502")):
        monkeypatch.setenv("HTTP_PROXY", web(status).url)
        for user in (lambda: Remote("http://rerank.example").rank("q", ["a"]), lambda: ask_once("http://rerank.example")):
            with pytest.raises((errors.ServerError, DataError), match=said):
                user()


@pytest.mark.parametrize("exception", ["127.0.0.1", "other, 127.0.0.1", "*", "127.0.0.0/8", "127.0.0.1:{port}"])
def test_no_proxy_avoids_proxies_and_their_errors(monkeypatch, web, exception):
    """A proxy that is not used cannot fail."""
    server, proxy = web(), web()
    for name, value in (("ALL_PROXY", "socks5://x:1"), ("HTTP_PROXY", proxy.url), ("HTTPS_PROXY", "ftp://x")):
        monkeypatch.setenv(name, value)
    Remote(server.url, "jina").__exit__()
    assert proxy.paths == [f"{server.url}/info"] and not server.paths
    monkeypatch.setenv("NO_PROXY", exception.format(port=server.place.split(":")[1]))
    Remote(server.url, "jina").__exit__()
    assert len(proxy.paths) == 1 and server.paths == ["/info"]


@pytest.mark.parametrize(
    "exceptions, host, direct",
    [
        ("example.org", "example.org", True), ("example.org", "a.example.org", True), ("example.org", "notexample.org", False),
        (".example.org", "a.example.org", True), ("*.example.org", "a.example.org", True), ("EXAMPLE.org", "example.ORG", True),
        ("example.org:8000", "example.org", True), ("example.org:8001", "example.org", False), ("", "example.org", False),
        (",, ,", "example.org", False), ("10.0.0.0/8", "10.2.3.4", True), ("10.0.0.0/8", "11.2.3.4", False),
        ("10.0.0.0/99", "10.0.0.1", False), ("::1", "::1", True), ("[::1]", "::1", True), ("fe80::/10", "10.0.0.1", False),
        ("a b", "b", True), ("http://example.org", "example.org", True),
    ],
)  # fmt: skip
def test_addresses_that_no_proxy_covers(monkeypatch, exceptions, host, direct):
    monkeypatch.setenv("HTTP_PROXY", "proxy:1")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert (proxy_for("http", host, 8000) is None) == direct


@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30))
def test_any_address_of_a_proxy_is_used_or_named(address):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALL_PROXY", address)
        try:
            Connection("http://rerank.example:8000", "--server").close()
        except ConfigError as error:
            assert str(error).startswith("ALL_PROXY ") and "NO_PROXY" in str(error)


@given(st.text(max_size=30))
def test_any_address_of_a_server_is_used_or_refused(address):
    try:
        Connection(f"http://{address}", "--server").close()
    except ConfigError as error:
        assert str(error).startswith("--server http://")


def test_tls_errors_are_not_retried(web):
    """A certificate or a protocol that is wrong will be wrong in the next try as well, so nothing is tried again."""
    url = web().url.replace("http:", "https:")
    endpoint = Endpoint(url, "big", patience=600)
    with pytest.raises(DataError, match="begin the address with http://"):
        endpoint.complete("?")
    assert endpoint.retries == 0
    with pytest.raises(errors.ServerAway, match="begin the address with http://"):
        Remote(url)


def test_keys_that_headers_cannot_contain(monkeypatch, web):
    """They fail when the client is made, and are not shown."""
    for key in ("sécret", "sec\nret", "秘密"):
        monkeypatch.setenv("SOME_KEY", key)
        for use in (lambda key=key: Remote(web().url, key=key), lambda: Endpoint(web().url, "big", key="SOME_KEY")):
            with pytest.raises(ConfigError, match="API key has characters") as caught:
                use()
            assert key not in str(caught.value)


def test_the_commands_end_with_one_line(monkeypatch, tmp_path):
    """Exit code 2 comes from ProRankError, which `main` turns into one line."""
    (tmp_path / "docs.txt").write_text("a\n")
    (tmp_path / "pairs.jsonl").write_text('{"query": "q", "document": "d"}\n')
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    for words in (
        ["rerank", tmp_path / "docs.txt", "--query", "q", "--server", "http://127.0.0.1:8000"],
        ["label", tmp_path / "pairs.jsonl", tmp_path / "out", "--endpoint", "http://127.0.0.1:8000/v1", "-m", "big"],
    ):
        error = CliRunner().invoke(app, list(map(str, words))).exception
        assert isinstance(error, errors.ProRankError) and "ALL_PROXY" in str(error) and "httpx2[socks]" in str(error)
    assert not (tmp_path / "out").exists()


AT_ONCE = ["0", "0.0", "-1", "-inf", "nan", "NaN", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 99999 07:28:00 GMT"]


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def wait(self, seconds):
        if seconds:
            self.sleep(seconds)
        return False


@pytest.mark.parametrize("header", AT_ONCE)
def test_a_retry_after_of_0_causes_no_busy_loop(monkeypatch, web, header):
    """Pauses grow whatever Retry-After says, and tries are few."""
    clock, server = Clock(), web(429, {"Retry-After": header})
    monkeypatch.setattr("prorank.utils.http_retry.time", clock)
    with pytest.raises(errors.TooBusy, match="busy after 60 seconds"):
        Remote(server.url, "jina")
    assert min(clock.slept) >= 0.5 and len(server.paths) <= 12 and sum(clock.slept) <= 60


@pytest.mark.parametrize("header", AT_ONCE)
def test_a_retry_after_of_0_from_a_teacher_causes_no_busy_loop(monkeypatch, web, header):
    """The other client."""
    clock, server = Clock(), web(503, {"Retry-After": header})
    endpoint = Endpoint(server.url, "big", patience=300)
    monkeypatch.setattr("prorank.utils.http_retry.time", clock)
    monkeypatch.setattr("prorank.data.chat_endpoint.time", clock)
    endpoint.stopped = clock
    with pytest.raises(DataError, match="no answer for 300 seconds; last: status 503"):
        endpoint.complete("?")
    assert min(clock.slept) >= 0.5 and len(server.paths) <= 20


LATER = ["3600", "1e300", "inf", "9" * 400, "Fri, 21 Oct 2150 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]


@pytest.mark.parametrize("header", LATER)
def test_a_retry_after_beyond_the_patience_is_not_waited_for(monkeypatch, web, header):
    """Nor does any clock overflow, nor do other threads wait for that long."""
    clock, server = Clock(), web(429, {"Retry-After": header})
    monkeypatch.setattr("prorank.utils.http_retry.time", clock)
    with pytest.raises(errors.TooBusy, match="seconds more"):
        Remote(server.url, "jina")
    endpoint = Endpoint(server.url, "big", patience=300)
    with pytest.raises(DataError, match="no answer for 300 seconds"):
        endpoint.complete("?")
    assert clock.slept == [] and len(server.paths) == 2 and endpoint.open_at == 0


@given(st.one_of(st.text(max_size=40), st.floats().map(str), st.integers().map(str), st.datetimes().map(format_datetime)))
def test_any_retry_after_is_a_time_or_nothing(text):
    seconds = retry_after(text)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_pauses_double_up_to_the_longest():
    assert [pause for pause, _ in zip(pauses(0.5, 3), range(5))] == [0.5, 1, 2, 3, 3]


def test_compute_threads_share_processors_unless_the_user_says_how_they_wait(monkeypatch):
    """Spinning threads took seconds for a request on a busy machine."""
    for set_by_user, want in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in set_by_user.items():
            monkeypatch.setenv(name, value)
        share_processors()
        assert os.environ.get("GOMP_SPINCOUNT") == want
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert isinstance(CliRunner().invoke(app, ["serve", "--model", "no/such/folder"]).exception, errors.ModelError)
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
