"""The errors for what the Hub answers, the same for API calls and for bytes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    NotFound,
    PermanentError,
    TransientError,
)
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.network.exchange import TooSlow, find_cause
from truss_cache_tasks.network.proxies import proxy_refuses, proxy_status
from truss_cache_tasks.network.retry import is_transient_status, retry_after_s

_RESOLVE = "Run the command again with -a: it resolves the revision anew."


@dataclass(frozen=True)
class Refusals:
    """Makes the errors for requests about one repo, with one token or none, that the Hub refuses.

    Attributes:
        repo: `org/name`.
        endpoint: URL of the Hub, without a slash at its end.
        origin: where the token was found; None without a token.
        looked_at: the places where a token was looked for; "" with a token.
    """

    repo: str
    endpoint: str
    origin: str | None
    looked_at: str

    def refusal(self, status: int, headers: Mapping[str, str], path: str | None = None) -> CacheTaskError:
        """Return the error for a refused GET of the bytes at `path`, or else of an API call.

        The Hub tells its reason in `X-Error-Code`; a token that it does not know gets a 401 without one.
        """
        code, said = header(headers, "X-Error-Code"), header(headers, "X-Error-Message")
        what = self.repo if path is None else f"{self.repo}: {path}"
        if is_transient_status(status):
            return self._unavailable(what, status, retry_after_s(headers))
        if status == 407:
            return proxy_refuses(what, status)
        match code:
            case "GatedRepo":
                error: CacheTaskError = self._gated(what, said)
            case "RevisionNotFound":
                error = NotFound(f"{what}: its commit is gone", hint=_RESOLVE)
            case "EntryNotFound":
                error = NotFound(
                    f"{what}: no such file at this commit",
                    hint="Run the command again with -a: it lists the repo anew.",
                )
            case _ if "disabled" in said:
                error = AccessDenied(f"{what}: the Hub has disabled this repo", hint=f"See {self.page} for the reason.")
            case "" if status == 401 and self.origin is not None:
                error = AccessDenied(
                    f"{what}: the Hub does not know the token of {self.origin}",
                    hint=f"Replace it by a valid one from {self.endpoint}/settings/tokens, or remove it.",
                )
            case _ if status in (401, 404):
                error = self._no_repo()
            case _ if status == 403:
                error = self._forbidden(what, said, reading=path is not None)
            case _:
                error = AccessDenied(f"{what}: the Hub refuses ({status} {said})", hint=f"Check {self.page}.")
        return error

    def no_revision(self, revision: str, near: str | None, names: tuple[str, ...]) -> NotFound:
        """Return the error for a revision that does not exist.

        Args:
            near: the most similar name in the repo; None if none is similar.
            names: some names that the repo has.
        """
        hint = "Check `revision`."
        if names:
            hint = f"Did you mean '{near}'?" if near else f"Use one that it has: {', '.join(names)}, or a commit."
        return NotFound(f"{self.repo}: no revision '{revision}'", hint=hint)

    def lost_commit(self, commit: str, revision: str) -> NotFound:
        """Return the error for a pinned commit that is no longer in the repo."""
        return NotFound(
            f"{self.repo}: commit {commit}, which stands for revision '{revision}', is gone",
            hint=_RESOLVE,
        )

    def unreachable(self, host: str, error: Exception) -> CacheTaskError:
        """Return the error for a failure of the HTTP library."""
        kind = type(error).__name__
        if "Timeout" in kind or isinstance(error, TooSlow):
            why = find_cause(error, TooSlow) or "no answer in time"
            return TransientError(f"{host}: {why}", hint=f"Check the network. {RUN_AGAIN}")
        if isinstance(error, UnicodeError):  # of Python's codec for host names (idna)
            return PermanentError(f"{host}: names a host that none can be called", hint="Check HF_ENDPOINT.")
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = "Let SSL_CERT_FILE name the bundle that has its CA."
            return PermanentError(f"{host}: its certificate is not trusted", hint=hint)
        if (status := proxy_status(error)) is not None:
            return proxy_refuses(host, status)
        why = str(error) if kind == "ConnectError" else kind  # the text of other kinds can quote a header
        return TransientError(
            f"{host}: cannot be reached ({why})", hint="Check the network, HF_ENDPOINT and HTTPS_PROXY."
        )

    def offline(self) -> PermanentError:
        """Return the error for a call that is not sent, because HF_HUB_OFFLINE is set."""
        hint = "Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to fetch."
        return PermanentError(f"{self.repo}: huggingface_hub is offline (HF_HUB_OFFLINE)", hint=hint)

    def not_a_hub(self) -> PermanentError:
        """Return the error for an answer that is not that of a Hub."""
        hint = "Check HF_ENDPOINT, and the network for a login page."
        return PermanentError(f"{self.repo}: the answer is not that of a Hub", hint=hint)

    @property
    def page(self) -> str:
        """The repo's page, where access is requested."""
        return f"{self.endpoint}/{self.repo}"

    def _unavailable(self, what: str, status: int, wait_s: float | None) -> TransientError:
        asks = "" if wait_s is None else f", and asks to wait {wait_s:.0f} s"
        if status == 429:
            hint = RUN_LATER if self.origin else f"{RUN_LATER} With a token the limit is higher."
            error = TransientError(f"{what}: too many requests, says the Hub (429){asks}", hint=hint)
        else:
            error = TransientError(f"{what}: the Hub answers {status}{asks}", hint=RUN_LATER)
        error.retry_after_s = wait_s
        return error

    def _gated(self, what: str, said: str) -> AccessDenied:
        if self.origin is None:
            return AccessDenied(
                f"{what}: this repo is gated, and no token was found ({self.looked_at})",
                hint=f"Request access at {self.page}, then provide a token of that account.",
            )
        if "fine-grained" in said:
            return AccessDenied(
                f"{what}: this repo is gated, and the token of {self.origin} does not cover gated repos",
                hint=f"Allow it to read public gated repos at {self.endpoint}/settings/tokens.",
            )
        return AccessDenied(
            f"{what}: this repo is gated, and the account of the token of {self.origin} has no access",
            hint=f"Request access at {self.page} with that account.",
        )

    def _no_repo(self) -> NotFound:
        if self.origin is None:
            return NotFound(
                f"{self.repo}: no such repo, or it is private and no token was found ({self.looked_at})",
                hint=f"Check `repo_id` at {self.page}; a private repo needs a token.",
            )
        return NotFound(
            f"{self.repo}: no such repo, or it is private and the token of {self.origin} may not see it",
            hint=f"Check `repo_id` at {self.page}, with the account of that token.",
        )

    def _forbidden(self, what: str, said: str, *, reading: bool) -> AccessDenied:
        because = f"403, {said}" if said else "403"
        if self.origin is None:
            hint = f"Provide a token of an account that may; {self.looked_at}."
            return AccessDenied(f"{what}: the Hub refuses without a token ({because})", hint=hint)
        may = "may list this repo, not read its files" if reading else "may not list this repo"
        return AccessDenied(
            f"{what}: the token of {self.origin} {may} ({because})",
            hint=f"Let it read the contents of {self.repo} at {self.endpoint}/settings/tokens.",
        )


@dataclass(frozen=True)
class MirrorRefusals:
    """Makes the errors for requests about one repo, without a token, that a mirror refuses.

    Attributes:
        repo: `org/name`.
        endpoint: URL of the mirror.
        first: URL of HF_ENDPOINT, which is unavailable.
    """

    repo: str
    endpoint: str
    first: str

    def refusal(self, status: int, headers: Mapping[str, str], path: str | None = None) -> CacheTaskError:
        """Return the error for a refused GET of the bytes at `path`, or else of an API call."""
        what = self.repo if path is None else f"{self.repo}: {path}"
        if status == 407:
            return proxy_refuses(what, status)
        said = f"{what}: the mirror {self.endpoint} answers {status}"
        if is_transient_status(status):
            error = TransientError(said, hint=RUN_LATER)
            error.retry_after_s = retry_after_s(headers)
            return error
        kind = NotFound if status in (404, 410) else AccessDenied
        hint = f"Wait for {self.first}, or correct TRUSS_CACHE_HF_ENDPOINTS. Mirrors get no token."
        return kind(f"{said}, asked while {self.first} is unavailable", hint=hint)

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET of `file`'s bytes, as `Source.explain`."""
        return self.refusal(status, headers, file.path)


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header by its name in any case, as one line of at most 200 characters; "" where there is none."""
    value = next((value for key, value in headers.items() if key.lower() == name.lower()), "")
    return " ".join(value.split())[:200]
