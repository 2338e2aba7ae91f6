"""A bucket, or a folder in it, at AWS or at any other S3 endpoint, read with botocore.

Credentials, region and endpoint are found as AWS's own tools find them: environment variables, the profile, a role of
the machine or of the container. Without any, the bucket is read as a public one.
"""

import threading
from typing import Any
from urllib.parse import urlsplit

from distdl.config.schema import RemoteConfig
from distdl.data.remote.store import PIECE, Denied, Missing, Store, Unavailable, Unfit, gathered
from distdl.errors import UserError

try:
    import botocore.config
    import botocore.session
    from botocore import UNSIGNED, exceptions
except ImportError:
    raise UserError(
        "s3:// needs botocore, which is not installed", where="data.*.shards", fix="pip install 'distdl[s3]'"
    ) from None

_CONNECT_S, _SILENCE_S = 10.0, 10.0  # until connected; between two packets
_TRY_AGAIN = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "RequestLimitExceeded")
_DENIED = (
    "AccessDenied",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
)


class S3Store:
    """`address`: s3://bucket[/folder]."""

    def __init__(self, address: str, remote: RemoteConfig) -> None:
        parts = urlsplit(address)
        self.where = f"s3://{parts.netloc}{parts.path.rstrip('/')}"
        self._bucket, folder = parts.netloc, parts.path.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._remote = remote
        self._making = threading.Lock()  # sessions are not made by several threads at once; clients are used by them
        self.renew()
        self.host = urlsplit(self._client.meta.endpoint_url).netloc

    def renew(self) -> None:
        with self._making:
            self._client = _client(self._remote, self.where)

    def size(self, name: str) -> int:
        try:
            return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"])
        except _FAILURES as error:
            raise self._failure(error) from None

    def read(self, name: str, begin: int, end: int | None, until: float) -> bytes:
        if end == begin:
            return b""
        part = {} if end is None and not begin else {"Range": f"bytes={begin}-{'' if end is None else end - 1}"}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, **part)
        except _FAILURES as error:
            raise self._failure(error) from None
        size = int(answer["ContentLength"])
        total = answer.get("ContentRange", "").rpartition("/")[2]
        body = answer["Body"]
        try:
            if end is not None and size != end - begin:
                raise Unfit(f"the file has {total or size} bytes, fewer than when it was indexed")
            return gathered(_pieces(body), size, until)
        finally:
            body.close()

    def names(self) -> list[str] | None:
        pages = self._client.get_paginator("list_objects_v2")
        try:
            return sorted(
                entry["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix, Delimiter="/")
                for entry in page.get("Contents", ())
            )
        except _FAILURES as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, exceptions.ClientError) and _code(error) == "NoSuchBucket":
            return Unfit(f"there is no bucket '{self._bucket}' at {self._client.meta.endpoint_url}", fix=_WHICH_BUCKET)
        if isinstance(error, exceptions.ParamValidationError):
            return Unfit(f"a bucket can't be called '{self._bucket}'", fix=_WHICH_BUCKET)
        return _failure(error)


def _client(remote: RemoteConfig, where: str) -> Any:
    try:
        session = botocore.session.Session()
        style = (session.get_scoped_config().get("s3") or {}).get("addressing_style")
        client = _with_style(session, remote, style or "auto")
        if style or ".amazonaws.com" in client.meta.endpoint_url:
            return client
        return _with_style(session, remote, "path")  # other stores seldom have a host name for each bucket
    except (exceptions.BotoCoreError, ValueError) as error:
        raise UserError(
            f"the AWS settings can't be used ({type(error).__name__})",
            where=where,
            fix="AWS_REGION or data.remote.region, AWS_PROFILE, and data.remote.endpoint decide who is asked.",
        ) from None


def _with_style(session: Any, remote: RemoteConfig, style: str) -> Any:
    config = botocore.config.Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_SILENCE_S,
        max_pool_connections=remote.connections,
        retries={"total_max_attempts": 1},  # patience.py tries again
        signature_version=None if session.get_credentials() else UNSIGNED,
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.create_client("s3", endpoint_url=remote.endpoint, region_name=remote.region, config=config)


def _pieces(body: Any) -> Any:
    try:
        while piece := body.read(PIECE):
            yield piece
    except _FAILURES as error:
        raise _failure(error) from None


_FAILURES = (exceptions.BotoCoreError, exceptions.ClientError, OSError)


def _failure(error: Exception) -> Exception:
    if isinstance(error, exceptions.ClientError):
        code = _code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"the server answers {status or code}" + (f" ({code})" if code and code != str(status) else "")
        if code in _DENIED or status in (401, 403):
            return Denied(said)
        if status == 404:
            return Missing(said)
        if code in _TRY_AGAIN or status >= 500 or status == 429:
            return Unavailable(said)
        return Unfit("the file is shorter than it was when it was indexed" if status == 416 else said)
    if isinstance(error, _NO_CREDENTIALS):
        return Denied(f"there are no usable credentials ({type(error).__name__})")
    return Unavailable(_REASONS.get(type(error).__name__, f"the request failed ({type(error).__name__})"))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


_WHICH_BUCKET = "Is it s3://BUCKET/FOLDER? AWS_ENDPOINT_URL or data.remote.endpoint names a store that isn't AWS."
_REASONS = {
    "EndpointConnectionError": "no connection to the endpoint",
    "ConnectTimeoutError": "no connection in time",
    "ReadTimeoutError": "the server fell silent",
    "ConnectionClosedError": "the connection broke",
    "IncompleteReadError": "the connection broke within an answer",
    "ResponseStreamingError": "the connection broke within an answer",
}

_: type[Store] = S3Store  # it is one
