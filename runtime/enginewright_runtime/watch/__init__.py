"""A rolling latency guard beside an application.

>>> import enginewright_runtime
>>> from enginewright_runtime.watch import Watch
>>> with enginewright_runtime.open("signs-cpu.ewb") as session:  # doctest: +SKIP
...     with Watch(session.manifest.budget, lines="watch.jsonl", port=9464) as watch:
...         run = watch.observed(session.run)
...         outputs = run({"image": image})
"""

from __future__ import annotations

from enginewright_runtime.watch.watch import Watch

__all__ = ["Watch"]
