"""How buckets are reached: this process's options, and credentials as the ecosystem keeps them.

    use_storage({"endpoint": "http://localhost:9000", "allow_http": True})

Options are of the kind that may stand in a file of a run. Secrets are not among them: they come
from the environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`,
`AZURE_STORAGE_ACCOUNT_KEY`), from a profile of `~/.aws`, or from the role of the machine, each time
a bucket is reached.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from store.errors import StoreInputError, missing_extra

Options = Mapping[str, Any]
S3, GCS, AZURE, MEMORY, HTTP = "s3", "gs", "az", "memory", "http"
KINDS = {
    "s3": S3, "s3a": S3, "gs": GCS, "gcs": GCS, "az": AZURE, "azure": AZURE, "abfs": AZURE,
    "abfss": AZURE, "memory": MEMORY, "http": HTTP, "https": HTTP,
}  # fmt: skip
"""Scheme of an address -> what serves it."""
CHOICES = {
    "endpoint": "the server's address, such as http://localhost:9000 (default: the cloud's own)",
    "region": "of the bucket, such as eu-central-1",
    "profile": "the section of ~/.aws/config and ~/.aws/credentials to take",
    "account": "the storage account, of az:// addresses",
    "allow_http": "whether an endpoint without encryption (http://) may be used",
    "skip_signature": "read public buckets without credentials",
    "virtual_hosted": "whether the bucket's name stands in the host's name",
    "request_timeout_s": "seconds that one request may take",
    "connect_timeout_s": "seconds until a connection must stand",
    "retry_timeout_s": "seconds after which a request that fails is no longer tried again",
}
DEFAULTS = {"request_timeout_s": 120.0, "connect_timeout_s": 10.0, "retry_timeout_s": 60.0}
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
"""Environment variables that name another S3 server than Amazon's."""
_FIRST_WAIT_S = 0.1
_MOST_RETRIES = 8

_options: dict[str, Any] = {}
_stores: dict[Any, Any] = {}
_began_in: int | None = None
"""The process that has used the client first, of this one and those it was forked from."""
_lock = threading.Lock()


def use_storage(options: Options) -> None:
    """Take these options for every bucket that this process reaches from now on.

    Args:
        options: of `CHOICES`; those that are None count as left out.

    Raises:
        StoreInputError: there is no such option.
    """
    unknown = sorted(set(options) - set(CHOICES))
    if unknown:
        raise StoreInputError(
            f"storage: no option {unknown[0]!r}; valid are {', '.join(CHOICES)} (secrets come from"
            " the environment, a profile or the machine's role)"
        )
    _options.clear()
    _options.update({name: value for name, value in options.items() if value is not None})


def storage_options() -> dict[str, Any]:
    """This process's options, as `use_storage` took them."""
    return dict(_options)


def bucket_of(address: str) -> tuple[str, str, str]:
    """What serves an address, the bucket's own address, and the path in it.

    Raises:
        StoreInputError: no bucket, or a secret in the address.
    """
    scheme, _, rest = address.partition("://")
    kind = KINDS[scheme.lower()]
    if not address.isprintable():
        raise StoreInputError(f"{address!a}: an address holds no line breaks and the like")
    bucket, _, path = rest.partition("/")
    login, _, host = bucket.rpartition("@")
    if ":" in login or (login and kind != AZURE):
        raise StoreInputError(
            f"{scheme}://…@{host}/{path}: an address holds no user or password, for it is written"
            " into reports; give them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if not bucket:
        raise StoreInputError(f"{address}: names no bucket; give {scheme}://BUCKET/PATH")
    if kind == HTTP:
        path = path.partition("?")[0]
    return kind, f"{scheme.lower()}://{bucket}", path.strip("/")


def objects_at(address: str, options: Options) -> Any:
    """The obstore store of a bucket; one for each bucket, options and process.

    Args:
        address: of the bucket, as `bucket_of` gives it.
        options: of `CHOICES`.

    Raises:
        MissingExtra: obstore is not installed, or boto3 and a profile is asked for.
        StoreInputError: what the options or the environment say cannot be.
    """
    global _began_in
    kind, bucket, _ = bucket_of(address)
    if kind != MEMORY and _began_in not in (None, os.getpid()):
        raise StoreInputError(
            f"{bucket}: this process was forked after its parent had reached a bucket, and the"
            " client's threads do not live on in it; start processes by spawn or forkserver"
            ' (multiprocessing.get_context("spawn"))'
        )
    if kind != MEMORY:
        _began_in = os.getpid()
    # What the environment says may change; a bucket of this process stays the same.
    environment = frozenset(item for item in os.environ.items() if _says_how(item[0]))
    key = (bucket,) if kind == MEMORY else (bucket, frozenset(options.items()), environment)
    with _lock:
        if key not in _stores:
            _stores[key] = _made(kind, bucket, {**DEFAULTS, **options})
        return _stores[key]


def _says_how(name: str) -> bool:
    return name.startswith(("AWS_", "GOOGLE_", "AZURE_"))


def _made(kind: str, bucket: str, options: Options) -> Any:
    try:
        from obstore import store as obstore
        from obstore.exceptions import BaseError
    except ImportError:
        raise missing_extra("obstore", "cloud", bucket) from None
    name = bucket.partition("://")[2]
    _check_endpoints(kind, options)
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=float(options["request_timeout_s"])),
        "connect_timeout": timedelta(seconds=float(options["connect_timeout_s"])),
        "allow_http": _allows_http(kind, options),
    }
    retries = {
        "max_retries": _MOST_RETRIES,
        "retry_timeout": timedelta(seconds=float(options["retry_timeout_s"])),
        "backoff": {
            "init_backoff": timedelta(seconds=_FIRST_WAIT_S),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    how = {"client_options": client, "retry_config": retries}
    config = {key: options[key] for key in ("skip_signature",) if key in options}
    try:
        if kind == MEMORY:
            return obstore.MemoryStore()
        if kind == HTTP:
            return obstore.HTTPStore.from_url(bucket, **how)
        if kind == GCS:
            return obstore.GCSStore(name, config=_gcs(config, options), **how)
        if kind == AZURE:
            return obstore.AzureStore(config=_azure(config, name, options), **how)
        provider = _profile(bucket, options)
        return obstore.S3Store(
            name, config=_s3(config, options, provider), credential_provider=provider, **how
        )
    except (BaseError, ValueError) as error:
        said = str(error).strip().partition("\n")[0][:300]
        raise StoreInputError(
            f"{bucket}: cannot be reached this way ({said}); look at [storage] and the environment"
        ) from None


def _check_endpoints(kind: str, options: Options) -> None:
    """Refuse what is no address of a server; the client would not say so."""
    said = {"endpoint under [storage]": options.get("endpoint")}
    said |= {name: os.environ.get(name) for name in ENDPOINTS if kind == S3}
    for by, value in said.items():
        try:
            parts = urlsplit(value or "http://localhost")
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            parts, sound = urlsplit(""), False
        if not sound or re.search(r"\s", value or ""):
            raise StoreInputError(
                f"{by}: no address of a server; give one such as http://localhost:9000"
            )
        if parts.username or parts.query:
            raise StoreInputError(
                f"{by}: an address of a server holds no user, password or query; give secrets in"
                " variables of their own, such as AWS_SECRET_ACCESS_KEY"
            )


def _allows_http(kind: str, options: Options) -> bool:
    if "allow_http" in options:
        return bool(options["allow_http"])
    of = {S3: "AWS", GCS: "GOOGLE", AZURE: "AZURE"}.get(kind, "")
    said = os.environ.get(f"{of}_ALLOW_HTTP", "").lower()
    return kind == HTTP or said in ("1", "true", "yes", "on")


def _s3(config: dict[str, Any], options: Options, provider: Any) -> dict[str, Any]:
    for name, of in (
        ("endpoint", "endpoint"),
        ("region", "region"),
        ("virtual_hosted", "virtual_hosted_style_request"),
    ):
        if name in options:
            config[of] = options[name]
    regions = ("AWS_REGION", "AWS_DEFAULT_REGION")
    known = "region" in config or any(os.environ.get(name) for name in regions)
    if not known and "region" not in getattr(provider, "config", {}):
        config["region"] = "us-east-1"
    return config


def _gcs(config: dict[str, Any], options: Options) -> dict[str, Any]:
    if "endpoint" in options:
        config["base_url"] = options["endpoint"]
    return config


def _azure(config: dict[str, Any], name: str, options: Options) -> dict[str, Any]:
    container, _, host = name.partition("@")
    config["container_name"] = container
    account = options.get("account") or host.partition(".")[0]
    if account:
        config["account_name"] = account
    if "endpoint" in options:
        config["endpoint"] = options["endpoint"]
    return config


def _profile(bucket: str, options: Options) -> Any:
    """Who gives credentials of a profile; None where the environment or the machine does."""
    named = options.get("profile") or os.environ.get("AWS_PROFILE")
    shared = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if options.get("skip_signature"):
        return None
    if not options.get("profile") and os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    if not named and not shared.is_file():
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise missing_extra("boto3", "cloud", f"{bucket}: a profile of ~/.aws") from None
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=named))
    except (BotoCoreError, ValueError) as error:
        raise StoreInputError(
            f"{bucket}: no credentials of the profile {named or 'default'!r} ({error}); name one of"
            " ~/.aws/credentials in [storage] profile or AWS_PROFILE"
        ) from None
