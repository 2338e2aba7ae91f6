"""As much of a wandb server as wandb's client needs to send a run and to go on with it: for tests without a network.

with WandbServer() as server:
    ... WANDB_BASE_URL=server.url, WANDB_API_KEY=anything of 40 characters ...
    server.runs["<id>"].history      # every row that arrived, in order
"""

import dataclasses
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclasses.dataclass
class StoredRun:
    project: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    exit_codes: list[int] = dataclasses.field(default_factory=list)
    fields: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # group, tags, ... of the last time they were given

    def bucket(self, name: str) -> dict[str, Any]:
        """The run as GraphQL shows it."""
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "project": {"id": "p", "name": self.project, "entity": {"id": "e", "name": "us"}},
            "config": json.dumps({key: {"value": value} for key, value in self.config.items()}),
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]),
            "eventsTail": "[]",
            "tags": [],
            "wandbConfig": json.dumps({"t": {"value": 1}}),
        }


class WandbServer:
    """Listens on a port of its own while the `with` block lasts."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/graphql":
                    self._answer({"data": server._query(json.loads(body))})
                elif self.path.endswith("/file_stream"):
                    server._stream(self.path.split("/")[4], json.loads(body))
                    self._answer({})
                else:
                    self._answer({})

            do_PUT = do_POST

            def _answer(self, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _query(self, request: dict[str, Any]) -> dict[str, Any]:
        given = request["variables"]
        if "RunResumeStatus" in request["query"]:
            run = self.runs.get(given["name"])
            bucket = run.bucket(given["name"]) if run else None
            return {
                "model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "us"}, "bucket": bucket}
            }
        if "UpsertBucket" in request["query"]:
            inserted = given["name"] not in self.runs
            run = self.runs.setdefault(given["name"], StoredRun(given["project"]))
            config = json.loads(given["config"] or "{}")
            run.config |= {key: item["value"] for key, item in config.items()}
            run.fields |= {key: value for key, value in given.items() if value is not None}
            return {"upsertBucket": {"bucket": run.bucket(given["name"]), "inserted": inserted}}
        if "CreateRunFiles" in request["query"]:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        return {}

    def _stream(self, run_id: str, sent: dict[str, Any]) -> None:
        run = self.runs[run_id]
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            # What is sent from an offset on replaces what was there.
            run.history[history["offset"] :] = [json.loads(line) for line in history["content"]]
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][0])
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])
