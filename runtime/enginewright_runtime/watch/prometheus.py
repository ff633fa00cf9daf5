"""A judgement in Prometheus's text format (Prometheus documentation, "Exposition formats", 0.0.4), and its endpoint.

The endpoint is on the loopback interface: what it tells is nobody's business but this machine's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from enginewright_runtime.budget import Verdict
from enginewright_runtime.telemetry import Reading
from enginewright_runtime.watch.rolling import Judgement

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_LIMIT_S = 5.0


def exposition(name: str, judgement: Judgement, reading: Reading) -> str:
    """The page that Prometheus reads; `name` is the bundle's."""
    bundle = {"bundle": name}
    quantiles = {
        f"{float(percent[1:]) / 100:.6g}": value / 1e9
        for percent, value in judgement.latency_ns.items()
        if isinstance(value, (int, float))
    }
    summary = [_sample("enginewright_latency_seconds", {**bundle, "quantile": q}, v) for q, v in quantiles.items()]
    summary.append(_sample("enginewright_latency_seconds_sum", bundle, judgement.elapsed_total_ns / 1e9))
    summary.append(_sample("enginewright_latency_seconds_count", bundle, judgement.calls_total))
    limits = [({**bundle, "budget": one.name}, one.limit / 1e3) for one in judgement.findings]
    verdicts = [
        ({**bundle, "budget": one.name, "verdict": verdict.value}, float(one.verdict is verdict))
        for one in judgement.findings
        for verdict in Verdict
    ]
    families = [
        ("enginewright_latency_seconds", "summary", "latency of the calls in the window", summary),
        _family("enginewright_failures_total", "counter", "calls that raised", [(bundle, judgement.failures_total)]),
        _family("enginewright_window_calls", "gauge", "calls in the window", [(bundle, judgement.calls)]),
        _family("enginewright_budget_seconds", "gauge", "the limit of a latency", limits),
        _family("enginewright_budget_verdict", "gauge", "1 at the verdict on a budget", verdicts),
        _family("enginewright_judged_timestamp_seconds", "gauge", "when", [(bundle, judgement.at_s)]),
        *_sensor_families(reading),
    ]
    return "".join(
        f"# HELP {family} {words}\n# TYPE {family} {kind}\n{''.join(samples)}"
        for family, kind, words, samples in families
        if samples
    )


def serve(page: Page, listening: socket.socket) -> ThreadingHTTPServer:
    """Serve a page at /metrics to whoever connects to a listening socket, from a thread; `shutdown` ends it."""

    class Handler(_Handler):
        shown = page

    server = ThreadingHTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Page:
    """The text that is served now."""

    def __init__(self) -> None:
        self.text = ""


class _Handler(BaseHTTPRequestHandler):
    shown: Page
    timeout = _REQUEST_LIMIT_S

    def do_GET(self) -> None:
        """Answer /metrics, and nothing else."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = self.shown.text.encode("utf-8")
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for every scrape would bury what matters."""


def _sensor_families(reading: Reading) -> list[tuple[str, str, str, list[str]]]:
    def each(figures: Mapping[str, float], label: str, scale: float = 1.0) -> list[tuple[dict[str, str], float]]:
        return [({label: name}, value * scale) for name, value in figures.items()]

    held_back = [({"reason": reason}, 1.0) for reason in reading.held_back_by]
    return [
        _family("enginewright_temperature_celsius", "gauge", "temperature", each(reading.temperatures_c, "sensor")),
        _family("enginewright_clock_hertz", "gauge", "clock", each(reading.clocks_mhz, "clock", 1e6)),
        _family("enginewright_power_watts", "gauge", "power", each(reading.power_w, "rail")),
        _family("enginewright_throttles_total", "counter", "throttling events", each(reading.throttles, "cause")),
        _family("enginewright_held_back", "gauge", "1 while clocks are held back", held_back),
    ]


def _family(
    name: str, kind: str, words: str, samples: Iterable[tuple[Mapping[str, str], float]]
) -> tuple[str, str, str, list[str]]:
    return name, kind, words, [_sample(name, labels, value) for labels, value in samples]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{written}}} {value:.12g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
