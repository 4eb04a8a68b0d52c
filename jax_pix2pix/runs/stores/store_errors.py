"""Which errors of the packages of stores are worth another try; none of these is imported."""

import os

# Transient errors, by the names of their classes in the packages of stores.
PASSING = {
    "ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError",
    "IncompleteRead", "MetadataRetrievalError", "ResponseParserError", "Timeout", "TimeoutError",
}  # fmt: skip
BUSY = (408, 409, 429)  # transient status codes of HTTP, besides those of a server's own errors


def passes(error):
    """Whether an error of a store's package, or one of its causes, is transient."""
    for cause in causes(error):
        status = status_of(cause)
        if status in BUSY or (status >= 500 and status != 501):
            return True
        if PASSING & {kind.__name__ for kind in type(cause).__mro__}:
            return True
    return False


def credentials_may_come(error):
    """Whether they are missing in a pod, whose metadata server does not answer at first.

    gcsfs then asks without credentials, which is refused with 401.
    """
    return "KUBERNETES_SERVICE_HOST" in os.environ and any(
        status_of(cause) == 401 or type(cause).__name__ == "NoCredentialsError"
        for cause in causes(error)
    )


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def statuses(error):
    """The HTTP status codes of an error and its causes."""
    return {status_of(cause) for cause in causes(error)}


def status_of(error):
    """The HTTP status code of an error of botocore, gcsfs or aiohttp; 0 without one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(getattr(error, "code", None) or getattr(error, "status", None))
    return int(code) if code.isdecimal() else 0
