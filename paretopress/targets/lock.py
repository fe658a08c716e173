"""One measurement at a time on a machine, and no training beside it.

Two locks are held, each at a place that no TMPDIR moves. The private one lies in a folder that this user alone can write to, so nobody
else can block it; processes of this user wait for it as long as it takes. The shared one can be locked by every user of the machine, and
could be held or spoilt by any of them: it is waited for only so long, and where it is blocked, work goes on without it, with a warning.

It is flock and not filelock, because a device has only numpy and onnxruntime. The kernel lets go of a lock when its process ends, however
it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# not tempfile's: jobs whose TMPDIRs differ, as batch systems hand them out, still time on the same cores
SHARED_FOLDER = Path("/tmp")
# a measurement takes seconds, of a slow model minutes; an attacker's patience must not cost a run more than this
PATIENCE_S = 120.0
_LOOK_AGAIN_S = 0.01
_ATTEMPTS = 5
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_logger = logging.getLogger("paretopress")
_said: set[str] = set()
_given_up: set[Path] = set()  # shared locks that were waited for in vain; they are only tried from then on


def lock_file(name: str = "measuring") -> Path | None:
    """Return the file that this user's processes on this machine lock, None where no folder is this user's alone."""
    folder = private_folder()
    return None if folder is None else folder / f"{name}.lock"


def private_folder() -> Path | None:
    """Return the first folder that this user alone can write to, made where it is missing; None if there is none.

    Those of the machine come first: a home can be another machine's disk. Another user can make a folder of that name in /tmp before us,
    but not one that is ours.
    """
    uid = os.getuid()
    places = [Path(f"/run/user/{uid}/paretopress"), Path(f"/tmp/paretopress-{uid}"), Path(f"/var/tmp/paretopress-{uid}")]
    with contextlib.suppress(KeyError):  # a container's user may have no entry
        places.append(Path(pwd.getpwuid(uid).pw_dir, ".cache", "paretopress", f"locks-{platform.node()}"))
    return next((place for place in places if _is_private(place, uid)), None)


@contextmanager
def sole_measurement() -> Iterator[None]:
    """Hold this machine for a measurement; waits while another process measures, or finishes a step of training.

    The machine that is timed holds the lock, not the one that asks: a worker here, an agent of this host and one of another exclude
    each other.
    """
    deadline = time.monotonic() + PATIENCE_S
    with _held("gate", fcntl.LOCK_EX, deadline), _held("measuring", fcntl.LOCK_EX, deadline):
        yield


@contextmanager
def no_measurement() -> Iterator[None]:
    """Run a step of heavy work while nothing is measured on this machine; many processes can do so at once.

    Each step passes a gate that a waiting measurement shuts, so that steps that follow one another closely cannot keep it waiting.
    """
    deadline = time.monotonic() + PATIENCE_S
    with ExitStack() as held:
        with _held("gate", fcntl.LOCK_SH, deadline):
            held.enter_context(_held("measuring", fcntl.LOCK_SH, deadline))
        yield


@contextmanager
def _held(name: str, kind: int, deadline: float) -> Iterator[None]:
    """Hold the private and the shared lock of a name, as far as they can be had."""
    with ExitStack() as held:
        path, shared = lock_file(name), SHARED_FOLDER / f"paretopress-{name}.lock"
        if path is None:
            _say("no folder is this user's alone, so other jobs of this user may measure at the same time")
        else:
            descriptor = _locked(path, _opened_private, lambda descriptor: fcntl.flock(descriptor, kind))
            if descriptor is not None:
                held.callback(os.close, descriptor)
        descriptor = _locked(shared, _opened_shared, lambda descriptor: _flock_until(descriptor, kind, shared, deadline))
        if descriptor is not None:
            held.callback(os.close, descriptor)
        yield


def _locked(path: Path, opened: Callable[[Path], int], lock: Callable[[int], None]) -> int | None:
    """Return the descriptor of a lock that is held; None, with a warning, where it is blocked."""
    try:
        for _ in range(_ATTEMPTS):
            descriptor = opened(path)
            try:
                lock(descriptor)
                if _is_still(path, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # removed meanwhile, as a folder for temporary files is tidied: others lock the new one
        raise FileNotFoundError(None, "a file that is removed again and again")
    except OSError as error:
        _say(f"the lock {path} is blocked ({error.strerror or error}), so others may measure at the same time")
        return None


def _opened_private(path: Path) -> int:
    try:
        return os.open(path, _READ | os.O_CREAT, 0o600)
    except IsADirectoryError:  # it can be locked as well
        return os.open(path, _READ)


def _opened_shared(path: Path) -> int:
    """Return a descriptor of a file of whichever user came first; reading is enough to lock it."""
    try:
        descriptor = os.open(path, _READ)  # not with O_CREAT: Linux refuses that for another's file in a sticky folder
    except FileNotFoundError:
        try:
            descriptor = os.open(path, _READ | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(descriptor, 0o644)  # whatever the umask says
        except FileExistsError:
            descriptor = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a file")
    return descriptor


def _flock_until(descriptor: int, kind: int, path: Path, deadline: float) -> None:
    """Lock a file that any user may hold; raises TimeoutError at the deadline, and from then on where it is not free at once."""
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if path in _given_up or time.monotonic() >= deadline:
                _given_up.add(path)
                raise TimeoutError(None, f"held by another for more than {PATIENCE_S:.0f} s") from None
            time.sleep(_LOOK_AGAIN_S)
        else:
            _given_up.discard(path)
            return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _is_private(place: Path, uid: int) -> bool:
    """Return whether a folder, made where it is missing, is this user's, and nobody else can write to it or read it."""
    try:
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700, parents=".cache" in place.parts)
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not stat.S_IMODE(found.st_mode) & 0o077


def _say(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        _logger.warning("paretopress: %s", reason)
