"""A real S3 protocol server on loopback, with one bucket; servers of one process share what is in a bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
