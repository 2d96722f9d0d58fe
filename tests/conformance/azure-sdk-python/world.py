"""The emulator as the checks see it: clients, credentials, and the admin API."""

import contextlib
import json
import os
import socket
import urllib.request

from azure.identity import ClientSecretCredential
from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient

ADMINISTRATOR = "aaaaaaaa-0000-4000-8000-000000000001"
ADMINISTRATOR_SECRET = "an administrator's secret"
CLOUD_SUFFIXES = (".vault.azure.net", "login.microsoftonline.com")


class World:
    def __init__(self, work):
        ready = json.loads((work / "ready.json").read_text())
        self.work = work
        self.ready = ready
        self.tenant = ready["tenantId"]
        self._admin = ready["admin"]
        _redirect(int(ready["vaults"].rsplit(":", 1)[1]))

        self.register(clientId=ADMINISTRATOR, clientSecrets=[ADMINISTRATOR_SECRET])
        self.assign(ADMINISTRATOR, "shop", ["all"])
        self.assign(ADMINISTRATOR, "other", ["all"])
        self.credential = ClientSecretCredential(
            self.tenant, ADMINISTRATOR, ADMINISTRATOR_SECRET, disable_instance_discovery=True
        )
        self.secrets = self.secret_client(self.credential)
        self.keys = KeyClient("https://shop.vault.azure.net", self.credential)
        self.certificates = CertificateClient("https://shop.vault.azure.net", self.credential)

    def secret_client(self, credential, vault="shop", **settings):
        # Verification of the challenge's resource stays on: the host names are the real ones.
        return SecretClient(f"https://{vault}.vault.azure.net", credential, retry_backoff_factor=0.01, **settings)

    # The admin API.

    def admin(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._admin + path, data=data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
            raw = response.read()
            is_json = response.headers.get("content-type", "").startswith("application/json")
            return json.loads(raw) if is_json else raw.decode()

    def register(self, **entry):
        return self.admin("POST", "/identities", entry)

    def assign(self, client_id, vault, permissions, **more):
        self.admin("POST", "/assignments", {"clientId": client_id, "vault": vault, "permissions": permissions, **more})

    def service_account_token(self, namespace, name, audience):
        return self.admin(
            "POST", "/issuer/token", {"namespace": namespace, "serviceAccount": name, "audience": audience}
        )

    @contextlib.contextmanager
    def fault(self, operation, kind, times=None, **effect):
        fault = {"operation": operation, "effect": {"kind": kind, **effect}}
        if times is not None:
            fault["times"] = times
        self.admin("POST", "/faults", fault)
        try:
            yield
        finally:
            self.admin("DELETE", "/faults")

    def count(self, operation, status=None):
        rows = self.admin("GET", "/counters")["requests"]
        return sum(
            row["count"]
            for row in rows
            if row["operation"] == operation and (status is None or row["status"] == status)
        )


def _redirect(port):
    """Lets the real host names lead to the emulator; nothing else in the client is touched."""
    resolve = socket.getaddrinfo

    def resolve_here(host, service, *args, **kwargs):
        if isinstance(host, str) and host.endswith(CLOUD_SUFFIXES):
            return resolve("127.0.0.1", port, *args, **kwargs)
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(f"{host} is not part of this test")
        return resolve(host, service, *args, **kwargs)

    socket.getaddrinfo = resolve_here


@contextlib.contextmanager
def environment(**variables):
    """Sets environment variables for a while."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
