"""What the operator decided about the global scheduler: read once, checked once, typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from schedulercommon.errors import ConfigError
from schedulercommon.model import NAME
from schedulerglobal.core.policies import Policy, parse_policy
from schedulerprocess.settings import parse_count, parse_port, parse_seconds, read_setting

DEFAULT_STORE = "sqlite:///./schedulerglobal.db"
LEAST_LEASE_S = 0.5
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
_OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings:
    """See ``dotenv`` for units and defaults."""

    address: str = "127.0.0.1"
    port: int = 8100
    delay_s: float = 15.0
    urls: tuple[str, ...] = ()
    """Of the local schedulers."""
    token_file: Path | None = None
    local_token_file: Path | None = None
    """With the token sent to them."""
    store: str = DEFAULT_STORE
    policy: Policy
    seed: int | None = None
    """Of what is left to chance."""
    call_timeout_s: float = 90.0
    cluster: str = ""
    """Which cluster this is, where a store could be another's."""
    lease_s: float = 3.0
    """How long the lead lasts unless it is renewed."""
    own_url: str = ""
    """Where other global schedulers of the cluster find this one."""

    @classmethod
    def from_env(cls, env: Mapping[str, str], hosts: str | None = None) -> GlobalSettings:
        """*hosts* is a list that replaces SCG_NODE_URL_LIST. Raises ConfigError, naming the
        setting."""
        address = read_setting(env, "SCG_URL", str, "127.0.0.1")
        port = read_setting(env, "SCG_PORT", parse_port, 8100)
        if hosts is None:
            urls, named = (
                read_setting(env, "SCG_NODE_URL_LIST", parse_urls, ()),
                "SCG_NODE_URL_LIST",
            )
        else:
            urls, named = read_setting({"--list": hosts}, "--list", parse_urls, ()), "--list"
        for url in urls:
            if is_own(url, address, port):
                raise ConfigError(
                    f"{named}: {url} is this global scheduler itself; name local schedulers only"
                )
        store = read_setting(env, "SCG_STORE", str, DEFAULT_STORE)
        cluster = read_setting(env, "SCG_CLUSTER", parse_cluster, "")
        if is_shared(store) and not cluster:
            raise ConfigError(
                "SCG_CLUSTER: is not set, and another cluster could be pointed at the same"
                " database; give this one a name of its own, the same for its global schedulers"
            )
        own_url = read_setting(env, "SCG_OWN_URL", parse_own_url, "")
        if own_url in urls:
            raise ConfigError(
                f"{named}: {own_url} is this global scheduler itself; name local schedulers only"
            )
        if is_shared(store) and not own_url:
            if address in _ANY_ADDRESS or not port:
                raise ConfigError(
                    "SCG_OWN_URL: is not set, and the others cannot find this one at"
                    f" {address}:{port}; write the http://HOST:PORT under which they reach it"
                )
            own_url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        return cls(
            address=address,
            port=port,
            delay_s=read_setting(env, "SCG_DELAY", parse_seconds, 15.0),
            urls=urls,
            token_file=read_setting(env, "SCG_TOKEN_FILE", Path, None),
            local_token_file=read_setting(env, "SCG_LOCAL_TOKEN_FILE", Path, None),
            store=store,
            policy=read_setting(env, "SCG_POLICY", parse_policy, parse_policy("progress")),
            seed=read_setting(env, "SCG_SEED", parse_count, None),
            call_timeout_s=read_setting(env, "SCG_CALL_TIMEOUT", parse_seconds, 90.0),
            cluster=cluster,
            lease_s=read_setting(env, "SCG_LEASE", parse_lease, 3.0),
            own_url=own_url,
        )


def is_shared(store: str) -> bool:
    """Whether several global schedulers can have the store of that address open."""
    return store.partition("://")[0] in ("postgresql", "postgres")


def parse_cluster(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name; write up to 63 letters, digits, dots, dashes or underscores"
        )
    return text


def parse_urls(text: str) -> tuple[str, ...]:
    """Addresses parted by commas, or nothing; raises ValueError for a bad one, one that is missing
    between commas, or one given twice."""
    urls = [parse_url(part.strip()) for part in text.split(",")] if text.strip() else []
    for number, url in enumerate(urls):
        if url in urls[:number]:
            raise ValueError(f"{url} is given twice; give it once")
    return tuple(urls)


def parse_lease(text: str) -> float:
    lease_s = parse_seconds(text)
    if lease_s < LEAST_LEASE_S:
        raise ValueError(
            f"{text[:20]} s is over before a database has answered; write {LEAST_LEASE_S} or more"
        )
    return lease_s


def parse_own_url(text: str) -> str:
    """As :func:`parse_url`."""
    try:
        return parse_url(text)
    except ValueError as problem:
        raise ValueError(str(problem).replace("a local scheduler", "a global scheduler")) from None


def parse_url(text: str) -> str:
    """``http://host:port``, from that or from ``host:port``; raises ValueError with a sentence."""
    wrong = f"{text[:100]!r} is not the address of a local scheduler; write http://HOST:PORT"
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme != "http":
        raise ValueError(f"{text[:100]!r} is not an http:// address; write http://HOST:PORT")
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if extra or not port or not _HOST.fullmatch(host):
        raise ValueError(wrong)
    return f"http://{host.lower()}:{port}"


def is_own(url: str, address: str, port: int) -> bool:
    """Whether *url* leads to a service listening on *address* and *port*."""
    parts = urlsplit(url)
    ours = _OWN_NAMES | {address.lower()} if address in _OWN_NAMES else {address.lower()}
    return parts.port == port and parts.hostname in ours
