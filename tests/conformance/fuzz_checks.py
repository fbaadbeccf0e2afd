"""A check of ours for Schemathesis, which loads this file (`SCHEMATHESIS_HOOKS`)."""

import schemathesis

TIMEOUT_HEADER = "x-request-timeout-ms"


@schemathesis.check
def fails_only_by_a_deadline_of_the_callers(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Nothing that can be sent makes the service fail, but for asking to be answered too soon."""
    if response.status_code < 500:
        return
    hurried = TIMEOUT_HEADER in {name.lower() for name in case.headers or {}}
    assert response.status_code == 504, f"{response.status_code} is no answer to any request"
    assert hurried, "504, and the caller had set no deadline"
