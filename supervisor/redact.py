"""Secrets out of text, before it is stored or shown: evidence, captured commands, what a command line says. Pure.

It errs towards taking too much: a word that only looks like a secret is lost, a secret must not be kept. What it cannot
know is a secret that looks like any other word and stands beside nothing that says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

HIDDEN = "[redacted]"
TEXT_CHARS_MAX = 256 * 1024  # beyond it the rest is left out rather than looked through

# A name that says "secret": whole words, separated by case, digits, dashes or underscores, so that `--tokenizer` and
# `author` are none.
_SECRET = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key|"
    r"signing[_-]?key|encryption[_-]?key|account[_-]?key|credentials?|auth|authorization|bearer|cookie|session[_-]?id|"
    r"dsn|webhook[_-]?url|mnemonic|seed[_-]?phrase|pin|otp|key)"
)
_NAME = rf"(?:[A-Za-z0-9]{{1,40}}[_.-]){{0,6}}{_SECRET}(?:[_.-][A-Za-z0-9]{{1,40}}){{0,3}}"
_CAMEL = r"[A-Za-z0-9]{0,40}(?:Password|Passwd|Secret|Token|ApiKey|AccessKey|PrivateKey|SecretKey|Credentials?|APIKey)"
_VALUE = r"""(?:\[redacted\]|"(?:[^"\\]|\\.){0,4096}"|'[^']{0,4096}'|[^\s"'&;,]{1,4096})"""

_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
# Shapes that are secrets by themselves, wherever they stand.
_SHAPES = re.compile(
    r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"  # JSON web tokens
    r"|\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"  # GitHub, GitLab
    r"|\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}"  # Slack
    r"|\b[sr]k[-_](?:live_|test_|proj-|ant-)?[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic, Stripe
    r"|\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{16,}"  # Google
    r"|\bnpm_[A-Za-z0-9]{20,}|\bpypi-[A-Za-z0-9_-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bdop_v1_[a-f0-9]{32,}"
    r"|\b\d{6,12}:AA[A-Za-z0-9_-]{30,}"  # Telegram
    r"|https://hooks\.slack\.com/services/[A-Za-z0-9/_-]+|https://discord(?:app)?\.com/api/webhooks/[A-Za-z0-9/_-]+"
)
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,30}://)([^\s/?#\"'@:]{0,256}):([^\s/?#\"']{0,1024})@")
_URL_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,30}://)([^\s/?#\"'@:]{20,1024})@")  # a token in the user's place
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z0-9-]{0,40}(?:key|token|secret|auth|signature))"
    r"(\s{0,4}[:=]\s{0,4})[^\r\n\"']{1,4096}",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic|digest|negotiate)\s{1,4}[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""(?<![A-Za-z0-9])((?:{_NAME})|(?:{_CAMEL}))(["']?\s{{0,3}}(?::=|=>|=|:)\s{{0,3}})(?!//){_VALUE}""",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"(?<![\w-])(--?(?:{_NAME}|{_CAMEL}))(\s{{1,4}})(?!-){_VALUE}", re.IGNORECASE)
# After such a word, at some distance, a long run of hex or base64: "token is 0123...", "the key, abcd...".
_NEARBY = re.compile(
    rf"(?<![A-Za-z0-9])({_SECRET})\b([^\n]{{0,20}}?[\s:='\"(])([A-Fa-f0-9]{{20,}}|[A-Za-z0-9+/_-]{{24,}}={{0,2}})",
    re.IGNORECASE,
)
# A short text without any of these holds no secret that could be known for one.
_MAYBE = re.compile(r"[\s:=]")
_SHAPE_CHARS_MIN = 12
_SECRET_NAME = re.compile(rf"(?:{_NAME}|{_CAMEL})", re.IGNORECASE)
_OPTION_WORD = re.compile(rf"--?(?:{_NAME}|{_CAMEL})", re.IGNORECASE)
_NOT_SECRET = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY", "PASSENGER", "AUTHOR"})
# Options whose short form takes a secret, by the program that reads them.
_SHORT = {
    "curl": {"-u": "user", "-U": "user", "-H": "text"},
    "wget": {},
    "mysql": {"-p": "joined"}, "mysqldump": {"-p": "joined"}, "mysqladmin": {"-p": "joined"},
    "mariadb": {"-p": "joined"}, "mariadb-dump": {"-p": "joined"},
    "sshpass": {"-p": "both"},
    "redis-cli": {"-a": "both"}, "mongosh": {"-p": "both"}, "mongo": {"-p": "both"},
    "docker": {"-p": "login"}, "podman": {"-p": "login"},
    "ldapsearch": {"-w": "both"}, "openssl": {"-k": "both", "-passin": "both", "-passout": "both", "-pass": "both"},
}  # fmt: skip


def text(given: str) -> str:
    """`given` without what looks like a secret; idempotent."""
    if len(given) < _SHAPE_CHARS_MIN and not _MAYBE.search(given):
        return given
    cut = len(given) > TEXT_CHARS_MAX
    out = given[:TEXT_CHARS_MAX]
    out = _BLOCK.sub(HIDDEN, out)
    out = _URL.sub(rf"\1\2:{HIDDEN}@", out)
    out = _URL_USER.sub(rf"\1{HIDDEN}@", out)
    out = _HEADER.sub(rf"\1\2{HIDDEN}", out)
    out = _SCHEME.sub(rf"\1 {HIDDEN}", out)
    out = _SHAPES.sub(HIDDEN, out)
    out = _ASSIGNED.sub(_assigned, out)
    out = _OPTION.sub(rf"\1\2{HIDDEN}", out)
    out = _NEARBY.sub(rf"\1\2{HIDDEN}", out)
    return out + " ... (the rest is left out)" if cut else out


def words(argv: Sequence[str]) -> tuple[str, ...]:
    """A command line, word by word: what a word is, is known here, so that a secret with spaces goes as a whole."""
    out: list[str] = []
    short = _short(argv)
    how = ""  # what the word before says of this one
    for word in argv:
        if how in ("both", "login"):
            out.append(HIDDEN)
            how = ""
            continue
        if how == "user":
            out.append(f"{word.partition(':')[0]}:{HIDDEN}" if ":" in word else word)
            how = ""
            continue
        how = ""
        name, equals, value = word.partition("=")
        joined = next((o for o, kind in short.items() if kind in ("joined", "both") and _is_joined(word, o)), "")
        if equals and value and _is_secret_name(name.lstrip("-")):
            out.append(f"{name}={HIDDEN}")
        elif joined:
            out.append(f"{joined}{HIDDEN}")
        else:
            out.append(text(word))
            how = "both" if _OPTION_WORD.fullmatch(word) else short.get(word, "")
            if how in ("joined", "text"):
                how = ""
    return tuple(out)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Variables: those with a secret's name lose their value whole."""
    return {name: HIDDEN if value and _is_secret_name(name) else text(value) for name, value in env.items()}


def _assigned(match: re.Match[str]) -> str:
    name = match[1]
    return match[0] if name in _NOT_SECRET else f"{name}{match[2]}{HIDDEN}"


def _is_secret_name(name: str) -> bool:
    return name not in _NOT_SECRET and _SECRET_NAME.fullmatch(name) is not None


def _is_joined(word: str, option: str) -> bool:
    return len(word) > len(option) and word.startswith(option) and not word.startswith("--")


def _short(argv: Sequence[str]) -> Mapping[str, str]:
    """The short options of the program that this command line runs, behind `sudo` and the like, too."""
    for word in argv[:6]:
        found = _SHORT.get(word.rpartition("/")[2])
        if found is not None:
            return found
    return {}
