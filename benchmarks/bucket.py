"""A bucket of S3 on this machine, served by moto in a process of its own, that counts what it is asked.

    python -m benchmarks.bucket       serves until it is killed; its first line is the port

GET /_asked answers with the requests since the last such question, by what they are of, and with its own processor seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "bench"
CLIPS = re.compile(
    r"/in/clips/|/out/clips/|/(frames|faces|tracks|latents|residuals|edits|segments|quality|sources|failures)/[0-9a-f]{16}\b"
    r"|/work/(plan|segments|frames|sheet|quality)\b|/ledger/(scan|track|invert|plan|render|finalize)\b"
    r"|/manifests/[^/]*/[0-9a-f]{16}\b|/deleted/[0-9a-f]{16}\b"
)
PICTURES = re.compile(r"/in/pictures|/out/pictures|/p[0-9a-f]{15}\b|/(ledger|work)/pictures\b|/ledger/begun\b")


def kind_of(asked: str) -> str:
    """`clips`, `pictures`, `lock`, or `run` for what is nobody's: listings of whole tables, the store's own files."""
    if asked.endswith("/.lock"):
        return "lock"
    return "pictures" if PICTURES.search(asked) else "clips" if CLIPS.search(asked) else "run"


def serve() -> None:
    from moto.server import DomainDispatcherApplication, ThreadedMotoServer

    answered = DomainDispatcherApplication.__call__
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    def counted(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        with lock:
            if path == "/_asked":
                body = json.dumps({"asked": dict(asked), "server_seconds": time.process_time()}).encode()
                asked.clear()
                start_response("200 OK", [("Content-Length", str(len(body)))])
                return [body]
            prefix = re.search(r"prefix=([^&]*)", query)
            where = f"{path}/{prefix[1].replace('%2F', '/')}" if prefix else path
            asked[f"{kind_of(where)} {'LIST' if prefix else environ['REQUEST_METHOD']}"] += 1
        return answered(self, environ, start_response)

    DomainDispatcherApplication.__call__ = counted
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    threading.Event().wait()


def asked(port: int) -> dict[str, Any]:
    """Requests since the last question."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_asked") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def bucket() -> Iterator[int]:
    """The port of a server with an empty bucket, which this process and its children find by their environment."""
    command = [sys.executable, "-m", "benchmarks.bucket"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        values = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "DEFAULT_REGION": "us-east-1"}
        os.environ |= {f"AWS_{name}": value for name, value in values.items()}
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield port
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    serve()
