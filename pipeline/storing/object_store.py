"""An object store, asked so that no question waits for ever, and its errors in its own words.

Invariant: whatever the store does or fails to do, a request ends: in an answer, or in an error within about two minutes
(and the time that its bytes take). No message holds a key or a token.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import InputError, LabelscoreError, RunError

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")  # where a PUT is all or nothing
NUM_DELETED = 1000  # keys that one request may name
REFUSING, UNREACHABLE = 60.0, 8.0  # seconds of waiting in all: where the store says later, where nobody answers
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

# What the stores' codes ask for; a HEAD request gets the number of the status alone.
_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests", "503", "429"}
_BUSY |= {"RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted"}
_FAILING = {"InternalError", "InternalFailure", "RequestTimeout", "500", "502", "504"}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "Forbidden", "401", "403"}
_WRONG_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "Unauthorized"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "301", "307"}
_ELSEWHERE |= {"IllegalLocationConstraintException", "InvalidRegion"}
_SKEWED = {"RequestTimeTooSkewed", "RequestInTheFuture"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"}

_CUT_SHORT = {"EndpointConnectionError", "ConnectionClosedError", "ClientPayloadError", "IncompleteReadError"}
_CUT_SHORT |= {"IncompleteRead", "ResponseStreamingError"}
_LATER = "run again later, what is finished is kept"
_ADVICE: list[tuple[set[str], type[LabelscoreError], str]] = [
    (_BUSY, RunError, f"it asks for slower requests, and did for a minute; {_LATER}"),
    (_FAILING, RunError, f"the store itself is failing; {_LATER}"),
    (_NO_BUCKET, InputError, "make the bucket, or correct --out"),
    (
        _DENIED,
        InputError,
        "check whose credentials are used (AWS_ACCESS_KEY_ID, AWS_PROFILE) and what they may do there",
    ),
    (_WRONG_KEYS, InputError, "the credentials are not those of this store; check AWS_ACCESS_KEY_ID and its secret"),
    (_EXPIRED, InputError, "the credentials have expired; renew them and run again, what is finished is kept"),
    (_ELSEWHERE, InputError, "the bucket is in another region; set AWS_DEFAULT_REGION or AWS_ENDPOINT_URL to its own"),
    (_SKEWED, InputError, "this machine's clock is wrong; set it and run again, what is finished is kept"),
    (_FULL, RunError, "make room there and run again, what is finished is kept"),
]
_NO_KEYS = (
    "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and check what they name"
)


# Asking


def open_store(scheme: str, url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it. Raises InputError where there is none."""
    from fsspec.core import url_to_fs

    if scheme not in OBJECT_STORES:
        raise InputError(f"{url}: cannot write to '{scheme}://'; use a directory or one of {', '.join(OBJECT_STORES)}")
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        if scheme not in ("s3", "s3a"):
            store, base = url_to_fs(url, **options)
            return store, base.rstrip("/")
        from pipeline.storing.s3 import S3
    except ImportError as error:
        raise InputError(f"{url}: {error}; for s3:// pip install 'labelscore[s3]'") from error
    return S3(**options), S3._strip_protocol(url).rstrip("/")


def ask(store: Any, verb: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the file system that may be repeated; one more time, and more, where the store asks for that."""
    wait, waited = 0.5, 0.0
    while True:
        try:
            return getattr(store, verb)(*arguments, **options)
        except Exception as error:
            if waited + wait > _patience(error):
                raise
        time.sleep(wait)
        wait, waited = min(2 * wait, 10.0), waited + wait


def _patience(error: Exception) -> float:
    """How many seconds to wait in all before asking again what ended so; what timed out has had its time already."""
    code, _ = _own_words(error)
    if code in _BUSY | _FAILING:
        return REFUSING
    return UNREACHABLE if _kinds(error) & _CUT_SHORT else 0.0


def is_missing(error: FileNotFoundError) -> bool:
    """Whether an object is missing, and not its bucket."""
    return _own_words(error)[0] not in _NO_BUCKET


def remove(store: Any, urls: Sequence[str]) -> None:
    """Delete objects, many with one request; those that are gone already are none the worse."""
    for start in range(0, len(urls), NUM_DELETED):
        some = urls[start : start + NUM_DELETED]
        if len(some) == 1 or "s3" not in store.protocol:
            for url in some:
                _remove_one(store, url)
            continue
        keys = [store.split_path(url)[:2] for url in some]
        objects = {"Objects": [{"Key": key} for _, key in keys], "Quiet": True}
        answer = ask(store, "call_s3", "delete_objects", Bucket=keys[0][0], Delete=objects)
        for refusal in answer.get("Errors", []):
            raise _advise(str(refusal.get("Code")), str(refusal.get("Message")), f"cannot delete {refusal.get('Key')}")


def _remove_one(store: Any, url: str) -> None:
    try:
        ask(store, "rm_file", url)
    except FileNotFoundError as error:
        if not is_missing(error):
            raise


# What went wrong


def explain(error: Exception, what: str) -> LabelscoreError | None:
    """What the store, or the way to it, says; None where the error has to do with neither.

    InputError for what a user has to set right, RunError for what may pass.
    """
    code, message = _own_words(error)
    if code:
        return _advise(code, message, what)
    kinds, words = _kinds(error), _harmless(str(error))
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}:
        return InputError(f"{what}: {_NO_KEYS} ({words})")
    if any("SSO" in kind or "Token" in kind for kind in kinds):
        return InputError(f"{what}: {words}; sign in again, what is finished is kept")
    if kinds & {"ReadTimeoutError", "ConnectTimeoutError", "FSTimeoutError"}:
        return RunError(f"{what}: the store did not answer in time ({words}); {_LATER}")
    if kinds & {"EndpointConnectionError", "ProxyConnectionError", "SSLError", "ConnectionClosedError"}:
        return RunError(
            f"{what}: the store cannot be reached ({words}); check AWS_ENDPOINT_URL and the network, {_LATER}"
        )
    if kinds & {"ParamValidationError"} or words.startswith(("Invalid endpoint", "Invalid bucket")):
        return InputError(f"{what}: {words}; correct --out or AWS_ENDPOINT_URL")
    if "RecursionError" in kinds:  # botocore follows a store that sends it elsewhere again and again
        return _advise("PermanentRedirect", "", what)
    if any(type(cause).__module__.split(".")[0] in _LIBRARIES for cause in _chain(error)):
        return RunError(f"{what}: {words}; check the address and the credentials")
    return None


_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")


def _advise(code: str, message: str, what: str) -> LabelscoreError:
    others = (RunError, "run again, what is finished is kept")
    kind, advice = next(((kind, advice) for codes, kind, advice in _ADVICE if code in codes), others)
    said = f"{code} ({_harmless(message)})" if message not in ("", code) else code
    return kind(f"{what}: the store answers {said}; {advice}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kinds(error: Exception) -> set[str]:
    return {type(cause).__name__ for cause in _chain(error)}


def _own_words(error: Exception) -> tuple[str, str]:
    """The code and the message of the store's answer, or nothing where it gave none."""
    for cause in _chain(error):
        answer = getattr(cause, "response", None)
        if isinstance(answer, dict) and isinstance(answer.get("Error"), dict):
            found = answer["Error"]
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
            return str(found.get("Code") or status), str(found.get("Message") or "")
    return "", ""


def _harmless(text: str) -> str:
    """The words of a store without a key, a token or a password, and not too many of them."""
    for secret in filter(None, map(os.environ.get, SECRETS)):
        if len(secret) >= 8:  # a shorter one, as of a store for trying out, is part of other words
            text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]+@", "//", " ".join(text.split()))[:300]
