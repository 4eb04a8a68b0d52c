"""Masks keys, passwords and tokens in whatever is shown, logged or written.

They come in urls: s3://KEY:SECRET@host, https://user:token@server, ...?X-Amz-Signature=... A
library's error may repeat one that was only in an environment variable of that library.
"""

import re

MASK = "***"
# Before the host; also secrets with a slash, as those of AWS have, but no port.
_BEFORE_HOST = re.compile(r"""://(?:[^\s"'/]+|[^\s"'/@]*:(?!\d+/)[^\s"'@]+)@""")
_IN_QUERY = re.compile(
    r"""([?&;][\w.%-]*(?:sig|signature|token|secret|passw(?:or)?d|pwd|credential|key|keyid)=)"""
    r"""[^&;\s"'#]+""",
    re.IGNORECASE,
)


def redacted(text):
    """The text with MASK in place of credentials in urls; a text without any stays as it is."""
    return _IN_QUERY.sub(rf"\g<1>{MASK}", _BEFORE_HOST.sub(f"://{MASK}@", text))
