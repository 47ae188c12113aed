"""The files of an output: a local directory, or an object store behind a local working copy.

Invariant: a file that exists under its name is complete. Local files are written aside, synced and renamed; remote ones
are one PUT (one completed upload), which is atomic on an object store. Names are relative and cannot leave the output.
What is removed unasked has a name or a content that only we give: a user's files may lie beside an output's.
"""

import copy
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.storing import object_store
from pipeline.storing.layout import CURRENT, FOLDER, PLAN, RUN_FOLDER, RUNS
from pipeline.storing.roots import refuse_outside
from pipeline.storing.sealed import is_sealed

TEMPORARY = ".tmp-"  # prefix of files being written; the next holder of the lock removes what a killed process left
WORK = ".labelscore-work"  # scratch files of the running process, never part of the output
LOCK = ".labelscore.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without them answers
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


def hash_bytes(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a file, in words, and what was done or is to be done about it."""

    name: str
    problem: str
    action: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}; {self.action}"


class Output:
    """One output location. `root` is the local directory that holds it, or mirrors it where `remote` is set.

    Small and picklable: workers on other machines get it, with a mirror of their own there.
    Raises InputError where the location cannot be used, RunError where it fails later.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        scheme, separator, rest = str(location).partition("://")
        self.location = str(location).rstrip("/") if separator else str(location)
        self.remote: Any = None
        self._base = ""
        self._made: list[Path] = []  # folders that are there because of us
        if not str(location):
            raise InputError("the name of the output is empty; give a directory or a URL")
        if create:
            refuse_outside(self.location)
        if not separator or scheme == "file":
            self.root = Path(rest if separator else location)
        else:
            self.remote, self._base = object_store.open_store(scheme, self.location)
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            self.root = cache / "labelscore" / hash_bytes(self.location.encode())[:16]
        if create or self.remote:
            self._create()
        elif not self.root.is_dir():
            raise InputError(f"{self.location}: no such output directory; give the --out of an earlier run")
        elif self.root.is_symlink():
            self.root = self.root.resolve()  # who reads `current` stays in the run that it leads to now

    def _create(self) -> None:
        _check_folder(self.root, self.location)
        try:
            self._made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # nothing has run yet: whatever it is, the place is wrong
            raise InputError(f"cannot create {self.location}: {error}; choose another --out") from error

    def __str__(self) -> str:
        return self.location

    def inside(self, folder: str) -> "Output":
        """A folder of this output as an output of its own, in which names are relative to it; "" is all of it."""
        inner = copy.copy(self)
        if folder:
            inner.root, inner.location = self.path(folder), f"{self.location}/{folder}"
            inner._base = self._url(folder) if self.remote else ""
        return inner

    def path(self, name: str) -> Path:
        """Where the file called `name` lies locally (remote outputs: its mirror, which may be absent or old)."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise InputError(f"{self.location}: '{name}' is no name inside the output")
        return self.root.joinpath(*parts)

    @property
    def work(self) -> Path:
        """A local folder for scratch files; gone once the lock is let go, or taken again after a kill."""
        folder = self.path(WORK)
        with self.explain_errors("create a work folder in"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    # Reading

    def list(self, folder: str = "") -> dict[str, int]:
        """Names (relative to the output) and sizes in bytes of all complete files in `folder`, sorted by name."""
        with self.explain_errors("list"):
            found = self._list_remote(folder) if self.remote else _list_local(self.root, folder)
        return {
            name: size
            for name, size in sorted(found.items())
            if name.partition("/")[0] not in (WORK, LOCK, CURRENT)
            and not PurePosixPath(name).name.startswith(TEMPORARY)
        }

    def exists(self, name: str) -> bool:
        with self.explain_errors(f"look for {name} in"):
            if self.remote:
                return self._is_object(self._url(name))
            return self.path(name).is_file()

    def read_bytes(self, name: str) -> bytes:
        """The file's content, from the object store itself where the output is remote."""
        with self.explain_errors(f"read {name} from"):
            return bytes(self._ask("cat_file", self._url(name))) if self.remote else self.path(name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        """The file for reading some of it, without a whole copy of a remote one."""
        with self.explain_errors(f"read {name} from"):
            return cast(IO[bytes], self._ask("open", self._url(name))) if self.remote else self.path(name).open("rb")

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """A local copy of the file. With `sha256`, a mirrored copy of that content is good without a download."""
        path = self.path(name)
        if self.remote and not (sha256 and path.is_file() and hash_file(path) == sha256):
            with self.explain_errors(f"fetch {name} from"), aside(path) as temporary:
                self._ask("get_file", self._url(name), str(temporary))
        return path

    # Writing

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path to write to; on leaving without an error it becomes `name`, complete and synced."""
        path = self.path(name)
        with self.explain_errors(f"write {name} to"), aside(path) as temporary:
            yield temporary
            _sync(temporary)
            if self.remote:
                self._ask("put_file", str(temporary), self._url(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        with self.writing(name) as temporary:
            temporary.write_bytes(data)

    def copy(self, name: str, source: Path) -> None:
        """Copy a local file into the output."""
        with self.writing(name) as temporary:
            shutil.copyfile(source, temporary)

    def link(self, name: str, target: "Output", target_name: str) -> None:
        """Put the same file into another folder of this output: a hard link, or a copy where there is none.

        Only for files that are replaced whole and never written into.
        """
        path = target.path(target_name)
        with self.explain_errors(f"write {target_name} to"):
            if self.remote:
                self._ask("cp_file", self._url(name), target._url(target_name))
                path.unlink(missing_ok=True)
                return
            with aside(path) as temporary:
                try:
                    temporary.hardlink_to(self.path(name))
                except OSError:  # a file system without links, or too many of them
                    shutil.copyfile(self.path(name), temporary)
                    _sync(temporary)

    def point(self, name: str, target: str) -> bool:
        """Let `name` be a symbolic link to `target`, a path as seen from the link, in place of what it was.

        Returns False, and changes nothing, where the file system has no such links.
        """
        with self.explain_errors(f"write {name} to"):
            try:
                with aside(self.path(name)) as temporary:
                    temporary.symlink_to(target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return False
        return True

    def delete(self, name: str) -> None:
        """Remove a file, and its folders when that was the last one; nothing happens where it is gone already."""
        self.delete_all([name])

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove files, on an object store many with one request."""
        paths = [self.path(name) for name in names]
        with self.explain_errors(f"delete {names[0] if len(names) == 1 else f'{len(names)} files'} from"):
            if self.remote:
                object_store.remove(self.remote, [self._url(name) for name in names])
            for path in paths:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    for folder in path.parents:
                        if folder == self.root:
                            break
                        folder.rmdir()

    def move(self, name: str, target: str) -> str:
        """Rename a file inside the output, never over another one: a free variant of `target` is taken and returned."""
        free, number = target, 1
        while self.exists(free):
            number += 1
            free = f"{target}-{number}"
        with self.explain_errors(f"move {name} inside"):
            if self.remote:
                self._ask("cp_file", self._url(name), self._url(free))
                object_store.remove(self.remote, [self._url(name)])
                self.path(name).unlink(missing_ok=True)
            else:
                self.path(free).parent.mkdir(parents=True, exist_ok=True)
                self.path(name).rename(self.path(free))
        return free

    # One run at a time

    @contextmanager
    def lock(self, on_wait: Callable[[str], None], *, looks_only: bool = False) -> Iterator[None]:
        """Hold the output's lock; where another process has it, call `on_wait` once with a line for people and wait.

        It is an flock, so the kernel frees it when its holder dies, however that happens. Remote outputs are locked on
        this machine only. On entry what killed processes left unfinished is removed, on leaving the scratch files; a
        holder that stores nothing, because its input was wrong, leaves no trace, and takes along the plans of others
        that had stored nothing; not so one that `looks_only`.
        """
        refuse_outside(self.location)
        with ExitStack() as held:
            while not self._take_lock(held, on_wait):
                held.close()
            self._clean()
            try:
                yield
            finally:
                shutil.rmtree(self.path(WORK), ignore_errors=True)
                with suppress(OSError):
                    self._withdraw(keeps_plans=looks_only)

    def _take_lock(self, held: ExitStack, on_wait: Callable[[str], None]) -> bool:
        """Wait for the lock; False where the holder until now left nothing, and took the lock's file with it."""
        with self.explain_errors("lock"):
            self.root.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(self.path(LOCK).open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait(f"{self.location} is in use by {_holder(file)}; waiting for it to finish")
                fcntl.flock(file, fcntl.LOCK_EX)
            held.callback(fcntl.flock, file, fcntl.LOCK_UN)  # closing is not enough where a forked child has the file
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")}))
            file.flush()
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self.path(LOCK).stat())
        return False

    def _withdraw(self, *, keeps_plans: bool) -> None:
        """Take away the lock, our plans and the folders made for them, where nothing was ever stored."""
        store = self.path("store")
        folders = [folder for folder in store.glob("*") if FOLDER.fullmatch(folder.name)]
        plans = [plan for folder in folders if (plan := folder / PLAN).is_file() and is_sealed(plan.read_bytes())]
        if (store / "set-aside").exists() or any(any(folder.glob("*.parquet")) for folder in folders):
            return
        if plans and keeps_plans:
            return
        for plan in plans:
            plan.unlink()
        for folder in [*folders, *([store] if folders else [])]:
            with suppress(OSError):  # not empty: something of the user's is in it
                folder.rmdir()
        self.path(LOCK).unlink()
        for folder in self._made:
            folder.rmdir()

    def _clean(self) -> None:
        shutil.rmtree(self.path(WORK), ignore_errors=True)
        # Only names that `aside` makes, where it makes them.
        for folder in ("", "scores/", "report/", "store/", "store/*/", f"{RUNS}/*/", f"{RUNS}/*/*/"):
            for leftover in self.root.glob(f"{folder}{TEMPORARY}[0-9]*-{'[0-9a-f]' * 16}"):
                within = leftover.relative_to(self.root).as_posix()
                if not within.startswith(f"{RUNS}/") or RUN_FOLDER.match(within):  # else another output's
                    leftover.unlink(missing_ok=True)

    # Remote names and what went wrong

    def _url(self, name: str) -> str:
        self.path(name)  # refuses names that leave the output
        return f"{self._base}/{name}"

    def _ask(self, verb: str, *arguments: str, **options: Any) -> Any:
        return object_store.ask(self.remote, verb, *arguments, **options)

    def _is_object(self, url: str) -> bool:
        try:
            return bool(self._ask("info", url)["type"] == "file")
        except FileNotFoundError as error:
            if object_store.is_missing(error):
                return False
            raise

    def _list_remote(self, folder: str) -> dict[str, int]:
        above = f"{self._base}/{folder}".rstrip("/")
        found = self._ask("find", above, detail=True)
        # Where nothing is below, what is asked for is looked up by itself: by then another machine may have made it.
        files = {name: info for name, info in found.items() if info["type"] == "file" and name.startswith(f"{above}/")}
        return {name.removeprefix(f"{self._base}/"): int(info["size"]) for name, info in files.items()}

    @contextmanager
    def explain_errors(self, doing: str) -> Iterator[None]:
        """Turn what the file system or the object store raises into one line for the user."""
        try:
            yield
        except LabelscoreError:
            raise
        except Exception as error:
            what = f"cannot {doing} {self.location}"
            if self.remote and (explained := object_store.explain(error, what)):
                raise explained from error
            if not isinstance(error, OSError):
                raise
            raise _explain(error, what) from error


def is_gone(error: LabelscoreError) -> bool:
    """Whether an output's file was not there: where no lock keeps others away, they may have removed it meanwhile."""
    return isinstance(error.__cause__, FileNotFoundError)


def check_location(location: str) -> Output | None:
    """The output that is there, None where there is none yet or an object store would have to be asked.

    Makes nothing: a run beside this one may be making the same folders. Raises InputError for an unusable location, and
    for one where outputs may not lie.
    """
    refuse_outside(location)
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        object_store.open_store(scheme, location)
        return None
    root = Path(rest if separator else location)
    _check_folder(root, location)
    return Output(location, create=False) if root.is_dir() else None


def _check_folder(root: Path, location: str) -> None:
    """Raise InputError where the folder cannot be made or written into."""
    try:
        there = next((folder for folder in (root, *root.parents) if folder.exists() or folder.is_symlink()), root)
        if there.is_symlink() and not there.exists():
            raise InputError(f"{there} is a link to nothing; make the directory it points to, or choose another --out")
        reason = "" if there.is_dir() else f"{there} is no directory"
        if not reason and not os.access(there, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(there).f_flag & os.ST_RDONLY
            reason = f"{there}: {os.strerror(errno.EROFS if is_read_only else errno.EACCES)}"
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
    if reason:
        raise InputError(f"cannot create {location}: {reason}; choose another --out")


def _explain(error: OSError, what: str) -> LabelscoreError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return RunError(f"{what}: {reason}; free some space and run again, what is finished is kept")
    if error.errno in _DENIED or isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        return InputError(f"{what}: {reason}; choose another --out or change its permissions")
    return RunError(f"{what}: {reason}; run again, what is finished is kept")


def _holder(file: IO[str]) -> str:
    """Who holds the lock, from what the holder wrote into its file for people."""
    try:
        file.seek(0)
        holder = json.loads(file.read())
        return f"process {int(holder['pid'])} (since {holder['started']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is renamed to it on success and removed on any failure."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        yield temporary
        temporary.replace(path)
        for folder in (path.parent, *(folder.parent for folder in made)):
            _sync(folder)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_local(root: Path, folder: str) -> dict[str, int]:
    found = {}
    for path in (root / folder).rglob("*"):
        with suppress(FileNotFoundError):  # another process may rename or remove it while we look
            if not path.is_dir():
                found[path.relative_to(root).as_posix()] = path.lstat().st_size
    return found
