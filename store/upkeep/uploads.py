"""Uploads in parts that nobody finished: whoever died left them, and they cost like objects.

No listing shows them. S3's own interface lists and aborts them, for which obstore has no call and
whose requests it cannot sign (their query is part of the signature), so boto3 is asked, where it is
installed. Google Cloud Storage has the same leftovers and a lifecycle rule; Azure drops unfinished
blocks by itself after a week.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from store.disk import ENDPOINTS, ObjectLocation, bucket_of
from store.errors import StoreError
from store.upkeep.sweeping import is_ours

S3_KINDS = ("s3", "s3a")
_RULE = "set a lifecycle rule on the bucket that aborts incomplete multipart uploads after a day"
_NOTES = {
    **dict.fromkeys(
        S3_KINDS, f"unfinished uploads were not looked for: pip install boto3, or {_RULE}"
    ),
    **dict.fromkeys(("gs", "gcs"), f"unfinished uploads were not looked for: {_RULE}"),
    **dict.fromkeys(
        ("az", "azure", "abfs", "abfss", "adl"),
        "Azure drops the blocks of unfinished uploads by itself after a week",
    ),
}


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and neither finished nor aborted."""

    key: str
    id: str
    initiated: float


@dataclass(frozen=True)
class Uploads:
    """Those of one store, or, in one line, why they are not known."""

    found: tuple[Upload, ...] = ()
    note: str = ""
    client: Any = None
    bucket: str = ""

    def begun_before(self, time: float, plan: str | None) -> Uploads:
        """Those that were begun before, but for what is written for a plan under way."""
        found = tuple(
            upload
            for upload in self.found
            if upload.initiated < time and (plan is None or plan not in upload.key)
        )
        return Uploads(found, self.note, self.client, self.bucket)

    def abort(self) -> None:
        """Abort them all; one that another aborted or finished meanwhile is no harm.

        Raises:
            StoreError: S3 refuses it.
        """
        for upload in self.found:
            try:
                self.client.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload.key, UploadId=upload.id
                )
            except self.client.exceptions.NoSuchUpload:
                continue
            except Exception as error:  # botocore's errors share no class but this
                raise StoreError(
                    f"s3://{self.bucket}/{upload.key}: the unfinished upload cannot be aborted"
                    f" ({_said(error)}); allow s3:AbortMultipartUpload, or {_RULE}"
                ) from None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"


def unfinished_uploads(location: ObjectLocation) -> Uploads:
    """The uploads below a store's address that nobody finished."""
    kind = location.address.partition("://")[0].lower()
    _, bucket, prefix = bucket_of(location.address)
    bucket = bucket.partition("://")[2]
    if kind not in S3_KINDS:
        return Uploads(note=_NOTES.get(kind, ""))
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        return Uploads(note=_NOTES[kind])
    try:
        client = _client(boto3, botocore.config, location.options)
        found = tuple(_listed(client, bucket, f"{prefix}/" if prefix else ""))
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        return Uploads(note=f"unfinished uploads cannot be listed ({_said(error)}): {_RULE}")
    return Uploads(found, "", client, bucket)


def _client(boto3: Any, config: Any, options: Mapping[str, Any]) -> Any:
    """A client that reaches the same server as obstore does, with the same credentials."""
    session = boto3.Session(profile_name=options.get("profile") or None)
    said = (os.environ.get(name) for name in ENDPOINTS)
    style = "virtual" if options.get("virtual_hosted") else "path"
    return session.client(
        "s3",
        endpoint_url=options.get("endpoint") or next(filter(None, said), None),
        region_name=options.get("region") or os.environ.get("AWS_REGION") or session.region_name,
        config=config.Config(s3={"addressing_style": style}),
    )


def _listed(client: Any, bucket: str, prefix: str) -> Iterator[Upload]:
    for page in client.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, Prefix=prefix
    ):
        for one in page.get("Uploads", ()):
            # Others may keep theirs below a store's address (and moto lists all of the bucket's).
            if one["Key"].startswith(prefix) and is_ours(one["Key"][len(prefix) :]):
                yield Upload(one["Key"], one["UploadId"], one["Initiated"].timestamp())
