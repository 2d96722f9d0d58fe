//! Files that others must be able to open, opened by them. Skipped loudly where they are not installed.

use std::path::Path;
use std::process::{Command, Output};

use keyward_core::SecretBytes;

use super::support::*;

/// Runs a program, or says that it is missing.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).env("LC_ALL", "C").output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn succeeded(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

fn made(format: &str, password: Option<&str>, at: &Path) {
    let password = password.map(|text| SecretBytes::copy_from(text.as_bytes()));
    let settings = match &password {
        Some(_) => format!(", format: {format}, passwordFrom: pw"),
        None => format!(", format: {format}"),
    };
    let source = source("kv://shop/secrets/shop", &settings);
    let made = convert(&source, &fetched(secret(&fixture("legacy-3des.pfx"))), password.as_ref()).unwrap();
    std::fs::write(at, made.value.expose()).unwrap();
}

#[test]
fn openssl_opens_a_written_key_store_with_and_without_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("shop.pfx");
    for password in [None, Some("pa ss:1")] {
        made("pfx", password, &at);
        let pass = format!("pass:{}", password.unwrap_or_default());
        let Some(output) =
            run("openssl", &["pkcs12", "-in", at.to_str().unwrap(), "-passin", &pass, "-nodes", "-info"])
        else {
            return;
        };
        let text = succeeded(&output);
        assert!(text.contains("friendlyName: shop"), "{text}");
        assert!(text.contains("PBES2, PBKDF2, AES-256-CBC"), "{text}");
        let keys = fixture("rsa.key.pem");
        assert!(text.contains(std::str::from_utf8(&keys).unwrap()), "the key is another");
    }
}

#[test]
fn keytool_opens_the_key_store_the_trust_store_and_the_pkcs12() {
    let directory = tempfile::tempdir().unwrap();
    for (format, password, holds) in [
        ("jks", None, "PrivateKeyEntry"),
        ("jks", Some("sécret-1"), "PrivateKeyEntry"),
        ("jks-truststore", None, "trustedCertEntry"),
        ("pfx", Some("changeit"), "PrivateKeyEntry"),
    ] {
        let at = directory.path().join(format!("{format}{}", password.is_some()));
        made(format, password, &at);
        // The password goes by file, as a locale of C would not carry it on the command line.
        let file = directory.path().join("password");
        std::fs::write(&file, password.unwrap_or("changeit")).unwrap();
        let arguments = [
            "-J-Dfile.encoding=UTF-8",
            "-list",
            "-v",
            "-keystore",
            at.to_str().unwrap(),
            "-storepass:file",
            file.to_str().unwrap(),
        ];
        let Some(output) = run("keytool", &arguments) else { return };
        let text = succeeded(&output);
        assert!(text.contains(holds) && text.contains("shop"), "{text}");
        if holds == "PrivateKeyEntry" {
            assert!(text.contains("Certificate chain length: 3"), "{text}");
        } else {
            assert!(text.contains("contains 3 entries"), "{text}");
        }
    }
}

#[test]
fn java_decrypts_the_key_of_a_written_key_store() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pfx) = (directory.path().join("shop.jks"), directory.path().join("out.pfx"));
    made("jks", None, &store);
    let arguments = [
        "-importkeystore",
        "-noprompt",
        "-srckeystore",
        store.to_str().unwrap(),
        "-srcstorepass",
        "changeit",
        "-destkeystore",
        pfx.to_str().unwrap(),
        "-deststoretype",
        "PKCS12",
        "-deststorepass",
        "changeit",
    ];
    let Some(output) = run("keytool", &arguments) else { return };
    succeeded(&output);
    let password = SecretBytes::copy_from(b"changeit");
    let read = parse_pfx(&std::fs::read(&pfx).unwrap(), &password).unwrap();
    assert_eq!(*read.keys[0].pkcs8, der("rsa.key.pem"));
}
