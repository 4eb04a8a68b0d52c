"""Masks keys, passwords and tokens in whatever is shown, logged or written.

They come in urls: s3://KEY:SECRET@host, https://user:token@server, ...?X-Amz-Signature=..., and in
what libraries tell of headers and settings: Authorization: Bearer ..., {'aws_secret_access_key':
'...'}. A library's error may repeat one that was only in an environment variable of that library.
"""

import re

MASK = "***"
_NAMES = (
    r"[\w.%-]*(?:sig|signature|token|secret|passw(?:or)?d|pwd|credentials?|key|keyid)"
    r"|(?:[\w.%-]*[-_.])?(?:auth|authorization|jwt|pass|code|session(?:_?id)?)"
)
_SETTINGS = r"[\w.-]*(?:secret|token|passw(?:or)?d|credentials?|signature|(?:access|api)[_-]?key)"
# (what is masked, what stays of it). A bucket has no port, so a store's secret may begin as one.
# Lengths are bounded so that no text takes long.
_RULES = [
    (re.compile(pattern, re.IGNORECASE), stays)
    for pattern, stays in (
        (r"""\b((?:s3a?|gs):/{1,2})[^\s"'/@]{0,200}:[^\s"'@]{1,500}@""", rf"\1{MASK}@"),
        (r"""\b((?:https?|ftp):/)(?!/)[^\s"'/@]{0,200}:[^\s"'@]{1,500}@""", rf"\1{MASK}@"),
        # Before the host; also secrets with a slash, as those of AWS have, but no port.
        (
            r"""://(?:[^\s"'/]{1,500}|[^\s"'/@]{0,200}:(?!\d{1,5}/)[^\s"'@]{1,500})@""",
            f"://{MASK}@",
        ),
        (rf"""([?&;#](?:{_NAMES})=)(?:"[^"\n]*"|'[^'\n]*'|[^&;\s"'#]+)""", rf"\1{MASK}"),
        (  # schemes of one word, and others, which have several parts
            r"""\b(authorization["']?\s*:\s*["']?)"""
            r"""(?:(?:bearer|basic|token)\s+[^\s"',;]+|[^\s*"'][^"'\n]*)""",
            rf"\1{MASK}",
        ),
        (r"\b(bearer\s+)[\w.~+/-]{16,}=*", rf"\1{MASK}"),
        (rf"""(["'](?:{_SETTINGS})["']\s*:\s*)(?:"[^"\n]*"|'[^'\n]*')""", rf"\1'{MASK}'"),
    )
]
_QUERY = re.compile(rf"([?&;#](?:{_NAMES})=)[^&;#]+", re.IGNORECASE)
_QUOTED = re.compile(r"""(?<=")\w+:/[^"\n]+(?=")|(?<=')\w+:/[^'\n]+(?=')""")


def redacted(text):
    """The text with MASK in place of credentials; a text without any stays as it is."""
    text = _QUOTED.sub(lambda match: _in_query(match[0]), text)
    for pattern, stays in _RULES:
        text = pattern.sub(stays, text)
    return text


def redacted_value(text):
    """As `redacted`, for a text that is one value, such as a url: a space is part of it."""
    return redacted(_in_query(text))


def _in_query(url):
    return _QUERY.sub(rf"\g<1>{MASK}", url)
