"""Small JSON files that carry a hash of themselves, so that one changed bit in them is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def seal(values: Mapping[str, Any]) -> bytes:
    """The values as JSON with their hash under "sha256"; equal values give equal bytes."""
    body = {name: value for name, value in values.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(body, ensure_ascii=True, allow_nan=False).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1, ensure_ascii=True) + "\n").encode()


def unseal(data: bytes) -> dict[str, Any]:
    """What `seal` was given. Raises ValueError when a single byte differs from what it wrote."""
    values = json.loads(data)
    if not isinstance(values, dict) or seal(values) != data:
        raise ValueError("its content does not have the hash it carries")
    return {name: value for name, value in values.items() if name != "sha256"}


def is_sealed(data: bytes) -> bool:
    """Whether `seal` wrote these bytes."""
    try:
        unseal(data)
    except ValueError:
        return False
    return True
