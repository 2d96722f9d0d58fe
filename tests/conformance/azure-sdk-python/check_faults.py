"""Faults: the SDK must meet what it would meet at Azure, and cope as it does there."""

import time

from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import ClientSecretCredential

from harness import check, equal, fails, refused
from world import ADMINISTRATOR, ADMINISTRATOR_SECRET

SCOPE = "https://vault.azure.net/.default"


def fresh(world, **settings):
    """A client that has met its challenge, so that faults hit real reads."""
    world.secrets.set_secret("faulty", "value")
    client = world.secret_client(world.credential, **settings)
    client.get_secret("faulty")
    return client


@check("429 with Retry-After is waited for and retried")
def _(world):
    client = fresh(world)
    with world.fault("secrets.get", "throttle", times=1, retryAfter="1"):
        began = time.monotonic()
        equal(client.get_secret("faulty").value, "value")
        equal(time.monotonic() - began >= 1, True)


@check("429 without Retry-After is retried, and reported as Throttled when it lasts")
def _(world):
    client = fresh(world)
    with world.fault("secrets.get", "throttle", times=2):
        equal(client.get_secret("faulty").value, "value")
    with world.fault("secrets.get", "throttle"), refused(429, "Throttled"):
        fresh_one = world.secret_client(world.credential, retry_total=0)
        fresh_one.get_secret("faulty")


@check("500 and 503 are retried")
def _(world):
    client = fresh(world)
    for status in (500, 503):
        with world.fault("secrets.get", "status", times=2, status=status):
            equal(client.get_secret("faulty").value, "value")


@check("a connection that is reset, before and within the body, is an error of the transport")
def _(world):
    client = fresh(world, retry_total=0)
    with world.fault("secrets.get", "reset"), fails((ServiceRequestError, ServiceResponseError), ""):
        client.get_secret("faulty")
    with world.fault("secrets.get", "truncatedBody"), fails((IncompleteReadError, ServiceResponseError, HttpResponseError), ""):
        client.get_secret("faulty")
    equal(client.get_secret("faulty").value, "value")


@check("a hanging vault runs into the client's read time-out")
def _(world):
    client = fresh(world, retry_total=0, read_timeout=0.5)
    with world.fault("secrets.get", "hang"), fails((ServiceRequestError, ServiceResponseError), "timed out"):
        client.get_secret("faulty")


@check("garbage instead of JSON does not decode")
def _(world):
    client = fresh(world, retry_total=0)
    with world.fault("secrets.get", "garbageJson"), fails(DecodeError, "JSON is invalid"):
        client.get_secret("faulty")


@check("latency is felt")
def _(world):
    client = fresh(world)
    with world.fault("secrets.get", "latency", millis=300):
        began = time.monotonic()
        client.get_secret("faulty")
        equal(time.monotonic() - began >= 0.3, True)


@check("the vault's rate limit answers 429")
def _(world):
    client = fresh(world, retry_total=0)
    with world.fault("secrets.get", "rateLimit", transactions=1, creates=1), refused(429, "Throttled"):
        client.get_secret("faulty")
        client.get_secret("faulty")


@check("a lagging listing does not show what was just written")
def _(world):
    world.secrets.set_secret("just-written", "value")
    with world.fault("secrets.list", "laggingList", millis=600_000):
        names = {p.name for p in world.secrets.list_properties_of_secrets()}
        equal("just-written" in names, False)
    equal("just-written" in {p.name for p in world.secrets.list_properties_of_secrets()}, True)


@check("two versions within one second have the same timestamp")
def _(world):
    with world.fault("secrets.set", "frozenSecond"):
        one = world.secrets.set_secret("same-second", "one").properties
        time.sleep(1.1)
        two = world.secrets.set_secret("same-second", "two").properties
    equal(one.updated_on, two.updated_on)
    equal(one.version != two.version, True)
    equal(world.secrets.get_secret("same-second").value, "two")


@check("empty pages in between do not end a listing")
def _(world):
    client = world.secret_client(world.credential, "other")
    whole = [p.name for p in client.list_properties_of_secrets()]
    with world.fault("secrets.list", "emptyPages"):
        equal([p.name for p in client.list_properties_of_secrets()], whole)


@check("a listing without end goes on for as long as it is asked")
def _(world):
    client = world.secret_client(world.credential, "other")
    with world.fault("secrets.list", "endlessNextLink"):
        pages = client.list_properties_of_secrets().by_page()
        equal(len([list(next(pages)) for _ in range(40)]), 40)


@check("an outage of the token endpoint is an authentication error, and its end is noticed")
def _(world):
    def credential():
        return ClientSecretCredential(
            world.tenant, ADMINISTRATOR, ADMINISTRATOR_SECRET, disable_instance_discovery=True, retry_total=0
        )

    with world.fault("token.*", "status", status=503), fails((ClientAuthenticationError, HttpResponseError), ""):
        credential().get_token(SCOPE)
    with world.fault("token.*", "tokenError", code=700213), fails(ClientAuthenticationError, "AADSTS700213"):
        credential().get_token(SCOPE)
    equal(bool(credential().get_token(SCOPE).token), True)


@check("a storm of 403 looks like a refusal by role assignment and passes")
def _(world):
    client = fresh(world)
    with world.fault("vault.*", "forbidden"), refused(403, "Forbidden", "ForbiddenByRbac"):
        client.get_secret("faulty")
    equal(client.get_secret("faulty").value, "value")
