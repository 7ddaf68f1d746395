"""Hostile addresses and files: every one refused with a clean error, none reaching this machine."""

import gzip
import io
import json
import os
import shutil
import socketserver
import ssl
import struct
import subprocess
import threading
import zipfile
import zlib
from pathlib import Path

import httpcore
import httpx
import pytest
from PIL import Image

from longva.media.network import AddressError, PublicNetwork, is_public, resolve
from longva.media.write import write_video
from longva.serve.errors import ApiError
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from tests.serve.conftest import data_uri, film, serving, user

PUBLIC = "93.184.216.34"
NAMES = {
    "films.example": [PUBLIC],
    "inside.example": ["10.0.0.5"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "six.example": ["::ffff:192.168.0.1"],
}

LIMITS = Limits(
    pixels=1_000_000,
    stored_frames=100,
    media_seconds=20,
    media_bytes=200_000,
    animation_pixels=2e6,
    animation_frames=50,
    fetch_seconds=20,
)


def reply(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def redirect(where: str) -> bytes:
    return reply("302 Found", f"Location: {where}", "Content-Length: 0")


SITE = {
    "/to-loopback": redirect("http://127.0.0.1:8000/v1/models"),
    "/to-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/to-name": redirect("http://inside.example/"),
    "/to-file": redirect("file:///etc/passwd"),
    "/to-gopher": redirect("gopher://films.example/_GET"),
    "/to-itself": redirect("/to-itself"),
    "/to-nowhere": redirect("http://[::1"),
    "/to-flip": redirect("http://flip.example/film"),
    "/to-user": redirect("http://a:b@films.example/film"),
    "/missing": reply("404 Not Found", "Content-Length: 3", body=b"no\n"),
    "/part": reply("206 Partial Content", "Content-Length: 3", body=b"abc"),
    "/compressed": reply(
        "200 OK",
        "Content-Encoding: gzip",
        "Connection: close",
        body=gzip.compress(bytes(1_000_000)),
    ),
    "/claims-much": reply("200 OK", "Content-Length: 99999999999", body=b"x"),
    "/claims-nonsense": reply("200 OK", "Content-Length: " + "9" * 5000, body=b"x"),
    "/breaks-off": reply("200 OK", "Content-Length: 1000", "Connection: close", body=b"x"),
    "/two-lengths": reply("200 OK", "Content-Length: 1", "Content-Length: 2", body=b"xx"),
    "/long-header": reply("200 OK", "X: " + "x" * 300_000, "Connection: close", body=b"x"),
    "/not-http": b"220 mail.example ESMTP\r\n",
    "/nothing": reply("200 OK", "Content-Length: 0"),
    "/page": reply(
        "200 OK", "Content-Type: video/mp4", "Content-Length: 13", body=b"<html></html>"
    ),
    "/endless": reply("200 OK", "Transfer-Encoding: chunked"),
}


class Wire(httpcore.AnyIOBackend):
    """Takes connections to the public address to the test's web server; notes all addresses."""

    def __init__(self, port):
        self.port, self.reached = port, []

    async def connect_tcp(self, host, port, *args, **kwargs):
        self.reached.append(host)
        return await super().connect_tcp("127.0.0.1", self.port, *args, **kwargs)


class HostileSite(socketserver.StreamRequestHandler):
    def handle(self):
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.wfile.write(SITE[path])
        try:
            while path == "/endless":
                self.wfile.write(b"2000\r\n" + bytes(0x2000) + b"\r\n")
        except OSError:
            pass


@pytest.fixture(scope="module")
def site():
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), HostileSite)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


class Names:
    """A DNS server; `flip.example` is public the first time it is asked for."""

    def __init__(self):
        self.flipped = 0

    async def __call__(self, host, port):
        if host == "flip.example":
            self.flipped += 1
            return [PUBLIC] if self.flipped % 2 else ["127.0.0.1"]
        return NAMES[host] if host in NAMES else await resolve(host, port)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, video):
    """A folder that is shared, beside one that is not."""
    outside = tmp_path_factory.mktemp("disk")
    folder = outside / "films"
    (folder / "empty").mkdir(parents=True)
    shutil.copy(video, outside / "secret.mp4")
    shutil.copy(video, folder / "film.mp4")
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "ring.mp4").symlink_to(folder / "ring.mp4")
    (folder / "up").symlink_to(outside)
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.fixture(scope="module")
def attacked(longva, site, shared, tmp_path_factory):
    wire = Wire(site)
    spool = tmp_path_factory.mktemp("spool")
    network = PublicNetwork(Names(), inner=wire)
    options = {"network": network, "allow_private": False, "folders": [shared]}
    with serving(longva, spool, limits=LIMITS, **options) as server:
        server.wire, server.shared = wire, shared
        yield server


ADDRESSES = {
    "loopback": "http://127.0.0.1:8000/",
    "loopback by name": "http://localhost/",
    "loopback, IPv6": "http://[::1]/",
    "loopback, mapped into IPv6": "http://[::ffff:127.0.0.1]/",
    "loopback, mapped, hexadecimal": "http://[::ffff:7f00:1]/",
    "loopback as one number": "http://2130706433/",
    "loopback, hexadecimal": "http://0x7f.0.0.1/",
    "loopback, octal": "http://0177.0.0.1/",
    "loopback, abbreviated": "http://127.1/",
    "loopback in circled digits": "http://①②⑦.⓪.⓪.①/",
    "any address": "http://0.0.0.0/",
    "any address, IPv6": "http://[::]/",
    "private 10": "http://10.0.0.1/",
    "private 172": "http://172.31.255.255/",
    "private 192": "http://192.168.1.1/",
    "cloud metadata": "http://169.254.169.254/latest/meta-data/",
    "cloud metadata, IPv6": "http://[fd00:ec2::254]/",
    "carrier NAT": "http://100.64.0.1/",
    "link-local, IPv6": "http://[fe80::1]/",
    "NAT64 of loopback": "http://[64:ff9b::7f00:1]/",
    "6to4 of loopback": "http://[2002:7f00:1::]/",
    "multicast": "http://224.0.0.1/",
    "broadcast": "http://255.255.255.255/",
    "name of a private address": "http://inside.example/",
    "name of a mapped address": "http://six.example/",
    "name of a public and a private address": "http://mixed.example/film",
    "name of the metadata address": "http://metadata.example/",
    "redirect to loopback": "http://films.example/to-loopback",
    "redirect to metadata": "http://films.example/to-metadata",
    "redirect to a private name": "http://films.example/to-name",
    "redirect to a file": "http://films.example/to-file",
    "redirect to another protocol": "http://films.example/to-gopher",
    "redirect in a circle": "http://films.example/to-itself",
    "redirect to nonsense": "http://films.example/to-nowhere",
    "redirect with a password": "http://films.example/to-user",
    "DNS that changes between two hops": "http://flip.example/to-flip",
    "host in the user name": "http://films.example@127.0.0.1/",
    "host before a backslash": "http://films.example\\@127.0.0.1/",
    "line break in the address": "http://films.example/\r\nHost: inside.example",
    "port of another service": "http://films.example:22/",
    "no host": "http:///film.mp4",
    "port beyond all": "http://films.example:99999/",
    "gopher": "gopher://films.example/_GET",
    "ftp": "ftp://films.example/film.mp4",
    "ffmpeg's concat": "concat:/etc/passwd|/etc/hosts",
    "bare path": "/etc/passwd",
    "very long address": "http://films.example/" + "a" * 10_000,
    "half a surrogate pair": "http://films.example/\ud800",
    "not there": "http://films.example/missing",
    "part of a file": "http://films.example/part",
    "compressed transfer": "http://films.example/compressed",
    "length of 100 GB": "http://films.example/claims-much",
    "length of 5000 digits": "http://films.example/claims-nonsense",
    "two lengths": "http://films.example/two-lengths",
    "breaks off": "http://films.example/breaks-off",
    "endless header": "http://films.example/long-header",
    "not HTTP": "http://films.example/not-http",
    "empty": "http://films.example/nothing",
    "page that says it is a video": "http://films.example/page",
    "endless stream": "http://films.example/endless",
    "file outside": "file:///etc/passwd",
    "file outside by dots": "file://{shared}/../secret.mp4",
    "file outside by escaped dots": "file://{shared}/%2e%2e%2fsecret.mp4",
    "file outside by a link": "file://{shared}/link.mp4",
    "file outside by a linked folder": "file://{shared}/up/secret.mp4",
    "folder beside with the same beginning": "file://{shared}x/film.mp4",
    "link in a circle": "file://{shared}/ring.mp4",
    "pipe": "file://{shared}/pipe.mp4",
    "folder": "file://{shared}/empty",
    "zero byte": "file://{shared}/film.mp4%00.png",
    "file of another host": "file://other.example{shared}/film.mp4",
    "process environment": "file:///proc/self/environ",
    "endless device": "file:///dev/zero",
    "data without base64": "data:video/mp4,hello",
    "data in broken base64": "data:video/mp4;base64,@@@@",
    "no data": "data:video/mp4;base64,",
}
REACHES_OUT = {"DNS that changes between two hops"} | {
    name for name, url in ADDRESSES.items() if "films.example/" in url and "@" not in url
}


def refusal(server, url) -> httpx.Response:
    """Post a question about a medium; check that the answer is a clean error, and return it."""
    body = {"model": "random", "max_tokens": 1, "messages": [user("What?", film(url))]}
    content = json.dumps(body)  # ASCII, so that anything can be spelled
    headers = {"Content-Type": "application/json"}
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=content, headers=headers, timeout=60
    )
    assert response.status_code in (400, 413), response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]
    for internal in (
        str(server.fetcher.spool),
        str(server.shared),
        "Traceback",
        "127.0.0.1",
        "Errno",
        "httpcore",
    ):
        assert internal not in response.text
    assert server.spooled() == []
    return response


@pytest.mark.parametrize("case", ADDRESSES)
def test_a_hostile_address_is_refused(case, attacked):
    attacked.wire.reached.clear()
    refusal(attacked, ADDRESSES[case].format(shared=attacked.shared))
    assert set(attacked.wire.reached) <= {PUBLIC}
    assert bool(attacked.wire.reached) <= (case in REACHES_OUT)


def png_bomb() -> bytes:
    """60,000 x 60,000 black pixels in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def png_text_bomb() -> bytes:
    """A small picture with 80 MB of text in it."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    png = buffer.getvalue()
    body = b"Comment\x00\x00" + zlib.compress(bytes(80_000_000), 9)
    check = struct.pack(">I", zlib.crc32(b"zTXt" + body))
    text = struct.pack(">I", len(body)) + b"zTXt" + body + check
    return png[:33] + text + png[33:]


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.mp4", bytes(20_000_000))
    return buffer.getvalue()


def animation(size: int, pictures: int) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (size, size), n % 200) for n in range(pictures)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=20)
    return buffer.getvalue()


def video_of(folder: Path, size: int, frames: int, fps: int) -> bytes:
    pictures = [Image.new("RGB", (size, size), (n, 0, 0)) for n in range(frames)]
    write_video(folder / "made.mp4", pictures, fps)
    return (folder / "made.mp4").read_bytes()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


FILES = {
    "picture of 3.6 gigapixels": lambda folder: png_bomb(),
    "picture with a bomb of text": lambda folder: png_text_bomb(),
    "zip bomb": lambda folder: zip_bomb(),
    "gzip": lambda folder: gzip.compress(bytes(9999)),
    "animation of huge pictures": lambda folder: animation(1200, 2),
    "animation of many pictures": lambda folder: animation(200, 60),
    "animation of many small pictures": lambda folder: animation(8, 60),
    "video of huge frames": lambda folder: video_of(folder, 1100, 2, 8),
    "video of many frames": lambda folder: video_of(folder, 32, 120, 60),
    "video that lasts long": lambda folder: video_of(folder, 32, 30, 1),
    "playlist of local files": lambda folder: (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ),
    "list of files to join": lambda folder: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "manifest": lambda folder: b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>',
    "picture in XML": lambda folder: (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "PostScript": lambda folder: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "PDF": lambda folder: b"%PDF-1.7\n%%EOF\n",
    "plain text": lambda folder: b"hello, this is a video\n" * 40,
    "cut in the middle": lambda folder: half(video_of(folder, 32, 8, 8)),
}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused(case, attacked, tmp_path):
    path = tmp_path / "attack"
    path.write_bytes(FILES[case](tmp_path))
    assert path.stat().st_size < LIMITS.media_bytes
    refusal(attacked, data_uri(path))


def test_there_are_more_than_thirty_attacks():
    assert len(ADDRESSES) + len(FILES) >= 30


def test_what_is_allowed_still_works(attacked, video, monkeypatch):
    content = video.read_bytes()
    film_reply = reply("200 OK", f"Content-Length: {len(content)}", body=content)
    monkeypatch.setitem(SITE, "/film", film_reply)
    monkeypatch.setitem(SITE, "/moved", redirect("/film"))
    for url in ("http://films.example/moved", f"file://{attacked.shared}/film.mp4"):
        body = {"model": "random", "max_tokens": 1, "messages": [user("What?", film(url))]}
        response = httpx.post(f"{attacked.url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text


@pytest.mark.anyio
async def test_connections_go_to_the_address_that_was_checked():
    class Inner(httpcore.AnyIOBackend):
        async def connect_tcp(self, host, *args, **kwargs):
            reached.append(host)
            raise httpcore.ConnectError

    reached: list[str] = []
    names = Names()
    network = PublicNetwork(names, inner=Inner())
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("flip.example", 80)
    assert reached == [PUBLIC] and names.flipped == 1  # asked once, and never by name
    with pytest.raises(AddressError, match="public addresses only"):
        await network.connect_tcp("flip.example", 80)
    assert reached == [PUBLIC]


@pytest.mark.anyio
async def test_a_server_that_drips_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setitem(SITE, "/drip", reply("200 OK", "Content-Length: 1000", body=b"x"))
    monkeypatch.setattr(HostileSite, "finish", lambda self: threading.Event().wait(5))
    for limits in (Limits(fetch_seconds=0.3), Limits(silent_seconds=0.3)):
        network = PublicNetwork(Names(), inner=Wire(site))
        fetcher = MediaFetcher(tmp_path, limits, network=network)
        with pytest.raises(ApiError) as caught:
            await fetcher.fetch("http://films.example/drip")
        assert caught.value.code == "media_not_fetched" and list(tmp_path.iterdir()) == []


def test_public_addresses_are_told_apart():
    for address in ("8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"):
        assert is_public(address), address
    for address in ("198.18.0.1", "192.0.2.1", "fe80::1%eth0", "::", "ff02::1", "2001::1", "x"):
        assert not is_public(address), address


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate for films.example, by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=films.example", "-addext",
         "subjectAltName=DNS:films.example", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


@pytest.mark.anyio
async def test_https_is_verified_for_the_name_not_the_number(certificate, tmp_path, monkeypatch):
    key, cert = certificate
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    monkeypatch.setitem(SITE, "/film", reply("200 OK", "Content-Length: 4", body=b"film"))
    monkeypatch.setitem(NAMES, "other.example", [PUBLIC])

    class SecureServer(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def get_request(self):
            plain, address = super().get_request()
            return server_side.wrap_socket(plain, server_side=True), address

        def handle_error(self, *args):
            pass

    with SecureServer(("127.0.0.1", 0), HostileSite) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        network = PublicNetwork(Names(), inner=Wire(server.server_address[1]))
        (tmp_path / "spool").mkdir()
        fetcher = MediaFetcher(tmp_path / "spool", Limits(), network=network, ssl_context=trusting)
        stored = await fetcher.fetch("https://films.example/film")
        assert stored.path.read_bytes() == b"film"
        with pytest.raises(ApiError, match="does not answer as it should"):
            await fetcher.fetch("https://other.example/film")
        untrusting = MediaFetcher(tmp_path / "spool", Limits(), network=network)
        with pytest.raises(ApiError, match="does not answer as it should"):
            await untrusting.fetch("https://films.example/film")
        server.shutdown()
