"""Tell a real secret under `secrets:` from the placeholder of a template."""

from __future__ import annotations

import re

# As seen in public Truss configs: 'ENTER HF ACCESS TOKEN HERE', 'your-hf-access-token', '', 'ENTER HF API KEY HERE'.
_PLACEHOLDER = re.compile(
    r"your|enter|here|placeholder|change.?me|replace|insert|example|dummy|todo|token|secret|key|redacted", re.IGNORECASE
)
_TEMPLATE = re.compile(r"[<>{}$*…]|\.\.\.")
_KNOWN = re.compile(r"(hf_|api_org_|ghp_|github_pat_|sk-|AKIA|ASIA|ya29\.|glpat-|xox[abp]-)[\w.-]{8,}")
_SHORTEST = 16  # characters of a secret without a known prefix


def looks_real(text: str) -> bool:
    """Return whether `text` is likely a secret and no placeholder. False when in doubt, to avoid false warnings.

    >>> looks_real("hf_" + "aB3" * 11), looks_real("hf_xxxxxxxxxxxxxxxx"), looks_real("ENTER HF API KEY HERE")
    (True, False, False)
    """
    text = text.strip()
    if text.startswith("-----BEGIN") or '"private_key"' in text:
        return True
    if _TEMPLATE.search(text) or re.search(r"\s", text):
        return False
    if known := _KNOWN.fullmatch(text):
        body = text[len(known[1]) :]
        return len(set(body.lower())) > 2 and not _spelled_out(body)
    mixed = re.search(r"\d", text) and re.search(r"[A-Za-z]", text)
    return len(text) >= _SHORTEST and bool(mixed) and not _PLACEHOLDER.search(text)


def _spelled_out(body: str) -> bool:
    """Return whether `body` is words like `your_token_here`: random characters have digits or both cases."""
    one_case = body == body.lower() or body == body.upper()
    return one_case and not re.search(r"\d", body) and bool(_PLACEHOLDER.search(body))
