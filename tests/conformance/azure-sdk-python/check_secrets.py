"""Secrets: set, get, list, update, delete, recover, purge, and the refusals."""

from datetime import datetime, timezone

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.secrets import ApiVersion

from harness import check, equal, refused

PAST = datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
FUTURE = datetime(2040, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@check("a secret comes back with its value, content type, tags and dates")
def _(world):
    made = world.secrets.set_secret(
        "complete", "välue", content_type="text/plain", tags={"team": "shop"}, not_before=PAST, expires_on=FUTURE
    )
    found = world.secrets.get_secret("complete")
    equal(found.value, "välue")
    equal(found.properties.version, made.properties.version)
    equal(len(found.properties.version), 32)
    equal(found.properties.content_type, "text/plain")
    equal(found.properties.tags, {"team": "shop"})
    equal((found.properties.not_before, found.properties.expires_on), (PAST, FUTURE))
    equal(found.properties.vault_url, "https://shop.vault.azure.net")
    equal(found.properties.recovery_level, "Recoverable+Purgeable")
    equal(found.properties.recoverable_days, 90)


@check("a new version becomes the current one and the old one stays readable")
def _(world):
    first = world.secrets.set_secret("rotated", "one").properties.version
    second = world.secrets.set_secret("rotated", "two").properties.version
    equal(world.secrets.get_secret("rotated").value, "two")
    equal(world.secrets.get_secret("rotated", first).value, "one")
    versions = {p.version for p in world.secrets.list_properties_of_secret_versions("rotated")}
    equal(versions, {first, second})


@check("names that differ only by case name one secret")
def _(world):
    world.secrets.set_secret("CamelCase", "value")
    equal(world.secrets.get_secret("camelcase").value, "value")


@check("sixty secrets are listed once each, over three pages, without values or versions")
def _(world):
    client = world.secret_client(world.credential, "other")
    for n in range(60):
        client.set_secret(f"paged-{n:02}", "value")
    before = world.count("secrets.list", 200)
    listed = [p for p in client.list_properties_of_secrets()]
    equal(sorted(p.name for p in listed), [f"paged-{n:02}" for n in range(60)])
    equal({p.version for p in listed}, {None})
    equal(world.count("secrets.list", 200) - before, 3)


@check("a smaller page can be asked for, a larger one is refused")
def _(world):
    client = world.secret_client(world.credential, "other")
    pages = client.list_properties_of_secrets(max_page_size=10).by_page()
    equal([len(list(page)) for page in pages], [10] * 6)
    with refused(400, "BadParameter"):
        list(client.list_properties_of_secrets(max_page_size=26))


@check("a page can be returned to by its continuation token")
def _(world):
    client = world.secret_client(world.credential, "other")
    pages = client.list_properties_of_secrets().by_page()
    next(pages)
    again = client.list_properties_of_secrets().by_page(continuation_token=pages.continuation_token)
    equal([p.name for p in next(again)], [p.name for p in next(pages)])


@check("thirty versions are listed over two pages")
def _(world):
    made = {world.secrets.set_secret("many-versions", str(n)).properties.version for n in range(30)}
    equal({p.version for p in world.secrets.list_properties_of_secret_versions("many-versions")}, made)


@check("attributes, content type and tags can be updated without a new version")
def _(world):
    made = world.secrets.set_secret("updated", "value").properties
    changed = world.secrets.update_secret_properties(
        "updated", made.version, content_type="application/json", tags={"a": "b"}, expires_on=FUTURE
    )
    equal((changed.version, changed.content_type, changed.tags), (made.version, "application/json", {"a": "b"}))
    found = world.secrets.get_secret("updated")
    equal((found.value, found.properties.expires_on, found.properties.tags), ("value", FUTURE, {"a": "b"}))


@check("a disabled secret is refused with SecretDisabled, is still listed, and can be enabled again")
def _(world):
    world.secrets.set_secret("disabled", "value")
    world.secrets.update_secret_properties("disabled", enabled=False)
    with refused(403, "Forbidden", "SecretDisabled"):
        world.secrets.get_secret("disabled")
    listed = {p.name: p.enabled for p in world.secrets.list_properties_of_secrets()}
    equal(listed["disabled"], False)
    world.secrets.update_secret_properties("disabled", enabled=True)
    equal(world.secrets.get_secret("disabled").value, "value")


@check("a disabled newest version hides the older ones from a get without version")
def _(world):
    first = world.secrets.set_secret("newest-disabled", "one").properties.version
    world.secrets.set_secret("newest-disabled", "two", enabled=False)
    with refused(403, "Forbidden", "SecretDisabled"):
        world.secrets.get_secret("newest-disabled")
    equal(world.secrets.get_secret("newest-disabled", first).value, "one")


@check("an expired secret, and one that is not yet valid, can be read")
def _(world):
    world.secrets.set_secret("expired", "old", expires_on=PAST)
    world.secrets.set_secret("early", "new", not_before=FUTURE)
    equal(world.secrets.get_secret("expired").value, "old")
    equal(world.secrets.get_secret("early").value, "new")


@check("what is not there is 404 SecretNotFound: name, version, and a deleted secret that never was")
def _(world):
    world.secrets.set_secret("present", "value")
    for missing in (
        lambda: world.secrets.get_secret("absent"),
        lambda: world.secrets.get_secret("present", "0" * 32),
        lambda: world.secrets.get_deleted_secret("absent"),
    ):
        with refused(404, "SecretNotFound"):
            missing()


@check("a deleted secret is gone, keeps its name occupied, and can be recovered")
def _(world):
    version = world.secrets.set_secret("deleted", "value").properties.version
    deleted = world.secrets.begin_delete_secret("deleted").result()
    equal((deleted.name, deleted.recovery_id), ("deleted", "https://shop.vault.azure.net/deletedsecrets/deleted"))
    equal((deleted.scheduled_purge_date - deleted.deleted_date).days, 90)
    with refused(404, "SecretNotFound"):
        world.secrets.get_secret("deleted")
    with refused(409, "Conflict", "ObjectIsDeletedButRecoverable"):
        world.secrets.set_secret("deleted", "other")
    equal(world.secrets.get_deleted_secret("deleted").name, "deleted")
    equal("deleted" in {d.name for d in world.secrets.list_deleted_secrets()}, True)
    poller = world.secrets.begin_recover_deleted_secret("deleted")
    poller.wait()
    equal(poller.result().version, version)
    equal(world.secrets.get_secret("deleted").value, "value")


@check("a purged secret's name is free again")
def _(world):
    world.secrets.set_secret("purged", "old")
    world.secrets.begin_delete_secret("purged").wait()
    world.secrets.purge_deleted_secret("purged")
    with refused(404, "SecretNotFound"):
        world.secrets.get_deleted_secret("purged")
    world.secrets.set_secret("purged", "new")
    equal([p.name for p in world.secrets.list_properties_of_secret_versions("purged")], ["purged"])


@check("a value of 25 KB is taken and one byte more is refused")
def _(world):
    world.secrets.set_secret("large", "x" * 25 * 1024)
    equal(len(world.secrets.get_secret("large").value), 25 * 1024)
    with refused(400, "BadParameter"):
        world.secrets.set_secret("large", "x" * (25 * 1024 + 1))


@check("names and tags that Key Vault does not allow are BadParameter")
def _(world):
    with refused(400, "BadParameter"):
        world.secrets.set_secret("with_underscore", "value")
    with refused(400, "BadParameter"):
        world.secrets.set_secret("n" * 128, "value")
    with refused(400, "BadParameter"):
        world.secrets.set_secret("tagged", "value", tags={str(n): "" for n in range(16)})


@check("two vaults hold different things")
def _(world):
    other = world.secret_client(world.credential, "other")
    world.secrets.set_secret("mine", "shop")
    other.set_secret("mine", "other")
    equal((world.secrets.get_secret("mine").value, other.get_secret("mine").value), ("shop", "other"))


@check("older versions of the API are served and unknown ones refused")
def _(world):
    world.secrets.set_secret("old-api", "value")
    for version in (ApiVersion.V7_2, ApiVersion.V7_4, ApiVersion.V7_6, ApiVersion.V2025_07_01):
        client = world.secret_client(world.credential, api_version=version)
        equal(client.get_secret("old-api").value, "value")
    with refused(400, "BadParameter"):
        world.secret_client(world.credential, api_version="1.0").get_secret("old-api")


@check("the SDK sees a missing secret as ResourceNotFoundError")
def _(world):
    try:
        world.secrets.get_secret("absent")
    except ResourceNotFoundError as error:
        equal("was not found in this key vault" in error.message, True)
        return
    raise AssertionError("it was found")
