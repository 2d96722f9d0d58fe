//! Bad configurations and objects, each with the exact error that the user gets.

use keyward_core::config;

/// What is wrong, the document, the whole error.
const TABLE: &[(&str, &str, &str)] = &[
    (
        "the document is empty",
        "",
        "KW_CONFIG_INVALID: document: needs files.path or grpc.socket, else nobody would receive anything\nobjects: is missing: say what to fetch",
    ),
    ("the document is a list", "- a\n", "KW_CONFIG_INVALID: document: must be a mapping, not a list"),
    (
        "the document is not YAML",
        "objects: [\n",
        "KW_CONFIG_INVALID: the document cannot be read at line 1 column 10: expected plain YAML without anchors, aliases or repeated keys",
    ),
    (
        "an anchor is used",
        "objects: &a []\nvaults: *a\n",
        "KW_CONFIG_INVALID: the document cannot be read at line 1 column 13: expected plain YAML without anchors, aliases or repeated keys",
    ),
    (
        "a key is written twice",
        "grpc: {socket: /run/k.sock}\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: the document cannot be read at line 2 column 1: expected plain YAML without anchors, aliases or repeated keys",
    ),
    (
        "nothing is asked for",
        "grpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects: is missing: say what to fetch",
    ),
    (
        "nobody receives anything",
        "objects: ['kv://shop/secrets/a']\n",
        "KW_CONFIG_INVALID: document: needs files.path or grpc.socket, else nobody would receive anything",
    ),
    (
        "a setting is misspelled",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotaton: {}\n",
        "KW_CONFIG_INVALID: rotaton: is not a setting; did you mean rotation?",
    ),
    (
        "a section is a text",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotation: fast\n",
        "KW_CONFIG_INVALID: rotation: must be a mapping, not a text",
    ),
    (
        "the cloud is unknown",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ncloud: AzureMoonCloud\n",
        "KW_CONFIG_INVALID: cloud: must be one of AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or a mapping for another cloud",
    ),
    (
        "a custom cloud lacks its parts",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ncloud: {name: corp}\n",
        "KW_CONFIG_INVALID: cloud.authorityHost: is missing\ncloud.vaultDnsSuffix: is missing",
    ),
    (
        "a custom authority is not https",
        "objects: ['https://a.corp.example/secrets/a']\ngrpc: {socket: /run/k.sock}\ncloud: {authorityHost: 'http://login.corp.example', vaultDnsSuffix: corp.example}\n",
        "KW_CONFIG_INVALID: cloud.authorityHost: must be an https URL without a path, such as https://login.microsoftonline.com",
    ),
    (
        "the identity method is unknown",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: magic}\n",
        "KW_CONFIG_INVALID: identity.method: must be one of workload-identity, managed-identity, service-principal, web-identity",
    ),
    (
        "web identity is for AWS",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: web-identity}\n",
        "KW_CONFIG_INVALID: identity.method: web-identity is for AWS, which is not available yet",
    ),
    (
        "a client id holds a slash",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {clientId: a/b}\n",
        "KW_CONFIG_INVALID: identity.clientId: must be a GUID, or for a tenant a domain",
    ),
    (
        "a client id is a number",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {clientId: 5}\n",
        "KW_CONFIG_INVALID: identity.clientId: must be a text, not a number; put it in quotes",
    ),
    (
        "two selectors for a managed identity",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: managed-identity, clientId: a, objectId: b}\n",
        "KW_CONFIG_INVALID: identity.method: managed-identity takes at most one of clientId, objectId, resourceId",
    ),
    (
        "a service principal without a credential",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: service-principal}\n",
        "KW_CONFIG_INVALID: identity.method: service-principal needs exactly one of secretFile, certificateFile",
    ),
    (
        "a service principal with two credentials",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: service-principal, secretFile: /a, certificateFile: /b}\n",
        "KW_CONFIG_INVALID: identity.method: service-principal needs exactly one of secretFile, certificateFile",
    ),
    (
        "an object id with workload identity",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: workload-identity, objectId: b}\n",
        "KW_CONFIG_INVALID: identity.method: objectId and resourceId are for managed-identity",
    ),
    (
        "a resource id that is none",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {method: managed-identity, resourceId: my-identity}\n",
        "KW_CONFIG_INVALID: identity.resourceId: must be an Azure resource id that begins with /subscriptions/",
    ),
    (
        "a token file without a name",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {tokenFile: ''}\n",
        "KW_CONFIG_INVALID: identity.tokenFile: must be a file's path",
    ),
    (
        "an authority with a path",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {authorityHost: 'https://login.microsoftonline.com/tenant'}\n",
        "KW_CONFIG_INVALID: identity.authorityHost: must be an https URL without a path, such as https://login.microsoftonline.com",
    ),
    (
        "a metadata endpoint with TLS",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nidentity: {metadataEndpoint: 'https://imds'}\n",
        "KW_CONFIG_INVALID: identity.metadataEndpoint: must be an http URL",
    ),
    (
        "a vault without a host",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nvaults: [{verifyChallengeResource: false}]\n",
        "KW_CONFIG_INVALID: vaults[0].host: is missing",
    ),
    (
        "a vault host with a scheme",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nvaults: [{host: 'https://shop.vault.azure.net'}]\n",
        "KW_CONFIG_INVALID: vaults[0].host: a vault host is a DNS name with an optional port, such as shop.vault.azure.net",
    ),
    (
        "a vault listed twice",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nvaults: [{host: a.example}, {host: A.example}]\n",
        "KW_CONFIG_INVALID: vaults[1].host: is listed twice",
    ),
    (
        "a vault address without a port",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nvaults: [{host: a.example, address: 10.0.0.4}]\n",
        "KW_CONFIG_INVALID: vaults[0].address: must be an IP address and a port, such as 10.0.0.4:443",
    ),
    (
        "an old TLS version",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ntls: {minimumVersion: '1.1'}\n",
        "KW_CONFIG_INVALID: tls.minimumVersion: must be one of 1.2, 1.3",
    ),
    (
        "a TLS version as a number",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ntls: {minimumVersion: 1.2}\n",
        "KW_CONFIG_INVALID: tls.minimumVersion: must be a text, not a number; put it in quotes",
    ),
    (
        "a TLS host without a version",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ntls: {hosts: [{host: a.example}]}\n",
        "KW_CONFIG_INVALID: tls.hosts[0].minimumVersion: is missing",
    ),
    (
        "a roots file without a name",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ntls: {extraRootsFile: ''}\n",
        "KW_CONFIG_INVALID: tls.extraRootsFile: must be a file's path",
    ),
    (
        "files without a path",
        "objects: ['kv://shop/secrets/a']\nfiles: {tmpfs: auto}\n",
        "KW_CONFIG_INVALID: files.path: is missing",
    ),
    (
        "files on an unknown kind of tmpfs",
        "objects: ['kv://shop/secrets/a']\nfiles: {path: /run/f, tmpfs: maybe}\n",
        "KW_CONFIG_INVALID: files.tmpfs: must be one of auto, mount, require",
    ),
    (
        "a tmpfs of no size",
        "objects: ['kv://shop/secrets/a']\nfiles: {path: /run/f, size: 0}\n",
        "KW_CONFIG_INVALID: files.size: must be a whole number from 4096 to 17179869184",
    ),
    (
        "a default mode that is no octal text",
        "objects: ['kv://shop/secrets/a']\nfiles: {path: /run/f, mode: rw-r-----}\n",
        "KW_CONFIG_INVALID: files.mode: must be an octal text from \"0000\" to \"0777\", such as \"0440\"",
    ),
    (
        "a default mode with setuid",
        "objects: ['kv://shop/secrets/a']\nfiles: {path: /run/f, mode: '4755'}\n",
        "KW_CONFIG_INVALID: files.mode: must be an octal text from \"0000\" to \"0777\", such as \"0440\"",
    ),
    (
        "a relative socket",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: keyward.sock}\n",
        "KW_CONFIG_INVALID: grpc.socket: must be an absolute path",
    ),
    (
        "a user id that is a name",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock, allowUids: [django]}\n",
        "KW_CONFIG_INVALID: grpc.allowUids[0]: must be a user id, a whole number",
    ),
    (
        "a rate of nothing",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock, ratePerCaller: 0}\n",
        "KW_CONFIG_INVALID: grpc.ratePerCaller: must be a whole number from 1 to 10000000",
    ),
    (
        "an interval without a unit",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotation: {interval: '60'}\n",
        "KW_CONFIG_INVALID: rotation.interval: must be a duration such as 30s, 5m or 24h",
    ),
    (
        "an interval below a second",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotation: {interval: 100ms}\n",
        "KW_CONFIG_INVALID: rotation.interval: must be from 1s to 30d",
    ),
    (
        "a jitter above one",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotation: {jitter: 2}\n",
        "KW_CONFIG_INVALID: rotation.jitter: must be a number from 0 to 1",
    ),
    (
        "a stale limit shorter than the interval",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nrotation: {interval: 1h, maxStale: 1m}\n",
        "KW_CONFIG_INVALID: rotation.maxStale: must not be shorter than rotation.interval",
    ),
    (
        "an admin port without an address",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nadmin: {listen: 9464}\n",
        "KW_CONFIG_INVALID: admin.listen: must be a text, not a number; put it in quotes",
    ),
    (
        "an audit file that is relative",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\naudit: {file: audit.jsonl}\n",
        "KW_CONFIG_INVALID: audit.file: must be an absolute path",
    ),
    (
        "an unknown audit policy",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\naudit: {onFailure: ignore}\n",
        "KW_CONFIG_INVALID: audit.onFailure: must be one of allow, deny",
    ),
    (
        "an unknown log level",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\nlog: {level: loud}\n",
        "KW_CONFIG_INVALID: log.level: must be one of error, warn, info, debug, trace",
    ),
    (
        "traces to nowhere",
        "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\ntraces: {sample: 0.5}\n",
        "KW_CONFIG_INVALID: traces.endpoint: is missing",
    ),
    (
        "an object without from",
        "objects: [{name: a}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: is missing: write the object's identifier as the Azure portal shows it",
    ),
    (
        "an object with from and template",
        "objects: [{from: 'kv://shop/secrets/a', template: x, name: a}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].template: stands beside from; an entry has one of them",
    ),
    (
        "an object of another kind",
        "objects: ['kv://shop/passwords/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: after the host comes secrets, keys or certificates",
    ),
    (
        "an object without a name",
        "objects: ['kv://shop/secrets/']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: the object's name is missing",
    ),
    (
        "an object name with an underscore",
        "objects: ['kv://shop/secrets/db_password']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: an object name has 1 to 127 letters, digits and hyphens, nothing else",
    ),
    (
        "an object name that climbs",
        "objects: ['kv://shop/secrets/..']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: an object name has 1 to 127 letters, digits and hyphens, nothing else",
    ),
    (
        "an object with something after the version",
        "objects: ['https://shop.vault.azure.net/secrets/a/0123456789abcdef0123456789abcdef/x']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: nothing may follow the version",
    ),
    (
        "an object version that is none",
        "objects: ['kv://shop/secrets/a/latest']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: a version is 32 hexadecimal digits as the vault shows it",
    ),
    (
        "an object with a query",
        "objects: ['https://shop.vault.azure.net/secrets/a?api-version=7.4']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: a reference holds no query, escapes or user name",
    ),
    (
        "an object over plain http",
        "objects: ['http://shop.vault.azure.net/secrets/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: write https://<vault host>/<secrets|keys|certificates>/<name>[/<version>], or kv://<vault>/… for short",
    ),
    (
        "an object of a foreign host",
        "objects: ['https://vault.evil.example/secrets/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: the host vault.evil.example is not a vault of AzurePublicCloud (*.vault.azure.net); list it under vaults to allow it",
    ),
    (
        "an object of a host that only looks right",
        "objects: ['https://evilvault.azure.net/secrets/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: the host evilvault.azure.net is not a vault of AzurePublicCloud (*.vault.azure.net); list it under vaults to allow it",
    ),
    (
        "an object of AWS",
        "objects: ['arn:aws:secretsmanager:eu-west-1:123456789012:secret:db']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: AWS Secrets Manager is not available yet; use https://<vault host>/secrets/<name>",
    ),
    (
        "a short vault name that is none",
        "objects: ['kv://my--shop/secrets/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].from: a vault name has 3 to 24 letters, digits and single hyphens, beginning with a letter",
    ),
    (
        "a name with a space",
        "objects: [{from: 'kv://shop/secrets/a', name: 'a b'}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].name: must have 1 to 253 printable characters without spaces, not beginning with a dot or a dash",
    ),
    (
        "a file that climbs",
        "objects: [{from: 'kv://shop/secrets/a', file: ../../etc/x}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].file: has an element that begins with .., which is kept for the directory's own links",
    ),
    (
        "a file that is absolute",
        "objects: [{from: 'kv://shop/secrets/a', file: /etc/x}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].file: must be relative to the mount, without a leading slash",
    ),
    (
        "a file that is the mount itself",
        "objects: [{from: 'kv://shop/secrets/a', file: .}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].file: may not contain the element .",
    ),
    (
        "a file that would replace the links",
        "objects: [{from: 'kv://shop/secrets/a', file: ..data}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].file: has an element that begins with .., which is kept for the directory's own links",
    ),
    (
        "a file with a doubled slash",
        "objects: [{from: 'kv://shop/secrets/a', file: a//b}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].file: has an empty element (a doubled or trailing slash)",
    ),
    (
        "a mode as a number",
        "objects: [{from: 'kv://shop/secrets/a', mode: 440}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].mode: must be a text, not a number; put it in quotes",
    ),
    (
        "a key that is no pointer",
        "objects: [{from: 'kv://shop/secrets/a', key: password}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].key: must be a JSON Pointer such as /password",
    ),
    (
        "a key beside a fragment",
        "objects: [{from: 'kv://shop/secrets/a#/x', key: /y}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].key: stands beside a fragment in from; write one of them",
    ),
    (
        "an unknown decoding",
        "objects: [{from: 'kv://shop/secrets/a', decode: rot13}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].decode: must be one of none, base64, base64url, hex",
    ),
    (
        "an unknown format",
        "objects: [{from: 'kv://shop/secrets/a', format: xml}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].format: must be one of raw, pem, pem-chain, pem-leaf, pem-key, pem-bundle, pem-pair, pfx, jks, jks-truststore, der, jwk",
    ),
    (
        "a format that the object cannot have",
        "objects: [{from: 'kv://shop/keys/a', format: pfx}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].format: pfx cannot be made from keys",
    ),
    (
        "a decoding of a certificate",
        "objects: [{from: 'kv://shop/certificates/a', decode: base64}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].decode: decode and key are for secrets only",
    ),
    (
        "a password for a plain file",
        "objects: [{from: 'kv://shop/secrets/a', passwordFrom: b}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].passwordFrom: is for the formats pfx, jks and jks-truststore",
    ),
    (
        "a password from nowhere",
        "objects: [{from: 'kv://shop/secrets/a', format: pfx, passwordFrom: b}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].passwordFrom: names no declared object",
    ),
    (
        "an unknown revocation policy",
        "objects: [{from: 'kv://shop/secrets/a', onRevoke: shred}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].onRevoke: must be one of keep, remove",
    ),
    (
        "a refresh in words",
        "objects: [{from: 'kv://shop/secrets/a', refresh: often}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].refresh: must be a duration such as 30s, 5m or 24h",
    ),
    (
        "two objects of one name",
        "objects: ['kv://shop/secrets/a', 'kv://other/secrets/a']\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[1].name: a is the name of objects[0] already\nobjects[1].file: a clashes with the file of objects[0]",
    ),
    (
        "two objects in one file",
        "objects: [{from: 'kv://shop/secrets/a', file: x}, {from: 'kv://shop/secrets/b', file: x}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[1].file: x clashes with the file of objects[0]",
    ),
    (
        "a file where a directory must be",
        "objects: [{from: 'kv://shop/secrets/a', file: db}, {from: 'kv://shop/secrets/b', file: db/password}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[1].file: db/password clashes with the file of objects[0]",
    ),
    (
        "a pair that meets another file",
        "objects: [{from: 'kv://shop/certificates/a', format: pem-pair, file: tls}, {from: 'kv://shop/secrets/b', file: tls.key}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[1].file: tls.key clashes with the file of objects[0]",
    ),
    (
        "a template without a name",
        "objects: [{template: x}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].name: is missing: a template has no name of its own",
    ),
    (
        "a template with a format",
        "objects: [{template: x, name: a, format: pem}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].format: has no meaning for a template",
    ),
    (
        "a notification without a kind",
        "objects: [{from: 'kv://shop/secrets/a', notify: {}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify: needs exactly one of signal, http, exec",
    ),
    (
        "a notification of two kinds",
        "objects: [{from: 'kv://shop/secrets/a', notify: {signal: HUP, process: x, http: 'http://127.0.0.1/'}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify: needs exactly one of signal, http, exec",
    ),
    (
        "a signal to nobody",
        "objects: [{from: 'kv://shop/secrets/a', notify: {signal: HUP}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify.process: is missing: the signal needs a process to go to",
    ),
    (
        "a signal that kills",
        "objects: [{from: 'kv://shop/secrets/a', notify: {signal: KILL, process: x}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify.signal: must be one of HUP, USR1, USR2, TERM, INT, WINCH",
    ),
    (
        "a signal to a path",
        "objects: [{from: 'kv://shop/secrets/a', notify: {signal: HUP, process: /usr/bin/x}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify.process: must be a program's name without slashes, at most 64 bytes",
    ),
    (
        "a notification to another host",
        "objects: [{from: 'kv://shop/secrets/a', notify: {http: 'http://example.com/reload'}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify.http: must be an http URL on 127.0.0.1, [::1] or localhost",
    ),
    (
        "a notification by a shell line",
        "objects: [{from: 'kv://shop/secrets/a', notify: {exec: 'kill -HUP 1'}}]\ngrpc: {socket: /run/k.sock}\n",
        "KW_CONFIG_INVALID: objects[0].notify.exec: must be a list, not a text",
    ),
];

#[test]
fn every_mistake_gets_exactly_its_own_error() {
    for (mistake, document, expected) in TABLE {
        match config::parse(document.as_bytes()) {
            Ok(_) => panic!("accepted although {mistake}"),
            Err(error) => assert_eq!(error.to_string(), *expected, "{mistake}"),
        }
    }
}

#[test]
fn the_table_is_as_long_as_promised_and_names_each_mistake_once() {
    let names: std::collections::BTreeSet<_> = TABLE.iter().map(|(name, ..)| name).collect();
    assert!(names.len() == TABLE.len() && TABLE.len() >= 60);
}

#[test]
fn mistakes_of_several_rows_come_in_one_error() {
    let error = config::parse(b"cloud: AzureMoonCloud\nrotation: fast\nlog: {level: loud}\n")
        .unwrap_err()
        .to_string();
    for part in [
        "cloud: must be one of",
        "rotation: must be a mapping",
        "log.level: must be one of",
        "objects: is missing",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

/// The user part of an address as people write it, with and without what must be escaped.
const USER_PARTS: &[&str] = &[
    "user:hunter2",
    ":hunter2",
    "hunter2",
    "us@er:hun@hunter2",
    "user:hun/hunter2",
    "user:1/hunter2",
    "user:hunter2#?",
];

#[test]
fn no_setting_takes_or_quotes_an_address_with_a_password() {
    let sidecar = "objects: ['kv://shop/secrets/a']\ngrpc: {socket: /run/k.sock}\n";
    let cases: &[(&str, &str)] = &[
        (sidecar, "vaults: [{host: '{}@shop.example'}]"),
        (sidecar, "vaults: [{host: shop.example, address: '{}@10.0.0.4:443'}]"),
        (sidecar, "tls: {hosts: [{host: '{}@shop.example', minimumVersion: '1.2'}]}"),
        (sidecar, "identity: {authorityHost: 'https://{}@login.example'}"),
        (sidecar, "identity: {method: managed-identity, metadataEndpoint: 'http://{}@169.254.169.254'}"),
        (sidecar, "cloud: {authorityHost: 'https://{}@login.example', vaultDnsSuffix: example}"),
        (
            sidecar,
            "cloud: {authorityHost: 'https://l.example', vaultDnsSuffix: example, audience: 'https://{}@a.example'}",
        ),
        (sidecar, "cloud: {authorityHost: 'https://l.example', vaultDnsSuffix: '{}@example'}"),
        (sidecar, "traces: {endpoint: 'http://{}@127.0.0.1:4318'}"),
        (sidecar, "admin: {listen: '{}@127.0.0.1:9464'}"),
        ("grpc: {socket: /run/k.sock}\n", "objects: ['https://{}@shop.vault.azure.net/secrets/a']"),
        (
            "grpc: {socket: /run/k.sock}\n",
            "objects: [{from: 'kv://shop/secrets/a', notify: {http: 'http://{}@127.0.0.1/'}}]",
        ),
    ];
    let node: &[&str] = &[
        "vaults: [{host: '{}@shop.example'}]",
        "identityBinding: {proxy: 'https://{}@proxy.example'}",
        "clouds: [{name: c, authorityHost: 'https://{}@login.example', vaultDnsSuffix: example}]",
        "traces: {endpoint: 'https://{}@collector.example'}",
    ];
    let refused = |what: String, error: Option<keyward_core::Error>| {
        let error = error.unwrap_or_else(|| panic!("accepted: {what}"));
        let text = format!("{error} {:?}", error.internal_detail());
        assert!(
            !text.contains("hunter2") && !text.contains("hun@") && !text.contains("hun/"),
            "{what}: {text}"
        );
    };
    for user in USER_PARTS {
        for (rest, case) in cases {
            let document = format!("{rest}{}\n", case.replace("{}", user));
            refused(document.clone(), config::parse(document.as_bytes()).err());
        }
        for case in node {
            let document = case.replace("{}", user);
            refused(document.clone(), config::node::parse(document.as_bytes()).err());
        }
    }
}

#[test]
fn no_variable_takes_or_quotes_an_address_with_a_password() {
    use keyward_identity::{IdentitySettings, ManagedEndpoint, Selector};
    for user in USER_PARTS {
        for name in ["AZURE_AUTHORITY_HOST", "AZURE_KUBERNETES_TOKEN_PROXY"] {
            let vars = |asked: &str| match asked {
                "AZURE_CLIENT_ID" | "AZURE_TENANT_ID" => {
                    Some("11111111-1111-1111-1111-111111111111".to_owned())
                }
                "AZURE_FEDERATED_TOKEN_FILE" => Some("/t".to_owned()),
                _ if asked == name => Some(format!("https://{user}@login.example")),
                _ => None,
            };
            let error = IdentitySettings::from_env(&vars).err().expect(name).to_string();
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
        for name in ["AZURE_POD_IDENTITY_AUTHORITY_HOST", "IMDS_ENDPOINT", "IDENTITY_ENDPOINT"] {
            let vars = |asked: &str| match asked {
                "IDENTITY_HEADER" if name == "IDENTITY_ENDPOINT" => Some("header".to_owned()),
                _ if asked == name => Some(format!("http://{user}@169.254.169.254/x")),
                _ => None,
            };
            let endpoint = ManagedEndpoint::from_vars(&vars);
            let settings = IdentitySettings::ManagedIdentity { selector: Selector::System, endpoint };
            let error = settings.check().expect_err(name).to_string();
            assert!(error.contains("user or a password") && !error.contains("hunter2"), "{error}");
        }
    }
}
