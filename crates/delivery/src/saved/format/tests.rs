use proptest::prelude::*;

use super::*;

fn identity(client: &str) -> Arc<IdentityKey> {
    Arc::new(IdentityKey {
        method: "workload-identity",
        authority: "https://login.microsoftonline.com".into(),
        tenant: "t".into(),
        client: client.into(),
    })
}

fn objects(identity: &Arc<IdentityKey>, value: &[u8]) -> Vec<SavedObject> {
    let host = VaultHost::parse("shop.vault.azure.net:8443").unwrap();
    let version = Version::parse(&"a".repeat(32)).unwrap();
    let contents = [
        (Collection::Secrets, Content::Secret { value: SecretBytes::copy_from(value), bundle: None }),
        (Collection::Keys, Content::Key { jwk: r#"{"kty":"EC"}"#.into() }),
        (
            Collection::Certificates,
            Content::Certificate(CertificateContent {
                leaf_der: vec![0x30, 0],
                bundle: Some((BundleType::Pem, SecretBytes::copy_from(value))),
            }),
        ),
    ];
    contents
        .into_iter()
        .map(|(collection, content)| {
            let object = ObjectRef::new(host.clone(), collection, "Name", None).unwrap();
            SavedObject {
                key: ObjectKey {
                    identity: Arc::clone(identity),
                    request: FetchRequest { object: object.clone(), parts: Parts::Bundle },
                },
                fetched: Arc::new(Fetched {
                    object: object.at(version.clone()),
                    version: version.clone(),
                    content,
                    content_type: Some("text/plain".into()),
                    created: Some(Duration::from_secs(1)),
                    updated: None,
                    expires: Some(Duration::new(2, 3)),
                    not_before: None,
                    request_id: Some("r".into()),
                }),
                confirmed: Duration::new(1_790_000_000, 5),
            }
        })
        .collect()
}

#[test]
fn a_snapshot_comes_back_whole_and_only_for_its_own_identity() {
    let (mine, other) = (identity("mine"), identity("other"));
    let mut all = objects(&mine, b"one");
    all.extend(objects(&other, b"two"));
    let bytes = write(&all);
    assert_eq!(bytes.len(), bytes.capacity(), "the buffer was sized once");
    let back = parse(&bytes, std::slice::from_ref(&mine)).unwrap();
    assert_eq!(back.len(), 3);
    for (back, saved) in back.iter().zip(objects(&mine, b"one")) {
        assert!(back.key == saved.key && back.confirmed == saved.confirmed);
        assert!(back.fetched.same_as(&saved.fetched) && back.fetched.object == saved.fetched.object);
        assert_eq!(back.fetched.request_id, saved.fetched.request_id);
    }
    assert!(parse(&bytes, &[]).unwrap().is_empty());
}

#[test]
fn a_snapshot_of_another_version_says_so() {
    let mut bytes = write(&[]);
    bytes[7] = 3;
    let error = parse(&bytes, &[]).err().unwrap();
    assert_eq!(error.message(), "another version of Keyward wrote it");
}

#[test]
fn a_snapshot_of_the_release_before_is_read_and_known_to_be_behind() {
    let mine = identity("mine");
    let now = write(&objects(&mine, b"one"));
    let mut before = now[..now.len() - SHA256_OUTPUT_LEN].to_vec();
    before[7] = BEHIND;
    let sum = digest(&SHA256, &before);
    before.extend_from_slice(sum.as_ref());
    assert_eq!(parse(&before, std::slice::from_ref(&mine)).unwrap().len(), 3);
    assert_eq!(parse_all(&before).unwrap().len(), 3);
    assert!(is_behind(&before) && !is_behind(&now));
}

proptest! {
    #[test]
    fn a_snapshot_with_any_byte_changed_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mine = identity("mine");
        let mut bytes = write(&objects(&mine, b"secret"));
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(parse(&bytes, &[mine]).is_err());
    }

    #[test]
    fn a_snapshot_cut_short_is_refused(at in any::<prop::sample::Index>()) {
        let bytes = write(&objects(&identity("mine"), b"secret"));
        prop_assert!(parse(&bytes[..at.index(bytes.len())], &[]).is_err());
    }

    #[test]
    fn any_value_comes_back_as_it_went_in(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let mine = identity("mine");
        let saved = objects(&mine, &value);
        let back = parse(&write(&saved), &[mine]).unwrap();
        prop_assert!(back.iter().zip(&saved).all(|(back, saved)| back.fetched.same_as(&saved.fetched)));
    }

    #[test]
    fn any_records_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_records(&bytes, &[]);
    }

    #[test]
    fn damaged_records_behind_a_right_checksum_are_read_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
        let mine = identity("mine");
        let bytes = write(&objects(&mine, b"secret"));
        let mut records = bytes[MAGIC.len()..bytes.len() - SHA256_OUTPUT_LEN].to_vec();
        let at = at.index(records.len());
        records[at] = byte;
        let _ = parse_records(&records, &[mine]);
    }
}

#[test]
fn every_identity_can_be_read_back_and_shares_one_key_and_an_unknown_method_is_skipped() {
    let (one, other) = (identity("one"), identity("other"));
    let strange = Arc::new(IdentityKey { method: "horoscope", ..(*identity("stars")).clone() });
    let mut all = objects(&one, b"1");
    all.extend(objects(&other, b"2"));
    all.extend(objects(&strange, b"3"));
    let found = parse_all(&write(&all)).unwrap();
    let keys: Vec<_> = found.iter().map(|object| Arc::clone(&object.key.identity)).collect();
    assert_eq!(keys.len(), 6);
    assert!(keys[..3].iter().all(|key| *key == one && Arc::ptr_eq(key, &keys[0])));
    assert!(keys[3..].iter().all(|key| *key == other && Arc::ptr_eq(key, &keys[3])));
    assert!(parse_all(b"KWSAVED\x01").is_err());
}
