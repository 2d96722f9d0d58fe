"""Keys: create, get, list, update, delete; the public part is a real key."""


from azure.keyvault.keys import KeyCurveName
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from harness import check, equal, refused


def public_rsa(jwk):
    return rsa.RSAPublicNumbers(int.from_bytes(jwk.e, "big"), int.from_bytes(jwk.n, "big")).public_key()


def public_ec(jwk, curve):
    # Raises when the point is not on the curve.
    return ec.EllipticCurvePublicNumbers(
        int.from_bytes(jwk.x, "big"), int.from_bytes(jwk.y, "big"), curve
    ).public_key()


@check("RSA keys of every size are created and read back")
def _(world):
    for bits in (2048, 3072, 4096):
        made = world.keys.create_rsa_key(f"rsa-{bits}", size=bits)
        found = world.keys.get_key(f"rsa-{bits}")
        equal((found.key.kty, found.id), ("RSA", made.id))
        equal(public_rsa(found.key).key_size, bits)
        equal(found.key.d, None)


@check("EC keys on all four curves are created and lie on their curve")
def _(world):
    curves = {
        KeyCurveName.p_256: ec.SECP256R1(),
        KeyCurveName.p_256_k: ec.SECP256K1(),
        KeyCurveName.p_384: ec.SECP384R1(),
        KeyCurveName.p_521: ec.SECP521R1(),
    }
    for n, (name, curve) in enumerate(curves.items()):
        made = world.keys.create_ec_key(f"ec-{n}", curve=name)
        equal((made.key.kty, made.key.crv), ("EC", name))
        equal(public_ec(world.keys.get_key(f"ec-{n}").key, curve).curve.name, curve.name)


@check("keys have versions, operations, tags and listings")
def _(world):
    first = world.keys.create_ec_key("versioned", key_operations=["verify"], tags={"a": "b"})
    second = world.keys.create_ec_key("versioned")
    equal(first.key_operations, ["verify"])
    equal(world.keys.get_key("versioned").id, second.id)
    equal(world.keys.get_key("versioned", first.properties.version).properties.tags, {"a": "b"})
    versions = {p.version for p in world.keys.list_properties_of_key_versions("versioned")}
    equal(versions, {first.properties.version, second.properties.version})
    equal("versioned" in {p.name for p in world.keys.list_properties_of_keys()}, True)


@check("more than 25 keys are listed over several pages")
def _(world):
    for n in range(30):
        world.keys.create_ec_key(f"page-{n:02}")
    before = world.count("keys.list", 200)
    names = [p.name for p in world.keys.list_properties_of_keys()]
    equal(len([name for name in names if name.startswith("page-")]), 30)
    equal(len(names), len(set(names)))
    # Certificates made their keys too.
    equal(world.count("keys.list", 200) - before, -(-len(names) // 25))


@check("a key is updated, deleted, recovered and purged")
def _(world):
    world.keys.create_ec_key("mortal")
    world.keys.update_key_properties("mortal", tags={"x": "y"}, enabled=False)
    equal(world.keys.get_key("mortal").properties.enabled, False)
    world.keys.begin_delete_key("mortal").wait()
    with refused(404, "KeyNotFound"):
        world.keys.get_key("mortal")
    with refused(409, "Conflict", "ObjectIsDeletedButRecoverable"):
        world.keys.create_ec_key("mortal")
    equal("mortal" in {d.name for d in world.keys.list_deleted_keys()}, True)
    world.keys.begin_recover_deleted_key("mortal").wait()
    equal(world.keys.get_key("mortal").properties.tags, {"x": "y"})
    world.keys.begin_delete_key("mortal").wait()
    world.keys.purge_deleted_key("mortal")
    with refused(404, "KeyNotFound"):
        world.keys.get_deleted_key("mortal")


@check("sizes and curves that do not exist are refused")
def _(world):
    with refused(400, "BadParameter"):
        world.keys.create_rsa_key("odd", size=1024)
    with refused(400, "BadParameter"):
        world.keys.create_ec_key("odd", curve="P-224")
