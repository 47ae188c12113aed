"""An S3 server with one bucket in a process of its own, which can be killed and started again.

Invariant: what it held it holds again. moto keeps all in memory, so it is asked once more for all that it was asked
before, at an address that nobody else knows, and only then listens at its own.
"""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from moto.server import ThreadedMotoServer

from tests.flows.buckets import client


class BucketServer:
    """A process that serves the bucket `name`; `recording` is where it keeps what it was asked, to be killed."""

    def __init__(self, name: str, recording: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "recognisable-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._recording = recording
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, after a kill again."""
        env, places = dict(os.environ), []
        if self._recording is not None:
            env |= {"MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(self._recording)}
            places = [str(self._recording)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.kill_bucket", str(self._port), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        assert self._process.stdout
        self._process.stdout.readline()  # it listens

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it, which it does when its standard input closes."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


@contextmanager
def serve_bucket_apart(name: str, recording: Path | None = None) -> Iterator[BucketServer]:
    """A running server with an empty bucket."""
    with closing(BucketServer(name, recording)) as server:
        server.start()
        client(server.env).create_bucket(Bucket=name)
        yield server


def serve_until_closed(port: int, recording: Path | None) -> None:
    """Serve in this process until standard input closes."""
    if recording is not None and recording.exists():
        whole, _, _ = recording.read_bytes().rpartition(b"\n")  # the kill may have torn the last line
        recording.write_bytes(whole + b"\n")
        aside = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)  # servers of one process share it all
        aside.start()
        host, free = aside.get_host_and_port()
        again = f"http://{host}:{free}/moto-api/recorder/replay-recording"
        with urllib.request.urlopen(urllib.request.Request(again, method="POST"), timeout=120):
            aside.stop()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    print("listening", flush=True)
    sys.stdin.buffer.read()
    server.stop()


if __name__ == "__main__":
    serve_until_closed(int(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
