"""S3 as s3fs speaks it, in bounded time: alone it waits for ever for a store that accepts an upload and takes nothing.

Invariant: a request ends within CONNECT_SECONDS + ANSWER_SECONDS and the time that its bytes take, and what timed out
is asked NUM_ATTEMPTS times.
"""

import asyncio
from pathlib import Path
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError
from s3fs import S3FileSystem

CONNECT_SECONDS, ANSWER_SECONDS = 10, 25  # longer than the hangs that a store gets over by itself
BYTES_A_SECOND = 500_000  # what an upload may take longer
NUM_ATTEMPTS = 2  # of botocore, for each of ours
PIECE = 8 << 20  # bytes of a large upload or download in one request
MOST_PIECES = 10_000  # of one upload
NUM_AT_ONCE = 4  # requests of one upload or download


class Session(AIOHTTPSession):  # type: ignore[misc]  # its package has no types
    """A session that gives up on a whole request, as aiohttp's time-out for reading begins after the last byte sent."""

    async def send(self, request: Any) -> Any:
        headers = request.headers
        size = int(headers.get("Content-Length") or headers.get("X-Amz-Decoded-Content-Length") or 0)
        try:
            async with asyncio.timeout(CONNECT_SECONDS + ANSWER_SECONDS + size / BYTES_A_SECOND):
                return await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from None


class S3(S3FileSystem):  # type: ignore[misc]
    """The file system, with what a user's configuration of fsspec says besides. It can be pickled."""

    retries = 1  # a request that timed out would be made so many times again

    def __init__(self, *, config_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        limits = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": NUM_ATTEMPTS},
            "http_session_cls": Session,
        }
        pieces = {"default_block_size": PIECE, "max_concurrency": NUM_AT_ONCE}
        super().__init__(config_kwargs={**(config_kwargs or {}), **limits}, **{**pieces, **options})

    async def _put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        size = max(PIECE, Path(lpath).stat().st_size // MOST_PIECES + 1)
        await super()._put_file(lpath, rpath, **{"chunksize": size, **options})
