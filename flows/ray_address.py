"""Whether a Ray cluster answers where RAY_ADDRESS says, found out before Ray tries.

Invariant: no step of it waits for ever. Ray itself tries for minutes, prints what it does from C++, and may
end the process; where nothing listens, nothing answers, or something that is no Ray, it is never asked.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import InputError

SECONDS_TO_CONNECT = 4.0
SECONDS_TO_ANSWER = 4.0
ADVICE = "start one with 'ray start --head', or unset RAY_ADDRESS"
REFUSED = "it asks for a token"
TOKEN_ADVICE = (
    "set RAY_AUTH_MODE=token here and give this machine the token of the cluster's in ~/.ray/auth_token, or start the "
    "cluster with RAY_AUTH_MODE=disabled"
)


def check_address(address: str, import_ray: Callable[[], Any]) -> None:
    """Raises InputError where no Ray cluster lets us in at the address: HOST:PORT, ray://HOST:PORT, or auto.

    Ray takes seconds to import and is not, where nothing listens.
    """
    if (problem := _problem(address, import_ray)) is not None:
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}: {problem}; {ADVICE}")


def _problem(address: str, import_ray: Callable[[], Any]) -> str | None:
    found = address
    if address == "auto":
        with suppress(Exception):  # what Ray raises where it finds none
            found = import_ray()._private.services.canonicalize_bootstrap_address(address) or ""
        if found in ("auto", ""):
            return "none runs on this machine"
    place = _parse(found)
    if place is None:
        return "that is no address; write HOST:PORT, such as 10.0.0.1:6379, or auto"
    if (problem := _connect(place)) is not None:
        return problem
    import_ray()
    # Who speaks first where RAY_USE_TLS is set is for certificates to say.
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None
    problem = _ask(place, _token(is_auto=address == "auto"), is_client=found.startswith("ray://"))
    if problem == REFUSED:
        raise InputError(f"the Ray cluster at RAY_ADDRESS={address} asks for a token that we lack; {TOKEN_ADVICE}")
    return problem


def _token(*, is_auto: bool) -> tuple[tuple[str, str], ...]:
    """What Ray sends to be let in: nothing, unless RAY_AUTH_MODE says so, or it found the cluster itself."""
    try:
        loader = import_module("ray._raylet").AuthenticationTokenLoader.instance()
    except ImportError:  # of a Ray that knows no tokens
        return ()
    try:
        if loader.has_token(ignore_auth_mode=is_auto and "RAY_AUTH_MODE" not in os.environ):
            return tuple(loader.get_token_for_http_header().items())
    except Exception as error:  # where RAY_AUTH_MODE asks for one that is not there
        raise InputError(f"RAY_AUTH_MODE asks for a token that we lack; {TOKEN_ADVICE}") from error
    return ()


def _connect(place: tuple[str, int]) -> str | None:
    problem: list[str | None] = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection(place, timeout=SECONDS_TO_CONNECT).close()
            problem[0] = None
        except TimeoutError:
            pass
        except (OSError, UnicodeError) as error:
            problem[0] = (error.strerror if isinstance(error, OSError) else None) or str(error)

    # In a thread: looking up the name of a host has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_CONNECT)
    return problem[0]


def _ask(place: tuple[str, int], token: tuple[tuple[str, str], ...], *, is_client: bool) -> str | None:
    """Ask as Ray's own programs do; `is_client`: its server for ray:// addresses, which is another one."""
    grpc = import_module("grpc")
    names = ("gcs_service_pb2", "gcs_service_pb2_grpc", "ray_client_pb2", "ray_client_pb2_grpc")
    gcs, gcs_stubs, client, client_stubs = (import_module(f"ray.core.generated.{name}") for name in names)
    host, port = place
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            if is_client:
                ping = client.ClusterInfoRequest(type=client.ClusterInfoType.PING)
                client_stubs.RayletDriverStub(channel).ClusterInfo(ping, timeout=SECONDS_TO_ANSWER, metadata=token)
            else:
                server = gcs_stubs.NodeInfoGcsServiceStub(channel)
                server.CheckAlive(gcs.CheckAliveRequest(), timeout=SECONDS_TO_ANSWER, metadata=token)
    except grpc.RpcError as error:
        refused = error.code() == grpc.StatusCode.UNAUTHENTICATED
        return REFUSED if refused else "what listens there is no Ray that answers"
    return None


def _parse(address: str) -> tuple[str, int] | None:
    """Host and port; None where there is no host, or no port that can be one."""
    if not address.startswith("ray://"):
        address = f"//{address}"
    with suppress(ValueError):
        parts = urlsplit(address)
        if parts.hostname and parts.port and not (parts.username or parts.query or set(parts.hostname) & set(" /")):
            return parts.hostname, parts.port
    return None
