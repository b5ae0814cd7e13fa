"""Where snapshots are kept: a folder of a mounted volume, or a bucket of an S3-compatible store.

Whatever stands under its final name is complete: files are renamed, objects appear only when their upload is
completed.  Beside each lies its checksum, ``<name>.sha256``, in the form that ``sha256sum -c`` reads, for the
day on which the KVSnapshot is gone.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from kvoperator.agent.errors import AgentError

__all__ = ["FilePlace", "Place", "S3Options", "S3Place", "Upload", "place_of"]

_CHECKSUM_SUFFIX: Final = ".sha256"
_COPY_BYTES: Final = 1 << 20

_MIN_PART_BYTES: Final = 8 << 20
_PART_GROWTH: Final = 1000
"""S3 allows 10,000 parts: they double in size after every thousand, which is enough for 8 TiB."""


class Upload(Protocol):
    """One file on its way to its place.  Blocking; used from one thread at a time."""

    def write(self, data: bytes) -> None: ...

    def finish(self, sha256: str) -> None:
        """Make it appear under its name."""
        ...

    def abort(self) -> None:
        """Leave nothing behind."""
        ...


class Place(Protocol):
    """One snapshot's location.  Every method raises AgentError."""

    def upload(self) -> Upload: ...

    def fetch(self, target: Path) -> str:
        """Copy the file to ``target``; returns its SHA-256."""
        ...

    def checksum(self) -> str | None:
        """The checksum that was stored beside it; None if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    endpoint: str | None = None
    region: str | None = None
    addressing_style: str = "auto"


def place_of(location: str, options: S3Options) -> Place:
    """The place that ``file:///path`` or ``s3://bucket/key`` names.

    Raises:
        AgentError: it names none.
    """
    parts = urlsplit(location)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        return FilePlace(Path(parts.path))
    key = parts.path.lstrip("/")
    if parts.scheme == "s3" and parts.netloc and key:
        return S3Place(parts.netloc, key, options)
    raise AgentError(f"location {location!r} is neither file:///path nor s3://bucket/key")


def _checksum_line(sha256: str, name: str) -> bytes:
    return f"{sha256}  {name}\n".encode()


def _parse_checksum(text: str) -> str | None:
    first = text.split(maxsplit=1)
    return first[0].lower() if first and len(first[0]) == 64 else None


class FilePlace:
    def __init__(self, path: Path) -> None:
        self._path = path

    def upload(self) -> "_FileUpload":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return _FileUpload(self._path)
        except OSError as error:
            raise AgentError(f"{self._path} can't be written: {error.strerror}") from error

    def fetch(self, target: Path) -> str:
        digest = hashlib.sha256()
        try:
            with self._path.open("rb") as source, target.open("wb") as copy:
                while piece := source.read(_COPY_BYTES):
                    digest.update(piece)
                    copy.write(piece)
        except FileNotFoundError as error:
            raise AgentError(f"snapshot {self._path} does not exist") from error
        except OSError as error:
            raise AgentError(f"snapshot {self._path} can't be copied: {error.strerror}") from error
        return digest.hexdigest()

    def checksum(self) -> str | None:
        try:
            return _parse_checksum(self._path.with_name(self._path.name + _CHECKSUM_SUFFIX).read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AgentError(f"checksum of {self._path} can't be read: {error.strerror}") from error


class _FileUpload:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb")

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise AgentError(f"{self._path} can't be written: {error.strerror}") from error

    def finish(self, sha256: str) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            checksum = self._path.with_name(self._path.name + _CHECKSUM_SUFFIX)
            checksum.write_bytes(_checksum_line(sha256, self._path.name))
            self._part.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise AgentError(f"{self._path} can't be written: {error.strerror}") from error

    def abort(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class S3Place:
    def __init__(self, bucket: str, key: str, options: S3Options) -> None:
        # boto3 takes half a second to import, which `kvoperator run` must not pay.
        import boto3
        from botocore.config import Config

        self._bucket = bucket
        self._key = key
        style: Any = {"addressing_style": options.addressing_style}
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=options.endpoint,
            region_name=options.region or os.environ.get("AWS_REGION") or "us-east-1",
            config=Config(
                retries={"max_attempts": 5, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                s3=style,
                # Stores that only imitate S3 often refuse the newer checksums; ours are checked anyway.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @property
    def _name(self) -> str:
        return f"s3://{self._bucket}/{self._key}"

    def upload(self) -> "_S3Upload":
        with _translated(f"{self._name} can't be written"):
            # A missing bucket or a wrong key should be told before a long stream, not after it.
            created = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key)
        return _S3Upload(self._client, self._bucket, self._key, created["UploadId"])

    def fetch(self, target: Path) -> str:
        digest = hashlib.sha256()
        with _translated(f"{self._name} can't be read"):
            body = self._client.get_object(Bucket=self._bucket, Key=self._key)["Body"]
            with target.open("wb") as copy:
                for piece in _pieces(body):
                    digest.update(piece)
                    copy.write(piece)
        return digest.hexdigest()

    def checksum(self) -> str | None:
        from botocore.exceptions import ClientError

        key = self._key + _CHECKSUM_SUFFIX
        with _translated(f"checksum of {self._name} can't be read"):
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read(4096)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise
        return _parse_checksum(body.decode(errors="replace"))


def _pieces(body: Any) -> Iterator[bytes]:
    while piece := body.read(_COPY_BYTES):
        yield piece


class _S3Upload:
    def __init__(self, client: Any, bucket: str, key: str, upload_id: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._upload = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
        self._parts: list[dict[str, object]] = []
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        size = _MIN_PART_BYTES << (len(self._parts) // _PART_GROWTH)
        if len(self._buffer) >= size:
            self._send()

    def _send(self) -> None:
        number = len(self._parts) + 1
        with _translated(f"part {number} of s3://{self._bucket}/{self._key} can't be written"):
            answer = self._client.upload_part(**self._upload, PartNumber=number, Body=bytes(self._buffer))
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._buffer.clear()

    def finish(self, sha256: str) -> None:
        if self._buffer or not self._parts:
            self._send()
        line = _checksum_line(sha256, self._key.rsplit("/", 1)[-1])
        with _translated(f"s3://{self._bucket}/{self._key} can't be written"):
            self._client.put_object(Bucket=self._bucket, Key=self._key + _CHECKSUM_SUFFIX, Body=line)
            self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": self._parts})

    def abort(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.abort_multipart_upload(**self._upload)
        except (BotoCoreError, ClientError):
            # The store's own rules for unfinished uploads get it; the first failure is what matters.
            return


class _translated:  # noqa: N801 - used as a word in a `with` line
    """Turns the errors of boto3 and of files into one sentence."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, ClientError):
            told = error.response.get("Error", {})
            raise AgentError(f"{self._what}: {told.get('Code')}: {told.get('Message')}") from error
        if isinstance(error, BotoCoreError):
            raise AgentError(f"{self._what}: {error}") from error
        if isinstance(error, OSError):
            raise AgentError(f"{self._what}: {error.strerror or error}") from error
