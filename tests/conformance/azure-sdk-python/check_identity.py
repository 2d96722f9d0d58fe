"""Identities: secrets, certificates, workload identity, identity binding, managed identity, and rights."""

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import (
    CertificateCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from harness import check, equal, fails, refused
from pki import certify
from world import environment

SCOPE = "https://vault.azure.net/.default"
EXCHANGE = "api://AzureADTokenExchange"
BINDING = "api://AKSIdentityBinding"


def client_id(n):
    return f"bbbbbbbb-0000-4000-8000-{n:012}"


def can_read(world, credential):
    world.secrets.set_secret("read-by-identity", "value")
    equal(world.secret_client(credential).get_secret("read-by-identity").value, "value")


def secret_credential(world, client, secret, tenant=None):
    return ClientSecretCredential(tenant or world.tenant, client, secret, disable_instance_discovery=True)


@check("a client secret gets a token, a wrong or expired one does not")
def _(world):
    can_read(world, world.credential)
    world.register(clientId=client_id(1), clientSecrets=["right"])
    with fails(ClientAuthenticationError, "AADSTS7000215"):
        secret_credential(world, client_id(1), "wrong").get_token(SCOPE)
    with fails(ClientAuthenticationError, "AADSTS700016"):
        secret_credential(world, client_id(999), "right").get_token(SCOPE)
    with fails(ClientAuthenticationError, "AADSTS500011"):
        secret_credential(world, client_id(1), "right").get_token("https://nobody.example/.default")


@check("a tenant that does not exist is refused")
def _(world):
    other = "cccccccc-0000-4000-8000-000000000000"
    try:
        secret_credential(world, client_id(1), "right", other).get_token(SCOPE)
    except Exception as error:  # the SDK already stumbles over the tenant's metadata
        equal(other in str(error) or "AADSTS90002" in str(error), True)
        return
    raise AssertionError("it was accepted")


@check("a client certificate signs for its application, another certificate does not")
def _(world):
    def pair():
        key = rsa.generate_private_key(65537, 2048)
        certificate = certify("app", key, "app", key, is_ca=False).public_bytes(Encoding.PEM)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate, certificate

    (own, certificate), (other, _) = pair(), pair()
    world.register(clientId=client_id(2), certificatesPem=[certificate.decode()])
    world.assign(client_id(2), "shop", ["secrets.get"])
    credential = CertificateCredential(
        world.tenant, client_id(2), certificate_data=own, disable_instance_discovery=True
    )
    before = world.count("token.client-certificate", 200)
    can_read(world, credential)
    equal(world.count("token.client-certificate", 200) - before, 1)
    with fails(ClientAuthenticationError, "AADSTS700027"):
        CertificateCredential(
            world.tenant, client_id(2), certificate_data=other, disable_instance_discovery=True
        ).get_token(SCOPE)


def workload(world, client, token, **more):
    path = world.work / "token"
    path.write_text(token)
    return WorkloadIdentityCredential(
        tenant_id=world.tenant,
        client_id=client,
        token_file_path=str(path),
        disable_instance_discovery=True,
        **more,
    )


def trust(world, n, audience=EXCHANGE):
    world.register(
        clientId=client_id(n),
        kind="userAssigned",
        resourceId=f"/subscriptions/0/workload-{n}",
        federated=[{"subject": "system:serviceaccount:shop:web", "audience": audience}],
    )
    world.assign(client_id(n), "shop", ["secrets.get"])


@check("a service account's token is exchanged by workload identity")
def _(world):
    trust(world, 3)
    before = world.count("token.federated", 200)
    can_read(world, workload(world, client_id(3), world.service_account_token("shop", "web", EXCHANGE)))
    equal(world.count("token.federated", 200) - before, 1)


@check("workload identity takes everything from the environment, as in a pod")
def _(world):
    path = world.work / "projected"
    path.write_text(world.service_account_token("shop", "web", EXCHANGE))
    with environment(
        AZURE_TENANT_ID=world.tenant, AZURE_CLIENT_ID=client_id(3), AZURE_FEDERATED_TOKEN_FILE=str(path),
        AZURE_AUTHORITY_HOST="https://login.microsoftonline.com/",
    ):
        can_read(world, WorkloadIdentityCredential(disable_instance_discovery=True))


@check("an assertion of another subject, audience or issuer is refused with its own number")
def _(world):
    subject = world.service_account_token("shop", "other", EXCHANGE)
    case = world.service_account_token("Shop", "web", EXCHANGE)
    audience = world.service_account_token("shop", "web", "api://something-else")
    for token, number in ((subject, "AADSTS700213"), (case, "AADSTS7002138"), (audience, "AADSTS700212")):
        with fails(ClientAuthenticationError, number):
            workload(world, client_id(3), token).get_token(SCOPE)
    world.register(
        clientId=client_id(4),
        federated=[{"issuer": "https://elsewhere/", "subject": "system:serviceaccount:shop:web", "audience": EXCHANGE}],
    )
    with fails(ClientAuthenticationError, "AADSTS700211"):
        workload(world, client_id(4), world.service_account_token("shop", "web", EXCHANGE)).get_token(SCOPE)


@check("an assertion whose signature is not the issuer's is refused")
def _(world):
    head, payload, signature = world.service_account_token("shop", "web", EXCHANGE).split(".")
    other = world.service_account_token("shop", "web", EXCHANGE).split(".")[2]
    with fails(ClientAuthenticationError, "AADSTS700027"):
        workload(world, client_id(3), ".".join((head, payload, other))).get_token(SCOPE)


@check("an identity binding is served by the token proxy only, by its own CA and server name")
def _(world):
    trust(world, 5, BINDING)
    token = world.service_account_token("shop", "web", BINDING)
    with environment(
        AZURE_KUBERNETES_TOKEN_PROXY=world.ready["tokenProxy"],
        AZURE_KUBERNETES_SNI_NAME=world.ready["tokenProxyName"],
        AZURE_KUBERNETES_CA_FILE=str(world.work / "proxy-ca.pem"),
    ):
        bound = workload(world, client_id(5), token, enable_azure_proxy=True)
        bound.get_token(SCOPE)
    can_read(world, bound)
    # One for the bare scope, one for the tenant that the challenge names.
    equal(world.count("token.proxy", 200), 2)
    with fails(ClientAuthenticationError, "AADSTS700211"):
        workload(world, client_id(5), token).get_token(SCOPE)


def imds(world, **selector):
    with environment(AZURE_POD_IDENTITY_AUTHORITY_HOST=world.ready["imds"]):
        credential = ManagedIdentityCredential(**selector)
        credential.get_token(SCOPE)
        return credential


@check("IMDS serves the system-assigned identity")
def _(world):
    world.register(clientId=client_id(6), kind="systemAssigned")
    world.assign(client_id(6), "shop", ["secrets.get"])
    can_read(world, imds(world))


@check("IMDS serves user-assigned identities by client id, object id and resource id")
def _(world):
    resource = "/subscriptions/0/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
    entry = world.register(clientId=client_id(7), kind="userAssigned", resourceId=resource)
    world.assign(client_id(7), "shop", ["secrets.get"])
    can_read(world, imds(world, client_id=client_id(7)))
    can_read(world, imds(world, identity_config={"object_id": entry["objectId"]}))
    can_read(world, imds(world, identity_config={"resource_id": resource}))


@check("IMDS refuses an identity that the machine does not have")
def _(world):
    with fails(CredentialUnavailableError, "Identity not found"):
        imds(world, client_id=client_id(404))
    with fails(CredentialUnavailableError, "Identity not found"):
        imds(world, client_id=client_id(1))  # an application is no managed identity


def app_service(world, header=None, **selector):
    with environment(
        IDENTITY_ENDPOINT=world.ready["appService"],
        IDENTITY_HEADER=header or world.ready["appServiceHeader"],
    ):
        credential = ManagedIdentityCredential(**selector)
        credential.get_token(SCOPE)
        return credential


@check("App Service serves the same identities and wants its header")
def _(world):
    can_read(world, app_service(world))
    can_read(world, app_service(world, client_id=client_id(7)))
    resource = "/subscriptions/0/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
    can_read(world, app_service(world, identity_config={"resource_id": resource}))
    with fails(ClientAuthenticationError, "401"):
        app_service(world, header="wrong")
    equal(world.count("token.app-service", 200), 3)


@check("without a role assignment the refusal is ForbiddenByRbac and says who wanted what")
def _(world):
    world.register(clientId=client_id(8), clientSecrets=["s"])
    client = world.secret_client(secret_credential(world, client_id(8), "s"))
    world.secrets.set_secret("guarded", "value")
    with refused(403, "Forbidden", "ForbiddenByRbac"):
        client.get_secret("guarded")
    try:
        client.get_secret("guarded")
    except Exception as error:
        for part in (client_id(8), "Microsoft.KeyVault/vaults/secrets/getSecret/action", "Vault: shop"):
            equal(part in str(error), True)


@check("an identity that may get may not list, set or delete, nor touch another vault")
def _(world):
    world.register(clientId=client_id(9), clientSecrets=["s"])
    world.assign(client_id(9), "shop", ["secrets.get"])
    credential = secret_credential(world, client_id(9), "s")
    client = world.secret_client(credential)
    equal(client.get_secret("guarded").value, "value")
    for forbidden in (
        lambda: list(client.list_properties_of_secrets()),
        lambda: client.set_secret("guarded", "x"),
        lambda: client.begin_delete_secret("guarded"),
        lambda: world.secret_client(credential, "other").get_secret("mine"),
    ):
        with refused(403, "Forbidden", "ForbiddenByRbac"):
            forbidden()


@check("a role on one secret does not open another")
def _(world):
    world.register(clientId=client_id(10), clientSecrets=["s"])
    world.assign(client_id(10), "shop", ["secrets.get"], object="secrets/guarded")
    client = world.secret_client(secret_credential(world, client_id(10), "s"))
    equal(client.get_secret("guarded").value, "value")
    with refused(403, "Forbidden", "ForbiddenByRbac"):
        client.get_secret("present")
