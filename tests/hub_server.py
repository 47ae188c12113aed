"""A small hub on loopback: enough of its protocol for `datasets`, `transformers` and `huggingface_hub`.

It keeps repositories in memory, with commits and gates, sends large files by way of a second host as the real hub's
CDN, logs every request, and fails on demand. Use it as a context manager, and point a process at it with `env()`:

    with HubServer() as hub:
        hub.put("dataset", "fancyzhx/ag_news", ag_news_files())
        subprocess.run([...], env=hub.env(cache=tmp_path))
        hub.fault("/resolve/", status=500, times=2)
"""

import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

LARGE_SUFFIXES = (".parquet", ".safetensors", ".bin")  # kept in LFS on the real hub, served from another host


@dataclass
class Repo:
    """A repository: its commits (hash -> files), where its branches point, and whether it is behind a licence."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    readers: set[str] = field(default_factory=set)  # tokens that accepted the licence


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    token: str | None
    range: str | None
    status: int


@dataclass
class Fault:
    """What to do to the next `times` requests whose method and path match."""

    pattern: str
    method: str
    times: int
    status: int | None
    headers: Mapping[str, str]
    cut_after: int | None  # bytes of the body sent before the connection is cut


class HubServer:
    """The server and its state; changes apply to the next request."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens: set[str] = set()  # tokens of people who have an account
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    @property
    def cdn(self) -> str:
        """The same server under another host name, as large files lie elsewhere on the real hub."""
        return f"http://localhost:{self.http.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def put(
        self, kind: str, name: str, files: Mapping[str, bytes], *, gated: bool = False, branch: str = "main"
    ) -> str:
        """Make `files` the newest commit of a repository's branch; returns the commit."""
        repo = self.repos.setdefault((kind, name), Repo())
        repo.gated = gated
        listing = json.dumps({path: hashlib.sha1(data).hexdigest() for path, data in sorted(files.items())})
        commit = hashlib.sha1(listing.encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs[branch] = commit
        return commit

    def accept_licence(self, kind: str, name: str, token: str) -> None:
        """Let a token read a gated repository."""
        self.tokens.add(token)
        self.repos[kind, name].readers.add(token)

    def fault(
        self,
        pattern: str,
        *,
        status: int | None = None,
        cut_after: int | None = None,
        times: int = 1,
        method: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests that match with `status`, or cut their bodies short."""
        self.faults.append(Fault(pattern, method, times, status, headers or {}, cut_after))

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, path) and fault.method in ("", method):
                    fault.times -= 1
                    return fault
        return None

    def downloads(self) -> list[str]:
        """Paths of the files whose contents were sent, in order."""
        return [r.path for r in self.requests if r.method == "GET" and r.status in (200, 206) and "/api/" not in r.path]

    def env(self, cache: Path, **more: str) -> dict[str, str]:
        """The environment of a process that knows this hub only and keeps what it fetches in `cache`."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        return mine | {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"} | more


class _Refusal(Exception):
    """An answer that is an error, with the real hub's codes."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    fault: Fault | None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen: the log is `HubServer.requests`."""

    def do_HEAD(self) -> None:
        self.handle_request()

    def do_GET(self) -> None:
        self.handle_request()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.handle_request()

    def handle_request(self) -> None:
        self.fault = self.hub.next_fault(self.command, self.path)
        try:
            if self.fault is not None and self.fault.status is not None:
                raise _Refusal(self.fault.status, "", "made to fail", self.fault.headers)
            self.send(*self.answer(unquote(urlsplit(self.path).path)))
        except _Refusal as refusal:
            known = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers = {"X-Error-Message": refusal.message, **known, **refusal.headers}
            self.send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a path."""
        if path.startswith("/cdn/"):
            return self.blob(path.removeprefix("/cdn/"))
        if found := re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?", path
        ):
            body = self.describe(found[1].removesuffix("s"), found[2], found[3], found[4] or "main", found[5] or "")
            return 200, json.dumps(body).encode(), {}
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file("dataset" if found[1] else "model", found[2], found[3], found[4])
        raise _Refusal(404, "", "no such page")

    def describe(self, kind: str, name: str, what: str | None, revision: str, folder: str) -> object:
        """What the API says of a repository: its files, some of them, or itself."""
        repo, commit = self.find(kind, name, revision)
        files = repo.commits[commit]
        if what == "tree":
            is_deep = parse_qs(urlsplit(self.path).query).get("recursive", ["true"])[0].lower() in ("true", "1")
            return _tree(files, f"{folder}/" if folder else "", is_deep=is_deep)
        if what == "paths-info":
            paths = parse_qs(self.body.decode()).get("paths") or json.loads(self.body or b"{}").get("paths", [])
            return [_entry(path, files[path]) for path in paths if path in files]
        return {
            "id": name,
            "sha": commit,
            "private": False,
            "gated": "manual" if repo.gated else False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in files],
        }

    def find(self, kind: str, name: str, revision: str) -> tuple[Repo, str]:
        """The repository and commit asked for."""
        repo = self.hub.repos.get((kind, name))
        if self.token is not None and self.token not in self.hub.tokens:
            raise _Refusal(401, "", "Invalid credentials in Authorization header")
        if repo is None:  # to strangers the real hub does not tell apart what is private and what is not there
            raise _Refusal(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def file(self, kind: str, name: str, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        """A small file itself; for a large one, where it lies."""
        repo, commit = self.find(kind, name, revision)
        if repo.gated and self.token not in repo.readers:
            status = 401 if self.token is None else 403
            raise _Refusal(status, "GatedRepo", f"Access to {kind} {name} is restricted")
        data = repo.commits[commit].get(path)
        if data is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(data)}"'}
        if not path.endswith(LARGE_SUFFIXES):
            return 200, data, headers
        sha256 = hashlib.sha256(data).hexdigest()
        place = f"{self.hub.cdn}/cdn/{quote(path)}/{sha256}"
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "Location": place}
        return 302, b"", headers

    def blob(self, place: str) -> tuple[int, bytes, dict[str, str]]:
        """A large file, by path and hash."""
        path, sha256 = place.rsplit("/", 1)
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                if path in files and hashlib.sha256(files[path]).hexdigest() == sha256:
                    return 200, files[path], {"ETag": f'"{sha256}"'}
        raise _Refusal(404, "", "no such blob")

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        whole, extra = len(data), dict(headers)
        if status == 200 and asked:
            start, stop = int(asked[1]), int(asked[2] or whole - 1) + 1
            data, status = data[start:stop], 206
            extra["Content-Range"] = f"bytes {start}-{min(stop, whole) - 1}/{whole}"
        self.hub.requests.append(Request(self.command, self.path, self.token, self.headers.get("Range"), status))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **extra}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.cut_after is not None:
            data = data[: self.fault.cut_after]
            self.close_connection = True
        self.wfile.write(data)


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _tree(files: Mapping[str, bytes], folder: str, *, is_deep: bool) -> list[dict[str, Any]]:
    """The files of a folder, and where it `is_deep` of those in it; else these as folders."""
    inside = {path: data for path, data in files.items() if path.startswith(folder)}
    if folder and not inside:
        raise _Refusal(404, "EntryNotFound", "Entry not found")
    shallow = {path: data for path, data in inside.items() if is_deep or "/" not in path[len(folder) :]}
    below = sorted({folder + path[len(folder) :].split("/")[0] for path in inside.keys() - shallow.keys()})
    folders = [{"type": "directory", "path": path, "size": 0, "oid": _blob_id(path.encode())} for path in below]
    return [*folders, *(_entry(path, data) for path, data in shallow.items())]


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
    if path.endswith(LARGE_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def connect(monkeypatch: Any, hub: HubServer, cache: Path) -> None:
    """Make this process use `hub`, keep what it fetches in `cache`, and forget the user's own token.

    huggingface_hub reads its environment once, when imported; a process of one's own needs only `HubServer.env`.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


# What to put on it

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': World
          '1': Sports
          '2': Business
          '3': Sci/Tech
  splits:
  - name: train
    num_bytes: 1000
    num_examples: {num_train}
  - name: test
    num_bytes: 1000
    num_examples: {num_test}
  download_size: 2000
  dataset_size: 2000
---
# A tiny stand-in
"""


def ag_news_files(num_train: int = 8, num_test: int = 12) -> dict[str, bytes]:
    """A data set in the form of AG News: a card with class names, and one Parquet file for each of two splits."""
    files = {"README.md": _CARD.format(num_train=num_train, num_test=num_test).encode(), ".gitattributes": b""}
    for split, num_rows in (("train", num_train), ("test", num_test)):
        texts = [f"{CLASSES[i % 4]} news number {i} of the {split} split" for i in range(num_rows)]
        table = pa.table({"text": texts, "label": pa.array([i % 4 for i in range(num_rows)], pa.int64())})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        files[f"data/{split}-00000-of-00001.parquet"] = sink.getvalue()
    return files


def sciq_files(num: int = 9) -> dict[str, bytes]:
    """A data set in the columns of SciQ, with words of our own."""
    names = ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support")
    return _splits(
        "default", "data", {split: [{n: f"{n} {i} of {split}" for n in names} for i in range(num)] for split in _SPLITS}
    )


def arc_files(num: int = 7) -> dict[str, bytes]:
    """A data set in the columns and the configuration of ARC-Easy, with words of our own; four choices or three."""
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    for split in _SPLITS:
        for i in range(num):
            labels = "ABCD"[: 3 + i % 2]
            choices = {"text": [f"choice {label} of {i}" for label in labels], "label": list(labels)}
            rows[split].append({"question": f"What is {i} in {split}?", "choices": choices, "answerKey": labels[i % 3]})
    return _splits("ARC-Easy", "ARC-Easy", rows)


_SPLITS = ("train", "validation", "test")


def _splits(config: str, folder: str, rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, bytes]:
    """A card that names a configuration's splits, and a Parquet file for each."""
    listed = "".join(f"  - split: {split}\n    path: {folder}/{split}-*\n" for split in rows)
    found = {"README.md": f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{listed}---\n".encode()}
    for split, each in rows.items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(each), sink)
        found[f"{folder}/{split}-00000-of-00001.parquet"] = sink.getvalue()
    return found


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a directory (a model that save_pretrained wrote, say) as a repository's."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def save_tiny_gemma(folder: Path, seed: int = 0) -> Path:
    """A random Gemma of a few thousand weights with a byte-level tokenizer, saved in `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    config = GemmaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    GemmaForCausalLM(config).save_pretrained(folder)
    return folder
