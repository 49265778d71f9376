"""The errors for answers of S3 and of proxies: without values of a credential, and without the server's own text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    ConfigError,
    CredentialError,
    NotFound,
    PermanentError,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.credentials import JsonCredential
from truss_cache_tasks.model.listing import wrong_answer
from truss_cache_tasks.model.request import SourceRef
from truss_cache_tasks.model.s3_service import S3Service
from truss_cache_tasks.network.exchange import TooSlow, UnreadableAnswer, find_cause
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.proxies import is_permanent, proxy_refuses, proxy_status
from truss_cache_tasks.network.retry import is_transient_status, retry_after_s
from truss_cache_tasks.sources.s3.logs import unlogged

# The operations of S3 that are called. An error of any other one comes from the token service.
CALLS = ("ListObjectsV2", "HeadBucket", "HeadObject", "GetObject", "GetObjectAttributes")
BAD_KEYS = {
    "InvalidAccessKeyId": "the access key is unknown there",
    "SignatureDoesNotMatch": "the secret key does not match the access key",
    "ExpiredToken": "the session token has expired",
    "ExpiredTokenException": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "InvalidClientTokenId": "the access key is unknown there",
    "Unauthorized": "the access key is unknown there",  # R2
    "RequestTimeTooSkewed": "this machine's clock differs too much from the server's",
    "RequestExpired": "this machine's clock differs too much from the server's",
    "ExpiredRequest": "this machine's clock differs too much from the server's",  # R2
}
WRONG_REGION = ("PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed",
                "IllegalLocationConstraintException", "InvalidRegion", "InvalidRegionName", "301", "307")  # fmt: skip
NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
GONE = ("NoSuchKey", "NoSuchVersion", "NotFound", "404", "PreconditionFailed", "412")
BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
        "RequestLimitExceeded", "OperationAborted")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What an error message says about the request that failed.

    Attributes:
        source: the entry's URI.
        what: the URI of the object that was read; the entry's URI for a listing.
        action: the permission that the request needs: `s3:ListBucket`, `s3:GetObject` or `s3:GetObjectVersion`.
        origin: where the credential was found; "" for none.
        endpoint: host and port.
        region: the one that the client was made for.
    """

    source: SourceRef
    what: str
    action: str
    origin: str
    endpoint: str
    region: str

    @property
    def service(self) -> S3Service:
        """What the store does differently."""
        return self.source.store.s3

    @property
    def bucket(self) -> str:
        """The bucket's name at the server."""
        return self.service.split(self.source.root)[1]

    @property
    def resource(self) -> str:
        """What a permission has to name: the ARN of a policy, where the store has them."""
        if self.service.permission:
            return f"bucket {self.bucket!r}"
        partition = "aws-cn" if self.region.startswith("cn-") else "aws-us-gov" if "-gov-" in self.region else "aws"
        bucket = f"arn:{partition}:s3:::{self.bucket}"
        if self.action == "s3:ListBucket":
            return bucket
        return f"{bucket}/{self.source.prefix}*"


def is_transient(response: Mapping[str, Any]) -> bool:
    """Return whether what botocore made of an error response may be another answer later."""
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    return response.get("Error", {}).get("Code") in BUSY or is_transient_status(status)


def refusal(  # noqa: PLR0911 - a table of answers, read from top to bottom
    asked: Asked, status: int, code: str, message: str = "", region: str = ""
) -> CacheTaskError:
    """Return the error for an answer of S3.

    Args:
        status: the HTTP status.
        code: S3's own `Code`, or the status as text if the answer had no body (HEAD).
        message: S3's `Message`, read only for the action and resource that it names.
        region: where the bucket is, if the answer says.
    """
    answered = f"{status} {code}" if code != str(status) else code
    refuses = f"{asked.what}: {asked.endpoint} refuses the credential of {asked.origin or 'an anonymous user'}"
    if length := re.search(r"access key has length ([0-9]{1,6}), should be ([0-9]{1,6})", message):  # R2
        return AccessDenied(
            f"{refuses}: its access key has {length[1]} characters, expected {length[2]} ({code})",
            hint="Put the keys of this store there, not those of another one.",
        )
    if code in BAD_KEYS:
        clock = "clock" in BAD_KEYS[code]
        hint = (
            "Set the clock (NTP)." if clock else "Correct or renew the credential; its endpoint must be the one named."
        )
        return AccessDenied(f"{refuses}: {BAD_KEYS[code]} ({code})", hint=hint)
    if code in WRONG_REGION:
        found = (
            f"bucket {asked.bucket!r} is in region {region}, the request was made for {asked.region}, and "
            "following it once did not help"
            if region
            else f"the request was made for region {asked.region}, expected that of bucket {asked.bucket!r}, which the "
            "answer does not name"
        )
        return AccessDenied(
            f"{asked.what}: {found} ({code})",
            hint=f"Set aws_region in the credential file, or AWS_REGION, to {region or 'the region of the bucket'}.",
        )
    if code in NO_BUCKET or (status == 404 and asked.action == "s3:ListBucket"):
        return NotFound(
            f"{asked.what}: no bucket {asked.bucket!r} at {asked.endpoint} ({code})",
            hint=f"Correct the bucket in repo_id. {asked.service.elsewhere}",
        )
    if code in GONE or status in (404, 412):
        return SourceChanged(f"{asked.what}: replaced or deleted since it was listed ({code})", hint=RUN_AGAIN)
    if code == "NotEntitled":  # R2
        return AccessDenied(
            f"{asked.what}: the account may not use this store ({code})",
            hint="Enable the store in the dashboard of the account.",
        )
    if code == "InvalidObjectState":
        return AccessDenied(
            f"{asked.what}: the object is archived (Glacier) and cannot be read ({code})",
            hint=f"Restore the object (aws s3api restore-object). {RUN_AGAIN}",
        )
    if "Server Side Encryption" in message or code == "ServerSideEncryptionConfigurationNotFoundError":
        return AccessDenied(
            f"{asked.what}: encrypted with a customer-provided key (SSE-C), which is not supported ({code})",
            hint="Copy the object to one that S3 encrypts by itself (SSE-S3 or SSE-KMS).",
        )
    if code in BUSY or is_transient_status(status):
        return TransientError(f"{asked.what}: {asked.endpoint} answered {answered}", hint=RUN_LATER)
    if status == 407:
        return proxy_refuses(asked.what, status)
    if status in (401, 403) or code in ("AccessDenied", "AllAccessDisabled", "AccountProblem"):
        return _denied(asked, code, message)
    return CacheTaskError(
        f"{asked.what}: {asked.endpoint} answered {answered}", hint="Check repo_id, endpoint and region."
    )


def _denied(asked: Asked, code: str, message: str) -> AccessDenied:
    named = re.search(r"not authorized to perform: ([a-z0-9-]+:\w+)(?: on resource: \"?([^\s\"]+))?", message)
    needs = asked.service.permission or asked.action
    action, resource = (named[1], named[2] or "") if named else (needs, asked.resource)
    if not named and re.search(r"\bkms\b", message, re.IGNORECASE):
        action, resource = "kms:Decrypt", "the key that encrypts the bucket"
    missing = f"missing permission {action}" + (f" on {resource}" if resource else "")
    if re.search(r"requester.?pay", message, re.IGNORECASE):
        return AccessDenied(
            f"{asked.what}: requester-pays buckets are not supported yet ({code})",
            hint="Copy the weights to a bucket whose owner pays.",
        )
    if not asked.origin:
        return AccessDenied(
            f"{asked.what}: no credential was found, and {asked.endpoint} refuses anonymous access ({code}): {missing}",
            hint=give_credential(asked.source),
        )
    return AccessDenied(
        f"{asked.what}: {missing} for the credential of {asked.origin} ({code})",
        hint=asked.service.denied.replace("{action}", action),
    )


def refusal_of_body(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
    """Return the error for an answer with this body: XML with Code and Message, or what a proxy sent instead."""
    text = body[:65536].decode("utf-8", "replace")

    def element(name: str) -> str:
        found = re.search(rf"<{name}>([^<]*)</{name}>", text)
        return found[1].strip().replace("&quot;", '"') if found else ""

    region = next((value for name, value in headers.items() if name.lower() == "x-amz-bucket-region"), "")
    code = re.sub(r"\W", "", element("Code"))[:80]
    return refusal(asked, status, code or str(status), element("Message"), region or element("Region"))


@contextmanager
def translate_errors(asked: Asked) -> Iterator[None]:
    """Translate the exceptions of botocore that are raised inside the block into ours, and keep it out of the log."""
    with IMPORTS:
        from botocore import exceptions as aws
        from botocore.parsers import ResponseParserError

    try:
        with unlogged():
            yield
    except aws.ClientError as error:
        # Not `from error`: its text is the server's, which may quote the access key.
        if error.operation_name not in CALLS:  # a call of the token service, to assume a role
            raise credential_error(error) from None
        raise _refusal_of_client(asked, error.response) from None
    except aws.ParamValidationError as error:
        raise NotFound(f"{asked.what}: not a bucket name", hint="Correct the bucket in repo_id.") from error
    except aws.SSLError as error:
        if not is_permanent(error):
            check = " Check the id of the account in repo_id." if asked.service.has_account else ""
            raise TransientError(f"{asked.what}: {asked.endpoint}: TLS failed", hint=RUN_LATER + check) from error
        raise PermanentError(
            f"{asked.what}: {asked.endpoint}: its certificate is not trusted",
            hint="For a certificate authority of your own set SSL_CERT_FILE or AWS_CA_BUNDLE.",
        ) from error
    except UnreadableAnswer as error:
        raise wrong_answer(asked.what, error.found, error.expected) from error
    except (aws.ConnectionError, aws.HTTPClientError) as error:
        raise _unreachable(asked, error) from error
    except (aws.ValidationError, aws.EndpointProviderError, aws.UnknownEndpointError) as error:
        raise ConfigError(
            f"{asked.what}: the endpoint or the region {asked.region!r} is not usable ({type(error).__name__})",
            hint=correct_endpoint(asked.source),
        ) from error
    except ResponseParserError:
        raise PermanentError(
            f"{asked.what}: {asked.endpoint} does not answer as S3 does",
            hint=f"Check {asked.service.variables[0]}, and any proxy on the way.",
        ) from None  # the text of the error is the whole answer
    except aws.BotoCoreError as error:
        raise credential_error(error) from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:  # of botocore's parsers
        found = f"a field that cannot be read ({type(error).__name__})"
        raise wrong_answer(asked.what, found, "what S3 answers") from error


def _unreachable(asked: Asked, error: Any) -> CacheTaskError:
    """Return the error for a connection of botocore that failed."""
    endpoint = f"{asked.what}: {asked.endpoint}"
    if (status := proxy_status(error.kwargs.get("error"))) is not None:
        return proxy_refuses(endpoint, status)
    if (bad := find_cause(error, UnreadableAnswer)) is not None:
        return wrong_answer(asked.what, bad.found, bad.expected)
    if (slow := find_cause(error, TooSlow)) is not None:
        return TransientError(f"{endpoint}: {slow}", hint=RUN_LATER)
    return TransientError(
        f"{endpoint} cannot be reached ({type(error).__name__})",
        hint=f"Check the network, proxies, and {asked.service.variables[0]}. {RUN_AGAIN}",
    )


def give_credential(source: SourceRef) -> str:
    """Return the hint that says where a credential for `source` can be given."""
    credential, service = source.store.credential, source.store.s3
    places = ["a named secret"]
    if isinstance(credential, JsonCredential):
        places.insert(0, f"{credential.file} in the data folder")
    if service.reads_aws:
        places.append("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    *others, last = places
    return f"Give a credential: {', '.join(others)}{',' if len(others) > 1 else ''} or {last}."


def correct_endpoint(source: SourceRef) -> str:
    """Return the hint for an endpoint or a region that no client can be made for."""
    service = source.store.s3
    regions = "aws_region, AWS_REGION or " if service.reads_aws else ""
    return f"Correct {regions}{service.variables[0]} (a whole URL)."


def credential_error(error: Exception) -> CredentialError:
    """Return the error for a credential that botocore's chain found and could not use.

    What a credential process or a token service printed is left out: it may hold anything.
    """
    return CredentialError(
        f"boto3's own credentials (profile, SSO, role) cannot be used: {type(error).__name__}",
        hint="Run `aws sts get-caller-identity` to see why, or unset AWS_PROFILE.",
    )


def _refusal_of_client(asked: Asked, response: Mapping[str, Any]) -> CacheTaskError:
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    region = meta.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.get("Region", "")
    status = int(meta.get("HTTPStatusCode", 0))
    found = refusal(asked, status, str(error.get("Code") or status), str(error.get("Message", "")), region)
    if isinstance(found, TransientError):
        found.retry_after_s = retry_after_s(meta.get("HTTPHeaders", {}))
    return found
