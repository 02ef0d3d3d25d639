"""What prometheus-nats-exporter would tell of a server: the real one is not to be had here.

The figures are a real server's. Names and labels are those of the exporter with `-varz -jsz=all
-prefix=nats`, as the Helm chart of NATS starts it, by its source (collector/collector.go and
collector/jsz.go, September 2026); what the dashboards do not ask for is left out.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, Self

from processes import get

Labels = dict[str, str]


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}"


def _varz(varz: dict[str, Any]) -> Iterator[str]:
    """Every number of /varz under its name."""
    for key, value in varz.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield _line(f"nats_varz_{key}", {"server_id": varz["server_id"]}, value)


def _leader(what: dict[str, Any], server: str) -> tuple[str, str]:
    """Who leads, and whether it is this server. Where there is no cluster, it is."""
    leader = what.get("cluster", {}).get("leader", "")
    return leader, "true" if "cluster" not in what or leader == server else "false"


def _jsz(jsz: dict[str, Any], varz: dict[str, Any]) -> Iterator[str]:
    name = varz["server_name"]
    server = {"server_id": varz["server_id"], "server_name": name, "is_meta_leader": "true"}
    yield _line("nats_server_total_message_bytes", server, jsz["bytes"])
    yield _line("nats_server_total_messages", server, jsz["messages"])
    yield _line("nats_server_max_storage", server, jsz["config"]["max_storage"])
    for account in jsz.get("account_details", []):
        for stream in account.get("stream_detail", []):
            leader, leads = _leader(stream, name)
            labels = server | {"account": account["name"], "stream_name": stream["name"]}
            labels |= {"stream_leader": leader, "is_stream_leader": leads}
            state = stream["state"]
            yield _line("nats_stream_total_messages", labels, state["messages"])
            yield _line("nats_stream_total_bytes", labels, state["bytes"])
            yield _line("nats_stream_last_seq", labels, state["last_seq"])
            yield _line("nats_stream_limit_bytes", labels, stream["config"]["max_bytes"])
            for consumer in stream.get("consumer_detail", []):
                yield from _consumer(consumer, labels, name)


def _consumer(consumer: dict[str, Any], labels: Labels, server: str) -> Iterator[str]:
    leader, leads = _leader(consumer, server)
    labels = labels | {"consumer_name": consumer["name"]}
    labels |= {"consumer_leader": leader, "is_consumer_leader": leads}
    for key in ("num_pending", "num_ack_pending", "num_redelivered", "num_waiting"):
        yield _line(f"nats_consumer_{key}", labels, consumer.get(key, 0))
    floor = consumer["ack_floor"]["consumer_seq"]
    yield _line("nats_consumer_ack_floor_consumer_seq", labels, floor)


class NatsExporter:
    """Serves the figures of one server on a free port."""

    def __init__(self, monitor: str) -> None:
        def tell() -> bytes:
            varz = json.loads(get(f"{monitor}/varz") or b"{}")
            jsz = json.loads(get(f"{monitor}/jsz?consumers=true&config=true&raft=true") or b"{}")
            return "".join(line + "\n" for line in [*_varz(varz), *_jsz(jsz, varz)]).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = tell()
                # Who has waited for too long is gone.
                with contextlib.suppress(BrokenPipeError):
                    self.send_response(200)
                    self.send_header("Content-Type", "text/plain; version=0.0.4")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        """Begins to serve."""
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
