"""An S3 server beside the test, for pods to store snapshots in."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from kvtest.e2e.kubernetes import JsonObject

PORT = 5555
REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "e2e-access", "e2e-secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    url: str
    region: str

    def create_bucket(self, name: str) -> None:
        # The server may still be on its way up; each attempt is one connection.
        retries = Config(retries={"total_max_attempts": 10, "mode": "standard"})
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=retries,
        )
        client.create_bucket(Bucket=name)
        client.close()

    def credentials(self, secret_name: str) -> JsonObject:
        """Return the Secret by which a pod may write to this server."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret_name},
            "stringData": {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
        }


@contextmanager
def running_s3(address: str, log: Path) -> Iterator[S3Server]:
    """Run moto's server on ``address``; it keeps everything in memory."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", address, "-p", str(PORT)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield S3Server(url=f"http://{address}:{PORT}", region=REGION)
    finally:
        server.kill()
        server.wait()
