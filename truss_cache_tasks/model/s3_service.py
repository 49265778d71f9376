"""What the stores that speak the S3 API do differently: the part of their rows that the source of S3 reads."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

from typing import NamedTuple


class S3Service(NamedTuple):
    """How a store with the S3 API is reached, and what it wants. The defaults are those of S3.

    Attributes:
        endpoint: URL of its server; `{account_id}` in it stands for the account. "" for the one that botocore has for
            the region.
        variables: of the environment, which name another endpoint; the first that is set is taken, and may also hold
            `{account_id}`.
        region: that requests are signed for where neither the credential nor the environment names one.
        has_account: the name in a URI is ACCOUNT_ID.BUCKET. A bucket may hold further dots.
        in_host: a bucket is always addressed in the name of the host. Otherwise botocore chooses.
        reads_aws: variables and files of AWS apply: credentials, region, profile. If not, the credential of the entry
            is the only one.
        is_anonymous: requests may be sent without a credential.
        permission: what a credential needs to list and read; "" where the actions of S3 are.
        denied: the hint where that permission is missing; `{action}` in it stands for the permission.
        elsewhere: the hint where a bucket may be at another endpoint.
    """

    endpoint: str = ""
    variables: tuple[str, ...] = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region: str = "us-east-1"  # at S3, an answer about a bucket elsewhere names that bucket's region
    has_account: bool = False
    in_host: bool = False
    reads_aws: bool = True
    is_anonymous: bool = True
    permission: str = ""
    denied: str = "Grant {action}; a requester-pays bucket refuses in this way too, and is not supported yet."
    elsewhere: str = "For a store other than AWS set AWS_ENDPOINT_URL_S3."

    def split(self, root: str) -> tuple[str, str]:
        """Return the account and the bucket in the name that a URI has; "" for no account.

        >>> S3Service(has_account=True).split("0a1b.weights"), S3Service().split("my.weights")
        (('0a1b', 'weights'), ('', 'my.weights'))
        """
        if not self.has_account:
            return "", root
        account, _, bucket = root.partition(".")
        return account, bucket


AWS = S3Service()
