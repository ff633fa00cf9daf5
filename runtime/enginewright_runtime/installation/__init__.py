"""Installing bundles on a vehicle so that what an application opens is always a whole bundle that passed its test.

>>> from pathlib import Path
>>> from enginewright_runtime.installation import install, open_installed
>>> install(Path("signs-cpu.ewb"), Path("/opt/signs"))  # doctest: +SKIP
>>> with open_installed("/opt/signs") as session:  # doctest: +SKIP
...     outputs = session.run({"image": image})
"""

from __future__ import annotations

from enginewright_runtime.installation.installed import Health, health, open_installed, read_installed
from enginewright_runtime.installation.installing import Installation, install, rollback
from enginewright_runtime.installation.root import Installed, Refused, Root, State

__all__ = [
    "Health",
    "Installation",
    "Installed",
    "Refused",
    "Root",
    "State",
    "health",
    "install",
    "open_installed",
    "read_installed",
    "rollback",
]
