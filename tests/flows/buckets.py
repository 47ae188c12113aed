"""A real S3 protocol server on loopback, with one bucket; servers of one process share what is in a bucket.

Before it may stand a store of little use: one that refuses requests in its own words, or takes them and is silent.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def serve_bucket(name: str) -> Iterator[dict[str, str]]:
    """Yields the environment that leads to the bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "recognisable-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client(env).create_bucket(Bucket=name)
    try:
        yield env
    finally:
        server.stop()


def client(env: dict[str, str]) -> Any:
    """Of the server that the environment leads to."""
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )


class Store(BaseHTTPRequestHandler):
    """Passes requests on to the real server, unless `trouble` has something else to say: see `serve_trouble`."""

    protocol_version = "HTTP/1.1"
    target: str
    trouble: Callable[[str, str], tuple[int, str] | None]
    released: threading.Event
    asked: list[str]

    def handle_expect_100(self) -> bool:
        return not self._is_silent() and super().handle_expect_100()

    def _is_silent(self) -> bool:
        if self.trouble(self.command, self.path) == (0, ""):
            self.released.wait()
            return True
        return False

    def answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if (trouble := self.trouble(self.command, self.path)) == (0, ""):
            self.released.wait()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if trouble:
            status, code = trouble
            data = f"<Error><Code>{code}</Code><Message>what the store says of {code}</Message></Error>".encode()
            self._send(status, {"Content-Type": "application/xml"}, data)
            return
        there = HTTPConnection(urlsplit(self.target).netloc)
        there.request(self.command, self.path, body, dict(self.headers.items()))
        found = there.getresponse()
        data = found.read()
        left_out = ("content-length", "transfer-encoding", "connection", "date", "server")
        headers = {name: value for name, value in found.getheaders() if name.lower() not in left_out}
        self._send(found.status, headers, data, found.getheader("Content-Length"))

    def _send(self, status: int, headers: dict[str, str], data: bytes, size: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", size if self.command == "HEAD" and size else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve_trouble(
    target: str, trouble: Callable[[str, str], tuple[int, str] | None]
) -> Iterator[tuple[str, list[str]]]:
    """Yields the address of a store before the one at `target`, and the list of what it was asked.

    `trouble` is asked with each request's method and path: None passes it on, a status and a code is the answer,
    (0, "") is none at all.
    """
    released, asked = threading.Event(), list[str]()
    names = {"target": target, "trouble": staticmethod(trouble), "released": released, "asked": asked}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisStore", (Store,), names))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        released.set()
        server.shutdown()
