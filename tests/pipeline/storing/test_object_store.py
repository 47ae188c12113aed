"""An object store that refuses, hangs or is not there: in its own words, in bounded time, without a secret."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fsspec.config import conf

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.storing import object_store, s3
from pipeline.storing.files import Output
from pipeline.storing.upkeep import status, verify
from tests.flows.buckets import client, serve_bucket, serve_trouble

BUCKET = "bucket"
SECRET = "recognisable-secret-key"
SILENT = (0, "")
Trouble = Callable[[str, str], tuple[int, str] | None]
Serve = Callable[[Trouble], list[str]]
VERBS: dict[str, Callable[[Output], object]] = {
    "write": lambda out: out.write_bytes("a", b"x"),
    "list": lambda out: out.list(),
    "look": lambda out: out.exists("a"),
    "read": lambda out: out.read_bytes("a"),
    "fetch": lambda out: out.fetch("a"),
    "delete": lambda out: out.delete("a"),
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with serve_bucket(BUCKET) as env:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        yield env


@pytest.fixture
def store(bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Puts a store of some trouble before the bucket; what it returns fills with what is asked of it."""
    for name, value in {**bucket, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    client(bucket).put_object(Bucket=BUCKET, Key="x/a", Body=b"old")
    with ExitStack() as servers:

        def serve(trouble: Trouble) -> list[str]:
            url, asked = servers.enter_context(serve_trouble(bucket["AWS_ENDPOINT_URL"], trouble))
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            return asked

        yield serve


def fails(verb: str, location: str = f"s3://{BUCKET}/x") -> LabelscoreError:
    """The one line that the verb ends with."""
    with pytest.raises(LabelscoreError) as error:
        VERBS[verb](Output(location))
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    return error.value


ADVICE = [
    (503, "SlowDown", RunError, "asks for slower requests.*run again later"),
    (500, "InternalError", RunError, "is failing.*run again later"),
    (403, "AccessDenied", InputError, "AWS_ACCESS_KEY_ID, AWS_PROFILE.* what they may do"),
    (403, "InvalidAccessKeyId", InputError, "credentials are not those of this store"),
    (403, "SignatureDoesNotMatch", InputError, "credentials are not those of this store"),
    (400, "ExpiredToken", InputError, "expired; renew them"),
    (301, "PermanentRedirect", InputError, "another region.*AWS_DEFAULT_REGION"),
    (400, "AuthorizationHeaderMalformed", InputError, "another region.*AWS_DEFAULT_REGION"),
    (403, "RequestTimeTooSkewed", InputError, "clock is wrong"),
    (418, "Teapot", RunError, "run again"),
]


@pytest.mark.parametrize("verb", ["write", "list"])
def test_the_store_is_quoted_and_it_is_said_what_to_do(
    store: Serve, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Its code and its words, and not what some library makes of them."""
    monkeypatch.setattr(object_store, "REFUSING", 0.1)
    answers: list[tuple[int, str]] = []
    store(lambda method, path: answers[-1])
    out = Output(f"s3://{BUCKET}/x")
    for http_status, code, kind, advice in ADVICE:
        answers.append((http_status, code))
        with pytest.raises(kind, match=f"the store answers {code}.*{advice}"):
            VERBS[verb](out)


def test_a_bucket_that_is_not_there_is_named(store: Serve) -> None:
    """Whatever is tried first: an output in it is not taken for an empty one."""
    out = Output("s3://nobodys/x")
    for verb in VERBS.values():
        with pytest.raises(
            InputError, match=r"s3://nobodys/x: the store answers NoSuchBucket.*make the bucket, or correct"
        ):
            verb(out)


def test_a_footer_that_the_store_does_not_give_is_no_damaged_part(store: Serve, bucket: dict[str, str]) -> None:
    """status and prune say what the store says, and verify does not ask for each of the other parts."""
    parts = [f"store/{'0' * 16}/{number:064x}-1-1.parquet" for number in range(3)]
    for name in parts:
        client(bucket).put_object(Bucket=BUCKET, Key=f"x/{name}", Body=b"PAR1" + bytes(100) + b"PAR1")
    asked = store(lambda method, path: (403, "AccessDenied") if method == "GET" and ".parquet" in path else None)
    out = Output(f"s3://{BUCKET}/x")
    for look in (status, verify):
        asked.clear()
        with pytest.raises(InputError, match=r"the store answers (403|AccessDenied)"):
            print(look(out))
        assert len({line.split()[1] for line in asked if ".parquet" in line}) == 1
    out.delete_all(parts)


def test_the_users_settings_of_fsspec_hold(store: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are for who has none."""
    store(lambda method, path: None)
    monkeypatch.setitem(conf, "s3", {"max_concurrency": 2})
    out = Output(f"s3://{BUCKET}/x")
    out.write_bytes("a", b"new")
    assert out.read_bytes("a") == b"new"


def test_a_refusal_is_no_empty_output(store: Serve) -> None:
    """HEAD answers have no words: a manifest that may not be read is not one that is not there."""
    store(lambda method, path: (403, "AccessDenied") if method == "HEAD" else None)
    assert "403" in str(fails("look"))


def test_what_hides_credentials_is_told(store: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, half of them, a profile that is not there; an address that is none."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "no credentials found" in str(fails("list"))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials found" in str(fails("write"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no credentials found" in str(fails("write"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "Invalid endpoint: nonsense; correct" in str(fails("list"))


def test_requests_that_are_refused_for_a_while_succeed(store: Serve) -> None:
    """Four times 503 in a row: nobody who runs beside others wants a night lost over them."""
    left = dict.fromkeys(("PUT", "GET"), 4)

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        left[method] = left.get(method, 0) - 1
        return (503, "SlowDown") if left[method] >= 0 else None

    store(refuse)
    out = Output(f"s3://{BUCKET}/x")
    out.write_bytes("a", b"new")
    assert out.list() == {"a": 3}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than we have, for the sake of the tests' time."""
    monkeypatch.setattr(s3, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 1.0)


@pytest.mark.parametrize("verb", ["write", "look"])
def test_a_store_that_never_answers_is_given_up(store: Serve, hasty: None, verb: str) -> None:
    """It takes the connection, and then nothing: also where an upload waits to be asked for its bytes."""
    store(lambda method, path: SILENT)
    started = time.monotonic()
    assert "the store did not answer in time" in str(fails(verb))
    assert time.monotonic() - started < 60  # and not for ever


def test_a_store_that_takes_no_bytes_is_given_up(store: Serve, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for them, and then reads none of more than any buffer holds."""
    monkeypatch.setattr(s3, "BYTES_A_SECOND", 1 << 24)
    ready = []
    store(lambda method, path: SILENT if ready or ready.append(path) else None)
    with pytest.raises(RunError, match="did not answer in time"):
        Output(f"s3://{BUCKET}/x").write_bytes("large", bytes(15 << 20))


def test_a_brief_silence_is_survived(store: Serve, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is made once more."""
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 4.0)  # in which a busy machine answers, too
    silent = [SILENT]
    store(lambda method, path: silent.pop() if silent else None)
    out = Output(f"s3://{BUCKET}/x")
    out.write_bytes("a", b"new")
    assert out.read_bytes("a") == b"new"


def test_many_objects_go_with_one_request(store: Serve, bucket: dict[str, str]) -> None:
    """Whatever their names look like, and those that are gone already."""
    asked = store(lambda method, path: None)
    out = Output(f"s3://{BUCKET}/x")
    names = [f"many/[{number}]*" for number in range(12)]
    for name in names:
        client(bucket).put_object(Bucket=BUCKET, Key=f"x/{name}", Body=b"")
    asked.clear()
    out.delete_all([*names, "gone/already"])
    assert asked == [f"POST /{BUCKET}?delete"]
    assert out.list("many") == {}
