"""Who may call what: every route with its permission. A route that is not named here does not start.

What changes anything asks a browser's session for more than its cookie, which every port of the server's host receives: also
for the secret that only the page's own origin holds. `cookie_alone` names the exceptions, each with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from switchboard.domain.people import Permission as P

V1 = "/api/v1"


@dataclass(frozen=True, slots=True)
class Rule:
    permission: P | None = None  # None: whoever is signed in; the service looks further
    public: str = ""  # why nobody needs to be signed in
    cookie_alone: str = ""  # why a change, as HTTP has it, needs no secret of the page


SIGNED_IN = Rule()
SHELL = Rule(public="the page itself holds nothing; what it shows it asks for")

TABLE: Mapping[tuple[str, str], Rule] = {
    ("GET", "/"): SHELL,
    ("GET", "/sign-in"): SHELL,
    ("GET", "/approvals"): SHELL,
    ("GET", "/stops"): SHELL,
    ("GET", "/machines"): SHELL,
    ("GET", "/account"): SHELL,
    ("GET", "/r/{id}"): SHELL,
    ("GET", "/a/{id}"): SHELL,
    ("GET", "/s/{id}"): SHELL,
    ("GET", "/panel/{path:path}"): SHELL,
    ("GET", "/healthz"): Rule(public="load balancers have no account; it says up or not"),
    ("GET", f"{V1}/healthz"): Rule(public="load balancers have no account; it says up or not"),
    ("GET", f"{V1}/openapi.json"): Rule(public="the same words as in the source; no data"),
    ("POST", f"{V1}/session"): Rule(public="this is how one signs in"),
    ("POST", f"{V1}/session/link"): Rule(public="this is how one signs in"),
    ("GET", f"{V1}/session"): SIGNED_IN,
    ("DELETE", f"{V1}/session"): Rule(cookie_alone="a page that lost its secret must still find the way out"),
    ("PUT", f"{V1}/session/password"): SIGNED_IN,
    ("GET", f"{V1}/runs"): Rule(P.LOOK),
    ("POST", f"{V1}/runs"): Rule(P.START),
    ("GET", f"{V1}/runs/{{id}}"): Rule(P.LOOK),
    ("DELETE", f"{V1}/runs/{{id}}"): Rule(P.PURGE),
    ("POST", f"{V1}/runs/{{id}}/messages"): Rule(P.START),
    ("POST", f"{V1}/runs/{{id}}/interrupt"): Rule(P.START),
    ("POST", f"{V1}/runs/{{id}}/resume"): Rule(P.START),
    ("POST", f"{V1}/runs/{{id}}/end"): Rule(P.START),
    ("POST", f"{V1}/runs/{{id}}/stop"): Rule(P.STOP),
    ("GET", f"{V1}/runs/{{id}}/output"): Rule(P.LOOK),
    ("GET", f"{V1}/runs/{{id}}/output/stream"): Rule(P.LOOK),
    ("GET", f"{V1}/runs/{{id}}/diff"): Rule(P.LOOK),
    ("GET", f"{V1}/approvals"): Rule(P.LOOK),
    ("GET", f"{V1}/approvals/{{id}}"): Rule(P.LOOK),
    ("POST", f"{V1}/approvals/{{id}}/votes"): Rule(P.VOTE),
    ("POST", f"{V1}/orders/preview"): Rule(P.LOOK, cookie_alone="it only looks; POST is for the size of its question"),
    ("GET", f"{V1}/orders"): Rule(P.LOOK),
    ("POST", f"{V1}/orders"): Rule(P.STOP),
    ("GET", f"{V1}/orders/{{id}}"): Rule(P.LOOK),
    ("POST", f"{V1}/orders/{{id}}/lift"): Rule(P.STOP),  # one's own, or with the permission to lift; never by a token
    ("POST", f"{V1}/orders/{{id}}/extend"): Rule(P.STOP),
    ("GET", f"{V1}/machines"): Rule(P.LOOK),
    ("POST", f"{V1}/machines/invites"): Rule(P.INVITE_MACHINE),
    ("POST", f"{V1}/machines/{{id}}/revoke"): Rule(P.REVOKE_MACHINE),
    ("GET", f"{V1}/machines/{{id}}/safety"): Rule(P.LOOK),
    ("GET", f"{V1}/machines/{{id}}/safety/{{sid}}"): Rule(P.LOOK),
    ("POST", f"{V1}/machines/{{id}}/safety/{{sid}}/restore"): Rule(P.START),
    ("GET", f"{V1}/people"): Rule(P.LOOK),
    ("POST", f"{V1}/people"): Rule(P.PEOPLE),
    ("PATCH", f"{V1}/people/{{id}}"): Rule(P.PEOPLE),
    ("POST", f"{V1}/people/{{id}}/link"): SIGNED_IN,  # one's own, or with the permission for people
    ("GET", f"{V1}/tokens"): SIGNED_IN,
    ("POST", f"{V1}/tokens"): SIGNED_IN,
    ("DELETE", f"{V1}/tokens/{{id}}"): SIGNED_IN,
    ("GET", f"{V1}/audit"): Rule(P.AUDIT),
    ("GET", f"{V1}/audit/verdict"): Rule(P.AUDIT),
    ("GET", f"{V1}/instructions/{{id}}"): Rule(P.LOOK),
    ("GET", f"{V1}/events"): Rule(P.LOOK),
}
