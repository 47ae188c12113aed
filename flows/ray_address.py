"""Whether a Ray cluster answers where RAY_ADDRESS says, found out before Ray tries.

Invariant: an answer comes within SECONDS_TO_ANSWER. Ray itself tries for minutes, prints what it does from C++, and may
end the process; where nothing listens, nothing answers, or something that is no Ray, it is never asked.
"""

import os
import socket
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import InputError

SECONDS_TO_ANSWER = 8.0
ADVICE = "start one with 'ray start --head', or unset RAY_ADDRESS"


def check_address(ray: Any, address: str) -> None:
    """Raises InputError where no Ray cluster answers at the address: HOST:PORT, ray://HOST:PORT, or auto."""
    problem: list[str | None] = [f"no answer in {SECONDS_TO_ANSWER:.0f} seconds"]

    def look() -> None:
        problem[0] = _problem(ray, address)

    # In a thread: looking up the name of a host has no time limit of its own.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    if problem[0] is not None:
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}: {problem[0]}; {ADVICE}")


def _problem(ray: Any, address: str) -> str | None:
    if address == "auto":
        try:
            found = ray._private.services.canonicalize_bootstrap_address(address)
        except Exception:
            found = None
        if not found:
            return "none runs on this machine"
        address = found
    place, is_client = _parse(address), address.startswith("ray://")
    if place is None:
        return "that is no address; write HOST:PORT, such as 10.0.0.1:6379, or auto"
    try:
        socket.create_connection(place, timeout=SECONDS_TO_ANSWER / 2).close()
        # Who speaks first where RAY_USE_TLS is set is for certificates to say.
        return None if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") else _ask(place, is_client)
    except TimeoutError:
        return "no answer"
    except (OSError, UnicodeError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _ask(place: tuple[str, int], is_client: bool) -> str | None:
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
                client_stubs.RayletDriverStub(channel).ClusterInfo(ping, timeout=SECONDS_TO_ANSWER / 2)
            else:
                server = gcs_stubs.NodeInfoGcsServiceStub(channel)
                server.CheckAlive(gcs.CheckAliveRequest(), timeout=SECONDS_TO_ANSWER / 2)
    except grpc.RpcError as error:
        # A Ray that wants a token is one; whether we have it is for Ray to say.
        return None if error.code() == grpc.StatusCode.UNAUTHENTICATED else "what listens there is no Ray that answers"
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
