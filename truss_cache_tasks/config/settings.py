"""Read the environment into Settings: our variables, and those of huggingface_hub. No other module parses them."""

# No `from __future__ import annotations`: of each annotation that is a text, NamedTuple compiles a ForwardRef

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from truss_cache_tasks.errors import ConfigError

if TYPE_CHECKING:
    from truss_cache_tasks.network.settings import Network

# Those that decide where huggingface_hub's cache is, the strongest first (huggingface_hub/constants.py, 2.4.0).
HUB_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")

T = TypeVar("T")

_MOST_CONNECTIONS = 256
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TRUE, _FALSE = ("1", "on", "yes", "true"), ("0", "off", "no", "false")


class Variable(NamedTuple):
    """One line of `truss-cache help env`."""

    name: str
    meaning: str
    default: str


VARIABLES = (
    Variable("TRUSS_CONFIG", "the config, a file or its folder, where cache_tasks() names none", "beside dodo.py"),
    Variable(
        "TRUSS_MODEL_CACHE_DIR", "the model cache: buckets, file:// and volume folders go there", "/app/model_cache"
    ),
    Variable("TRUSS_MOUNT_ROOT", "a folder put before every mount_location", "none"),
    Variable("TRUSS_SECRETS_DIR", "where named secrets are looked up in place of /secrets", "/secrets"),
    Variable(
        "TRUSS_CACHE_PROJECT",
        "the project's id, where the path varies or is shared",
        "from the path",
    ),
    Variable(
        "TRUSS_CACHE_CONNECTIONS",
        f"connections of the whole process, 1 to {_MOST_CONNECTIONS}",
        "at most 32, adapted to each host",
    ),
    Variable("TRUSS_CACHE_MAX_RATE", "bytes a second of the whole process, such as 50M (K, M, G of 1000)", "unlimited"),
    Variable(
        "TRUSS_CACHE_MAX_BYTES",
        "bytes of ours in the hub cache, the model cache, each mount; such as 500G",
        "unlimited",
    ),
    Variable("TRUSS_CACHE_REPLACE", "1: replace foreign files at the paths of an entry (else it fails)", "0"),
    Variable(
        "TRUSS_CACHE_ACCEPT_UNVERIFIED", "1: accept a file whose MD5-like ETag is not its MD5 (else it fails)", "0"
    ),
    Variable("TRUSS_CACHE_DIGESTS", "digests of https:// files: URL=sha256:HEX, separated by blanks", "none"),
    Variable("TRUSS_CACHE_FOLLOW_LINKS", "1: follow links that lead out of a file:// source", "0"),
    Variable("TRUSS_CACHE_LOCKED", "1: a missing or outdated model_cache.lock is an error, nothing is fetched", "0"),
    Variable(
        "TRUSS_CACHE_R2_ENDPOINT",
        "the server of r2://; {account_id} in it stands for the account",
        "https://{account_id}.r2.cloudflarestorage.com",
    ),
    Variable(
        "TRUSS_CACHE_HF_ENDPOINTS",
        "mirrors, URLs with commas between them, for while HF_ENDPOINT is unavailable",
        "none",
    ),
    Variable("TRUSS_CACHE_XET", "1 is refused: files that the Hub keeps in Xet come by their resolve URLs", "0"),
    Variable("TRUSS_CACHE_EVENTS", "a file or FIFO that the events of a run are appended to, as JSON lines", "none"),
    Variable("TRUSS_CACHE_DEBUG", "1: tracebacks of internal errors", "0"),
)


class Settings(NamedTuple):
    """The settings in the process's environment, read once and checked.

    Attributes:
        config: TRUSS_CONFIG as written, or None.
        model_cache_dir: TRUSS_MODEL_CACHE_DIR, absolute, or None.
        mount_root: TRUSS_MOUNT_ROOT, absolute, or None.
        secrets_dirs: where named secrets are looked up, in order: (/secrets, /etc/secrets), or TRUSS_SECRETS_DIR in
            place of the first.
        project: TRUSS_CACHE_PROJECT, or None; safe as a file name.
        connections: TRUSS_CACHE_CONNECTIONS (1 to 256), or None.
        max_rate: TRUSS_CACHE_MAX_RATE in bytes a second, or None.
        max_bytes: TRUSS_CACHE_MAX_BYTES, or None.
        replace: TRUSS_CACHE_REPLACE: a foreign file at a path of an entry is replaced.
        accept_unverified: TRUSS_CACHE_ACCEPT_UNVERIFIED: bytes that two fetches gave equally are accepted although
            the ETag, which looks like an MD5, is not their MD5.
        follow_links: TRUSS_CACHE_FOLLOW_LINKS: links that lead out of a `file://` source are followed.
        digests: TRUSS_CACHE_DIGESTS: (URL, digest) of files of web servers, as written.
        locked: TRUSS_CACHE_LOCKED: nothing is fetched without a model_cache.lock that has every entry of the config.
        hub_mirrors: TRUSS_CACHE_HF_ENDPOINTS: URLs without a slash at their ends.
        events: TRUSS_CACHE_EVENTS, absolute, or None: what the events of a run are appended to.
        strict_patterns: a pattern that matches nothing, beside others that do, is an error. Of no variable.
        debug: TRUSS_CACHE_DEBUG.
        offline: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is true.
        cwd: what relative paths of the environment are relative to.
        environment: a copy of the environment, for the methods of this class alone.
    """

    config: str | None = None
    model_cache_dir: Path | None = None
    mount_root: Path | None = None
    secrets_dirs: tuple[Path, ...] = (Path("/secrets"), Path("/etc/secrets"))
    project: str | None = None
    connections: int | None = None
    max_rate: int | None = None
    max_bytes: int | None = None
    replace: bool = False
    accept_unverified: bool = False
    follow_links: bool = False
    digests: tuple[tuple[str, str], ...] = ()
    locked: bool = False
    hub_mirrors: tuple[str, ...] = ()
    events: Path | None = None
    strict_patterns: bool = False
    debug: bool = False
    offline: bool = False
    cwd: Path = Path()
    environment: Mapping[str, str] = {}

    def __repr__(self) -> str:  # without the environment, which may hold secrets
        shown = (f"{name}={value!r}" for name, value in self._asdict().items() if name != "environment")
        return f"Settings({', '.join(shown)})"

    def hub_cache(self, hub_env: tuple[tuple[str, str], ...] = ()) -> Path:
        """Return the absolute path of the hub cache, by huggingface_hub's rules (constants.py).

        A variable that is set and empty counts as set.

        Args:
            hub_env: the hub variables of a config; where there are any, those of the process do not count.
        """
        variables = dict(hub_env) if hub_env else self.environment
        legacy = variables.get("HUGGINGFACE_HUB_CACHE", os.path.join(self._hub_home(variables), "hub"))
        return self._absolute(self._expanded(variables.get("HF_HUB_CACHE", legacy)))

    @property
    def home(self) -> str:
        """The user's home folder; "~" if it is not known."""
        return self._expanded_user("~")

    @property
    def state_dir(self) -> Path:
        """Our folder for state that outlives a config: `truss-cache` in $XDG_STATE_HOME, else in ~/.local/state."""
        home = self.environment.get("XDG_STATE_HOME") or os.path.join(self._expanded_user("~"), ".local", "state")
        return self._absolute(home) / "truss-cache"

    def token_file(self) -> Path:
        """Return the path of the token file of `hf auth login`, by the process's variables."""
        default = os.path.join(self._hub_home(self.environment), "token")
        return self._absolute(self._expanded(self.environment.get("HF_TOKEN_PATH", default)))

    def named_file(self, variables: Iterable[str], default: str) -> Path:
        """Return the file that the first of `variables` names that is set, else `default`, which may begin with `~`."""
        named = next(filter(None, map(self.variable, variables)), default)
        return self._absolute(self._expanded_user(named))

    def variable(self, name: str) -> str:
        """Return a variable that a store's row names for its credential; "" where it is not set."""
        return self.environment.get(name, "")

    @property
    def network(self) -> "Network":
        """The network settings of sources and transfers, by the process's variables."""
        from truss_cache_tasks.network.settings import Network  # not needed by a run that sends no request

        return Network.from_env(self.environment, follow_links=self.follow_links, hub_mirrors=self.hub_mirrors)

    def require_hub_endpoint(self) -> None:
        """Raise ConfigError if HF_ENDPOINT is no URL of a Hub."""
        from truss_cache_tasks.network.urls import hub_endpoint  # not needed by a run that sends no request

        hub_endpoint(self.variable("HF_ENDPOINT"))

    @property
    def sends_implicit_token(self) -> bool:
        """Whether HF_TOKEN and the login token may be used: not if HF_HUB_DISABLE_IMPLICIT_TOKEN is true."""
        return self.environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() not in _TRUE

    def _hub_home(self, variables: Mapping[str, str]) -> str:
        cache = variables.get("XDG_CACHE_HOME", os.path.join(self._expanded_user("~"), ".cache"))
        return self._expanded(variables.get("HF_HOME", os.path.join(cache, "huggingface")))

    def _absolute(self, path: str) -> Path:
        return Path(os.path.abspath(self.cwd / path))

    def _expanded(self, path: str) -> str:
        """Return os.path.expandvars(os.path.expanduser(path)), with `environment` in place of os.environ."""
        return re.sub(r"\$(\w+|\{[^}]*\})", self._variable, self._expanded_user(path), flags=re.ASCII)

    def _variable(self, match: re.Match[str]) -> str:
        return self.environment.get(match[1].strip("{}"), match[0])

    def _expanded_user(self, path: str) -> str:
        if not path.startswith("~"):
            return path
        user, slash, rest = path[1:].partition("/")
        try:
            home = self.environment.get("HOME") if not user else None
            home = home if home is not None else _home_of(user)
        except KeyError:
            return path
        return home.rstrip("/") + slash + rest or "/"


def read_settings(env: Mapping[str, str], cwd: Path) -> Settings:
    """Read the environment; a variable of ours that is empty counts as not set.

    Args:
        env: the environment; `os.environ` may be passed, a copy is kept.
        cwd: absolute; what relative paths are relative to.

    Raises:
        ConfigError: names the variable and what it may hold.
    """
    env = dict(env)
    get = _Reader(env, cwd)
    get.parsed("TRUSS_CACHE_R2_ENDPOINT", _endpoint)  # only checked here: the source gets it in Network.variables
    get.parsed("TRUSS_CACHE_XET", _no_xet)
    return Settings(
        config=get.text("TRUSS_CONFIG"),
        model_cache_dir=get.folder("TRUSS_MODEL_CACHE_DIR"),
        mount_root=get.folder("TRUSS_MOUNT_ROOT"),
        secrets_dirs=(get.folder("TRUSS_SECRETS_DIR") or Path("/secrets"), Path("/etc/secrets")),
        project=get.parsed("TRUSS_CACHE_PROJECT", _project),
        connections=get.parsed("TRUSS_CACHE_CONNECTIONS", _connections),
        max_rate=get.parsed("TRUSS_CACHE_MAX_RATE", _rate),
        max_bytes=get.parsed("TRUSS_CACHE_MAX_BYTES", parse_size),
        replace=get.parsed("TRUSS_CACHE_REPLACE", _boolean) or False,
        accept_unverified=get.parsed("TRUSS_CACHE_ACCEPT_UNVERIFIED", _boolean) or False,
        follow_links=get.parsed("TRUSS_CACHE_FOLLOW_LINKS", _boolean) or False,
        digests=_digests(env.get("TRUSS_CACHE_DIGESTS", "")),
        locked=get.parsed("TRUSS_CACHE_LOCKED", _boolean) or False,
        hub_mirrors=get.urls("TRUSS_CACHE_HF_ENDPOINTS"),
        events=get.folder("TRUSS_CACHE_EVENTS"),
        debug=get.parsed("TRUSS_CACHE_DEBUG", _boolean) or False,
        offline=(env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or "").lower() in _TRUE,
        cwd=cwd,
        environment=env,
    )


class _Reader:
    """Reads single variables; a ConfigError names the one that is wrong."""

    def __init__(self, env: Mapping[str, str], cwd: Path) -> None:
        self.env = env
        self.cwd = cwd

    def text(self, name: str) -> str | None:
        return self.env.get(name) or None

    def folder(self, name: str) -> Path | None:
        text = self.text(name)
        if text is None:
            return None
        home = Settings(environment=self.env, cwd=self.cwd)
        return home._absolute(home._expanded_user(text))

    def urls(self, name: str) -> tuple[str, ...]:
        """Return the URLs with commas between them, each once. The error shows none: one may hold a password."""
        text = self.text(name)
        if text is None:
            return ()
        from truss_cache_tasks.network.urls import parse_base_url  # few processes have such a variable

        found: list[str] = []
        for number, url in enumerate(text.split(","), 1):
            try:
                found.append(parse_base_url(url.strip()))
            except ValueError as want:
                message = f"{name}: got another text at place {number}, expected {want}"
                raise ConfigError(message, hint=f"Correct {name}, or unset it.") from None
        return tuple(dict.fromkeys(found))

    def parsed(self, name: str, rule: Callable[[str], T]) -> T | None:
        text = self.text(name)
        try:
            return None if text is None else rule(text)
        except ValueError as want:
            shown = re.sub("//.*@", "//***@", text or "", flags=re.DOTALL)  # a user and a password in a URL
            raise ConfigError(f"{name}: got {shown!r}, expected {want}", hint=f"Correct {name}, or unset it.") from None


def _digests(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for number, word in enumerate(text.split(), 1):
        url, equals, digest = word.rpartition("=")
        if not url or not equals:  # the word is not shown, as a query may hold a secret
            raise ConfigError(
                f"TRUSS_CACHE_DIGESTS: word {number} is not URL=sha256:HEX", hint="Correct it, or unset the variable."
            )
        pairs.append((url, digest))
    return tuple(pairs)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("1 or 0 (or yes, no, true, false, on, off)")
    return text.lower() in _TRUE


def _no_xet(text: str) -> None:
    """Raise ValueError for a variable on which nothing acts (docs/adr/0040)."""
    if text.lower() not in _FALSE:
        raise ValueError("0: files that the Hub keeps in Xet come by their resolve URLs")


def _project(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}", text):
        raise ValueError("1 to 100 letters, digits, '.', '_', '@', '+' and '-', the first a letter or digit")
    return text


def _endpoint(text: str) -> str:
    host = r"(?:[A-Za-z0-9_.-]|\{account_id\})+|\[[0-9A-Fa-f:.]+\]"
    if not re.fullmatch(rf"https?://(?:{host})(?::[0-9]{{1,5}})?/?", text):
        raise ValueError("https://HOST or http://HOST:PORT, where {account_id} may stand for the account")
    return text


def _connections(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= _MOST_CONNECTIONS:
        raise ValueError(f"a number from 1 to {_MOST_CONNECTIONS}")
    return int(text)


def _rate(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMG]?)", text.upper())
    rate = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if rate < 1:
        raise ValueError("bytes a second as a positive number, with K, M or G of 1000: 500K, 50M, 1.5G")
    return rate


def parse_size(text: str) -> int:
    """Return a number of bytes. Raises ValueError, which says what is expected.

    >>> parse_size("1.5G"), parse_size("0")
    (1500000000, 0)
    """
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([KMGT]?)", text.upper(), re.ASCII)
    if match is None or (match[2] and not match[3]):
        raise ValueError("bytes as a number, with K, M, G or T of 1000: 500M, 1.5T")
    fraction = match[2] or ""
    units: int = 10 ** len(fraction)
    return int(match[1] + fraction) * _UNITS[match[3]] // units


def parse_age(text: str) -> float:
    """Return a time in seconds. Raises ValueError, which says what is expected.

    >>> parse_age("30d")
    2592000.0
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.lower(), re.ASCII)
    if match is None:
        raise ValueError("a time as a number with s, m, h, d or w: 12h, 30d, 8w")
    return float(int(match[1]) * _SECONDS[match[2]])


def _home_of(user: str) -> str:
    """Return the home folder of a user, "" for the current one, from the password database. Raises KeyError."""
    import pwd  # not needed where HOME is set

    return (pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())).pw_dir
