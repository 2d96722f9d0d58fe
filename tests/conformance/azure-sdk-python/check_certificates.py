"""Certificates: import, creation, policy, listings, and the secret that holds the private key."""

import base64

from azure.keyvault.certificates import CertificateContentType, CertificatePolicy
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from harness import check, equal, refused
from pki import Chain, public_bytes

PFX = CertificateContentType.pkcs12
PEM = CertificateContentType.pem


def policy(content_type=PFX, issuer="Self", **more):
    return CertificatePolicy(issuer_name=issuer, subject="CN=shop.example", content_type=content_type, **more)


def create(world, name, policy, **more):
    return world.certificates.begin_create_certificate(name, policy, _polling_interval=0, **more).result()


def held_by_secret(world, name):
    """Key and certificates of the backing secret, leaf first."""
    secret = world.secrets.get_secret(name)
    if secret.properties.content_type == PEM:
        text = secret.value.encode()
        return load_pem_private_key(text, None), x509.load_pem_x509_certificates(text)
    key, leaf, others = pkcs12.load_key_and_certificates(base64.b64decode(secret.value), b"")
    return key, [leaf, *others]


@check("a self-signed certificate is created through a pending operation")
def _(world):
    made = create(world, "self-signed", policy(san_dns_names=["shop.example"], validity_in_months=6), tags={"a": "b"})
    certificate = x509.load_der_x509_certificate(bytes(made.cer))
    equal(certificate.subject.rfc4514_string(), "CN=shop.example")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    equal(names.get_values_for_type(x509.DNSName), ["shop.example"])
    certificate.verify_directly_issued_by(certificate)
    equal(bytes(made.properties.x509_thumbprint), certificate.fingerprint(hashes.SHA1()))
    equal(made.properties.expires_on, certificate.not_valid_after_utc)
    equal(made.properties.tags, {"a": "b"})
    operation = world.certificates.get_certificate_operation("self-signed")
    equal((operation.status, operation.issuer_name), ("completed", "Self"))


@check("the backing secret holds the key and the certificate as PFX with an empty password")
def _(world):
    made = create(world, "as-pfx", policy(PFX))
    secret = world.secrets.get_secret("as-pfx")
    equal((secret.properties.content_type, secret.properties.managed), (PFX, True))
    equal(secret.properties.key_id, made.key_id)
    equal(secret.id, made.secret_id)
    key, chain = held_by_secret(world, "as-pfx")
    equal(public_bytes(key.public_key()), public_bytes(chain[0].public_key()))
    equal(chain[0].public_bytes(Encoding.DER), bytes(made.cer))


@check("the backing secret holds the key and the certificate as PEM when the policy says so")
def _(world):
    made = create(world, "as-pem", policy(PEM, key_type="EC", key_curve_name="P-256"))
    key, chain = held_by_secret(world, "as-pem")
    equal(public_bytes(key.public_key()), public_bytes(chain[0].public_key()))
    equal(chain[0].public_bytes(Encoding.DER), bytes(made.cer))
    equal(world.keys.get_key("as-pem").key.crv, "P-256")


@check("the key, the secret and the certificate share name and version")
def _(world):
    made = create(world, "shared", policy(key_type="EC", key_curve_name="P-384"))
    version = made.properties.version
    equal(world.keys.get_key("shared").properties.version, version)
    equal(world.secrets.get_secret("shared", version).properties.version, version)
    listed = {p.name: p.managed for p in world.secrets.list_properties_of_secrets()}
    equal(listed["shared"], True)


@check("a key that is not exportable stays out of the backing secret")
def _(world):
    create(world, "kept-back", policy(PEM, exportable=False, key_type="EC"))
    value = world.secrets.get_secret("kept-back").value
    equal(("PRIVATE KEY" in value, "CERTIFICATE" in value), (False, True))


@check("a PFX is converted to PEM on request")
def _(world):
    create(world, "converted", policy(PFX, key_type="EC"))
    secret = world.secrets.get_secret("converted", out_content_type=PEM)
    key = load_pem_private_key(secret.value.encode(), None)
    leaf = x509.load_pem_x509_certificate(secret.value.encode())
    equal(public_bytes(key.public_key()), public_bytes(leaf.public_key()))


@check("a certificate of another issuer stays pending with a request that can be signed")
def _(world):
    operation = create(world, "foreign", policy(issuer="Unknown"))
    equal(operation.status, "inProgress")
    request = x509.load_der_x509_csr(operation.csr)
    equal((request.is_signature_valid, request.subject.rfc4514_string()), (True, "CN=shop.example"))
    with refused(404, "CertificateNotFound"):
        world.certificates.get_certificate("foreign")


@check("a PEM with a chain of three is imported and comes back whole, leaf first")
def _(world):
    chain = Chain.make()
    shuffled = chain.key_pem() + b"".join(c.public_bytes(Encoding.PEM) for c in reversed(chain.certificates))
    made = world.certificates.import_certificate("pem-chain", shuffled, policy=policy(PEM))
    equal(bytes(made.cer), chain.certificates[0].public_bytes(Encoding.DER))
    key, held = held_by_secret(world, "pem-chain")
    equal(held[0], chain.certificates[0])
    equal(set(held), set(chain.certificates))
    equal(public_bytes(key.public_key()), public_bytes(chain.key.public_key()))


@check("an import can ask to keep the order of its chain")
def _(world):
    chain = Chain.make()
    shuffled = chain.key_pem() + b"".join(c.public_bytes(Encoding.PEM) for c in reversed(chain.certificates))
    made = world.certificates.import_certificate("kept-order", shuffled, policy=policy(PEM), preserve_order=True)
    equal(bytes(made.cer), chain.certificates[0].public_bytes(Encoding.DER))
    equal(held_by_secret(world, "kept-order")[1], list(reversed(chain.certificates)))


@check("a PFX with a password is imported and comes back without one")
def _(world):
    chain = Chain.make(rsa_bits=2048)
    pfx = pkcs12.serialize_key_and_certificates(
        b"shop", chain.key, chain.certificates[0], chain.certificates[1:], BestAvailableEncryption(b"pass word")
    )
    world.certificates.import_certificate("pfx-chain", pfx, password="pass word")
    key, held = held_by_secret(world, "pfx-chain")
    equal(set(held), set(chain.certificates))
    equal(public_bytes(key.public_key()), public_bytes(chain.key.public_key()))
    with refused(400, "BadParameter"):
        world.certificates.import_certificate("pfx-chain", pfx, password="wrong")


@check("an old PFX (SHA-1, triple DES) is imported too")
def _(world):
    chain = Chain.make(rsa_bits=2048)
    old = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(2048)
        .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())
        .build(b"secret")
    )
    pfx = pkcs12.serialize_key_and_certificates(b"shop", chain.key, chain.certificates[0], None, old)
    made = world.certificates.import_certificate("old-pfx", pfx, password="secret", policy=policy(PEM))
    equal(bytes(made.cer), chain.certificates[0].public_bytes(Encoding.DER))
    equal(world.secrets.get_secret("old-pfx").properties.content_type, PEM)


@check("a certificate without its key, or with another's, is refused")
def _(world):
    one, other = Chain.make(), Chain.make()
    leaf = one.certificates[0].public_bytes(Encoding.PEM)
    for wrong in (leaf, other.key_pem() + leaf, b"nonsense"):
        with refused(400, "BadParameter"):
            world.certificates.import_certificate("wrong", wrong, policy=policy(PEM))


@check("the policy comes back with what the certificate says")
def _(world):
    create(world, "with-policy", policy(PEM, key_type="RSA", key_size=2048, validity_in_months=3))
    found = world.certificates.get_certificate_policy("with-policy")
    equal((found.issuer_name, found.subject, found.content_type), ("Self", "CN=shop.example", PEM))
    equal((found.key_type, found.key_size, found.exportable, found.validity_in_months), ("RSA", 2048, True, 3))
    equal(world.certificates.get_certificate("with-policy").policy.content_type, PEM)


@check("certificates have versions, and thirty of them are listed over two pages")
def _(world):
    first = create(world, "cert-00", policy(PEM, key_type="EC"))
    second = create(world, "cert-00", policy(PEM, key_type="EC"))
    versions = {p.version for p in world.certificates.list_properties_of_certificate_versions("cert-00")}
    equal(versions, {first.properties.version, second.properties.version})
    old = world.certificates.get_certificate_version("cert-00", first.properties.version)
    equal(bytes(old.cer), bytes(first.cer))
    for n in range(1, 30):
        create(world, f"cert-{n:02}", policy(PEM, key_type="EC"))
    before = world.count("certificates.list", 200)
    names = [p.name for p in world.certificates.list_properties_of_certificates()]
    equal(len([name for name in names if name.startswith("cert-")]), 30)
    equal(world.count("certificates.list", 200) - before, 2)


@check("disabling a certificate disables its secret")
def _(world):
    create(world, "switched-off", policy(PEM, key_type="EC"))
    world.certificates.update_certificate_properties("switched-off", enabled=False, tags={"x": "y"})
    equal(world.certificates.get_certificate("switched-off").properties.tags, {"x": "y"})
    with refused(403, "Forbidden", "SecretDisabled"):
        world.secrets.get_secret("switched-off")


@check("a certificate is deleted, recovered and purged together with its key and secret")
def _(world):
    create(world, "mortal-cert", policy(PEM, key_type="EC"))
    world.certificates.begin_delete_certificate("mortal-cert").wait()
    with refused(404, "CertificateNotFound"):
        world.certificates.get_certificate("mortal-cert")
    with refused(404, "SecretNotFound"):
        world.secrets.get_secret("mortal-cert")
    with refused(409, "Conflict", "ObjectIsDeletedButRecoverable"):
        world.certificates.begin_create_certificate("mortal-cert", policy())
    equal("mortal-cert" in {d.name for d in world.certificates.list_deleted_certificates()}, True)
    world.certificates.begin_recover_deleted_certificate("mortal-cert").wait()
    equal(held_by_secret(world, "mortal-cert")[0] is not None, True)
    world.certificates.begin_delete_certificate("mortal-cert").wait()
    world.certificates.purge_deleted_certificate("mortal-cert")
    for missing in (
        lambda: world.certificates.get_deleted_certificate("mortal-cert"),
        lambda: world.secrets.get_deleted_secret("mortal-cert"),
    ):
        with refused(404):
            missing()
