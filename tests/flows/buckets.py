"""A real S3 protocol server on loopback, with one bucket; servers of one process share what is in a bucket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import requests
from moto.server import ThreadedMotoServer


@contextmanager
def serve_bucket(name: str) -> Iterator[dict[str, str]]:
    """Yields the environment that leads to the bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = environment(f"http://{host}:{port}")
    client(env).create_bucket(Bucket=name)
    try:
        yield env
    finally:
        server.stop()


def environment(url: str) -> dict[str, str]:
    """What leads to a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "recognisable-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def client(env: dict[str, str]) -> Any:
    """Of the server that the environment leads to."""
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )


@contextmanager
def serve_bucket_apart(name: str, recording: Path) -> Iterator["Apart"]:
    """A server with one bucket in a process of its own, which can be killed."""
    with closing(Apart(name, recording)) as server:
        server.start()
        client(server.env).create_bucket(Bucket=name)
        yield server


class Apart:
    """An S3 server that can be killed, and started again with what it held: it is asked all the same once more."""

    def __init__(self, name: str, recording: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        self.bucket = name
        self.env = environment(f"http://127.0.0.1:{self._port}")
        self._recording = recording
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again after a kill."""
        env = {**os.environ, "MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(self._recording)}
        command = [sys.executable, "-m", "tests.flows.buckets", str(self._port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        )
        assert self._process.stdout
        self._process.stdout.readline()  # it listens
        if self._recording.exists():
            requests.post(f"{self.env['AWS_ENDPOINT_URL']}/moto-api/recorder/replay-recording", timeout=60)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it, which it does when its standard input closes."""
        if self._process is not None:
            self._process.communicate()


def serve_until_closed(port: int) -> None:
    """Serve in this process until standard input closes."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    print("listening", flush=True)
    sys.stdin.buffer.read()
    server.stop()


if __name__ == "__main__":
    serve_until_closed(int(sys.argv[1]))
