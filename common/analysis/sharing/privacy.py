"""Texts that may leave this machine: without names, folders, addresses and keys."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import os
import platform
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY, PATH, MAIL, ADDRESS, HOST, USER, WORD = "<key>", "<path>", "<mail>", "<address>", "<host>", "<user>", "<word>"
KINDS = {
    KEY: "key or token",
    PATH: "path",
    MAIL: "mail address",
    ADDRESS: "network address",
    HOST: "host name",
    USER: "user name",
    WORD: "hidden word",
}
# Accounts and hosts that are called alike everywhere tell nothing about anybody
COMMON_NAMES = frozenset(
    (
        *("root", "admin", "administrator", "user", "users", "ubuntu", "debian", "fedora", "centos", "ec2-user"),
        *("azureuser", "opc", "pi", "nobody", "guest", "default", "test", "tester", "student", "runner", "jovyan"),
        *("vscode", "codespace", "docker", "container", "sagemaker-user", "lab", "vllm", "gpu", "cpu", "node"),
        *("worker", "server", "host", "home", "work", "app", "data", "localhost", "localdomain"),
        "localhost.localdomain",
    )
)
PUBLIC_HOSTS = ("huggingface.co", "hf.co", "github.com", "pytorch.org", "vllm.ai", "nvidia.com", "python.org")
_SECRET_NAME = r"(?:token|secret|password|passwd|credentials?|api[-_]?key)"
_SECRET_OPTION = re.compile(rf"--?[\w-]*{_SECRET_NAME}", re.IGNORECASE)
_SEGMENT = r"[\w.@+=%~-]+"
_NOT_OURS = r"(?!(?:dev|v1|health|metrics|collective_rpc)(?![\w-]))"  # devices, and a server's own addresses
_AFTER_STAND_IN = "".join(f"(?<!{stand_in})" for stand_in in KINDS)


@dataclass(frozen=True)
class Rule:
    """What a kind of text looks like; group `keep` of a match stays, and `spares` lets harmless matches be."""

    stand_in: str
    pattern: re.Pattern[str]
    spares: Callable[[str], bool] = lambda _: False


@dataclass
class Privacy:
    """Replaces and finds what tells whose machine it was. `replaced` counts what was replaced, by kind."""

    rules: list[Rule]
    replaced: Counter[str] = field(default_factory=Counter)

    def clean(self, text: str) -> str:
        """The text with a stand-in such as `<path>` for everything private."""
        for _ in range(5):  # what one replacement uncovers, the next round finds
            before = text
            for rule in self.rules:
                text = rule.pattern.sub(lambda match, rule=rule: self._replaced(rule, match), text)  # type: ignore[misc]
            if text == before:
                break
        return text

    def clean_json(self, value: Any) -> Any:  # noqa: ANN401  # whatever JSON holds
        """The same document with every string clean, keys of objects included."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, dict):
            return {
                self.clean(key): KEY if _is_secret(key, one) else self.clean_json(one) for key, one in value.items()
            }
        if isinstance(value, list):
            options = [None, *value]
            return [
                KEY if _is_secret(option, one) else self.clean_json(one)
                for option, one in zip(options, value, strict=False)
            ]
        return value

    def found(self, text: str) -> list[str]:
        """The kinds of private text that it holds."""
        return [
            KINDS[rule.stand_in]
            for rule in self.rules
            if any(not rule.spares(match.group()) for match in rule.pattern.finditer(text))
        ]

    def found_json(self, value: Any) -> list[str]:  # noqa: ANN401  # whatever JSON holds
        """The same for every string of a document, and for what is secret by the name of its field or option."""
        if isinstance(value, str):
            return self.found(value)
        if isinstance(value, dict):
            named = list(value.items())
            kinds = [kind for key in value for kind in self.found(key)]
        elif isinstance(value, list):
            named, kinds = list(zip([None, *value], value, strict=False)), []
        else:
            return []
        for name, one in named:
            kinds += [KINDS[KEY]] if _is_secret(name, one) else self.found_json(one)
        return kinds

    def _replaced(self, rule: Rule, match: re.Match[str]) -> str:
        if rule.spares(match.group()):
            return match.group()
        self.replaced[KINDS[rule.stand_in]] += 1
        return str(match.groupdict().get("keep") or "") + rule.stand_in


@dataclass(frozen=True)
class Names:
    """What this machine and its user are called, and where the user's home is."""

    hosts: frozenset[str]
    users: frozenset[str]
    home: str


def names_here() -> Names:
    """This machine's and this user's names, as the system tells them."""
    hosts = {socket.gethostname(), socket.getfqdn(), platform.node(), os.environ.get("HOSTNAME", "")}
    home = Path.home()
    users = {home.name, *(os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER"))}
    with contextlib.suppress(KeyError, OSError):  # a container's user without an entry in the password file
        users.add(getpass.getuser())
    return Names(frozenset(hosts | {host.partition(".")[0] for host in hosts}), frozenset(users), str(home))


def rules_for(names: Names, harmless: Iterable[str] = (), hidden: Iterable[str] = ()) -> list[Rule]:
    """The rules that keep these names in, and everything that is private whoever it is of.

    A name is left alone, where it stands by itself, if it has one or two letters, if it is called alike everywhere
    (`root`), or if it is among `harmless`: words that results use themselves. As part of a path it goes with the path.
    `hidden` are further words, taken literally.
    """
    stand_ins = {stand_in.strip("<>") for stand_in in KINDS}
    known = {word.lower() for word in harmless} | COMMON_NAMES | stand_ins
    rules = [*_keys(), *_paths(names.home), Rule(MAIL, re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"))]
    rules += _addresses()
    rules += [Rule(WORD, _whole_word(word)) for word in _longest_first(set(hidden) - stand_ins - {""})]
    for stand_in, words in ((HOST, names.hosts), (USER, names.users)):
        telling = [word for word in words if len(word) > 2 and word.lower() not in known]
        rules += [Rule(stand_in, _whole_word(word)) for word in _longest_first(telling)]
    return rules


def _is_secret(name: object, value: object) -> bool:
    """Whether the value of an option or a field is one by its name."""
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and value not in ("", KEY)
        and bool(_SECRET_OPTION.fullmatch(name) or re.fullmatch(rf"(?i)(?:\w*_)?{_SECRET_NAME}", name))
    )


def _keys() -> Iterator[Rule]:
    shapes = (
        r"hf_[A-Za-z0-9]{10,}",  # Hugging Face
        r"(?:sk|rpa|nvapi|glpat)[-_][\w-]{10,}",  # OpenAI and its likes, RunPod, NVIDIA, GitLab
        r"gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",
        r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # AWS
        r"xox[a-z]-[\w-]{10,}",  # Slack
        r"AIza[\w-]{30,}",  # Google
        r"eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?",  # JSON web tokens
    )
    yield Rule(KEY, re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)", re.DOTALL))
    yield Rule(KEY, re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(shapes)})"))
    value = rf"(?!{KEY})[^\s\"',;]+"
    yield Rule(KEY, re.compile(rf"(?P<keep>--?[\w-]*{_SECRET_NAME}(?:=|\s+)){value}", re.IGNORECASE))
    yield Rule(KEY, re.compile(rf"(?P<keep>\b\w*{_SECRET_NAME}[\"']?\s*[=:]\s*[\"']?){value}", re.IGNORECASE))
    yield Rule(KEY, re.compile(rf"(?P<keep>\b[A-Z0-9_]+_KEY=|\bBearer\s+){value}"))
    yield Rule(KEY, re.compile(r"(?P<keep>://)[^\s/@'\"<>]+(?=@)"))  # user and password in an address


def _paths(home: str) -> Iterator[Rule]:
    yield Rule(PATH, re.compile(r"\b(?:file|ipc|unix)://[^\s'\"]+"))
    if len(home) > 1:
        yield Rule(PATH, re.compile(rf"{re.escape(home)}(?![\w-])(?:/{_SEGMENT})*/?"))
    yield Rule(PATH, re.compile(rf"(?<=(?P<quote>['\"`]))/{_NOT_OURS}[^'\"`\n/][^'\"`\n]*(?=(?P=quote))"))
    yield Rule(PATH, re.compile(rf"(?<![\w.~/]){_AFTER_STAND_IN}/{_NOT_OURS}{_SEGMENT}(?:/{_SEGMENT})*/?"))
    yield Rule(PATH, re.compile(rf"/(?:home|Users)/{_SEGMENT}(?:/{_SEGMENT})*"))
    yield Rule(PATH, re.compile(r"(?<![A-Za-z0-9])[A-Za-z]:\\[^\s'\"<>|]*|\\\\[\w.$-]+\\[^\s'\"<>|]*"))


def _addresses() -> Iterator[Rule]:
    octets = r"(?<![A-Za-z0-9.])\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z0-9]|\.\d|[-+][A-Za-z])"  # 5.15.167.4-wsl is a kernel
    yield Rule(ADDRESS, re.compile(octets), _is_harmless_address)
    yield Rule(ADDRESS, re.compile(r"(?<![\w:.])(?=[\w:]*:[\w:]*:)[0-9A-Fa-f:]{2,}(?![\w:])"), _is_harmless_address)
    yield Rule(ADDRESS, re.compile(r"(?<![A-Za-z0-9])ip(?:-\d{1,3}){4}(?:\.[\w-]+)*"))  # names that clouds give
    remote = r"(?P<keep>\b[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/@'\"]*@)?[^\s/:'\"<>,;)\]]+"
    yield Rule(HOST, re.compile(remote), _is_public)


def _is_harmless_address(text: str) -> bool:
    """Loopback, `any` and what is no address at all."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return True
    return address.is_loopback or address.is_unspecified


def _is_public(url: str) -> bool:
    host = url.partition("://")[2].lower()
    if "@" in host:
        return False
    public = any(host == known or host.endswith(f".{known}") for known in PUBLIC_HOSTS)
    return public or re.fullmatch(r"localhost|127(?:\.\d+){3}|0\.0\.0\.0", host) is not None


def _longest_first(words: Iterable[str]) -> list[str]:
    return sorted(words, key=lambda word: (-len(word), word))


def _whole_word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", re.IGNORECASE)
