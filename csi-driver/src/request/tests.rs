use keyward_proto::csi::v1::VolumeCapability;
use keyward_proto::csi::v1::volume_capability::{BlockVolume, MountVolume};
use proptest::prelude::*;

use super::*;

const KUBELET: &str = "/var/lib/kubelet";
const UID: &str = "0f3c9a52-7a55-4d1c-b5a5-5a4b1b0c7c11";

/// What kubelet would send.
fn usual() -> NodePublishVolumeRequest {
    let place = Place::new(UID, "secrets").unwrap();
    let context = [
        (POD_NAME, "web-0"),
        (POD_NAMESPACE, "shop"),
        (POD_UID, UID),
        (SERVICE_ACCOUNT, "web"),
        (EPHEMERAL, "true"),
        ("objects", "- kv://shop/secrets/a"),
        ("clientID", " id "),
    ];
    NodePublishVolumeRequest {
        volume_id: place.volume_id().to_owned(),
        target_path: place.target(Path::new(KUBELET)).display().to_string(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: None,
        }),
        readonly: true,
        volume_context: context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..NodePublishVolumeRequest::default()
    }
}

fn read(request: NodePublishVolumeRequest) -> Result<Wanted> {
    Wanted::read(Path::new(KUBELET), request)
}

fn refusal(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> Error {
    let mut request = usual();
    change(&mut request);
    read(request).err().expect("it is refused")
}

fn set<'a>(key: &'a str, value: &'a str) -> impl FnOnce(&mut NodePublishVolumeRequest) + 'a {
    move |request| drop(request.volume_context.insert(key.to_owned(), value.to_owned()))
}

fn without(key: &str) -> impl FnOnce(&mut NodePublishVolumeRequest) + '_ {
    move |request| drop(request.volume_context.remove(key))
}

fn mount(group: &str) -> Option<VolumeCapability> {
    let mount = MountVolume { volume_mount_group: group.to_owned(), ..MountVolume::default() };
    Some(VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: None })
}

#[test]
fn what_kubelet_sends_is_understood() {
    let mut request = usual();
    request.volume_capability = mount("2000");
    request.volume_context.insert("grpc".to_owned(), " true ".to_owned());
    request.secrets.insert(TOKENS.to_owned(), "{}".to_owned());
    let wanted = read(request).ok().unwrap();
    assert_eq!((wanted.place.pod_uid(), wanted.place.volume()), (UID, "secrets"));
    assert_eq!(wanted.pod.service_account, "web");
    assert_eq!(wanted.group, Some(2000));
    assert!(wanted.grpc && wanted.principal.is_none());
    assert_eq!(wanted.asked.client_id.as_deref(), Some("id"));
    assert_eq!(wanted.source, Source::Objects("- kv://shop/secrets/a".to_owned()));
    assert!(wanted.tokens(true).is_some() && wanted.tokens(false).is_none());
}

#[test]
fn tokens_are_taken_from_the_one_place_that_is_asked_for_and_from_no_other() {
    let mut request = usual();
    request.volume_context.insert(TOKENS.to_owned(), "in the context".to_owned());
    request.secrets.insert(TOKENS.to_owned(), "in the secrets".to_owned());
    let wanted = read(request).ok().unwrap();
    assert_eq!(wanted.tokens(true).unwrap().expose(), b"in the secrets");
    assert_eq!(wanted.tokens(false).unwrap().expose(), b"in the context");
}

#[test]
fn a_request_that_lacks_what_the_specification_requires_is_an_invalid_argument_in_every_combination() {
    for lacking in 1..8 {
        let error = refusal(|request| {
            if lacking & 1 != 0 {
                request.volume_id.clear();
            }
            if lacking & 2 != 0 {
                request.target_path.clear();
            }
            if lacking & 4 != 0 {
                request.volume_capability = None;
            }
        });
        assert_eq!(error.code(), Code::RequestInvalid, "{lacking:03b}");
        assert_eq!(crate::csi::status(&error).code(), tonic::Code::InvalidArgument);
        assert!(error.message().ends_with("is missing"), "{error}");
    }
    let error = refusal(|request| request.volume_capability = Some(VolumeCapability::default()));
    assert_eq!(error.code(), Code::RequestInvalid);
}

#[test]
fn a_volume_without_read_only_is_refused_with_the_line_to_add() {
    let error = refusal(|request| request.readonly = false);
    assert_eq!(error.code(), Code::ReadOnlyRequired);
    assert!(error.message().contains("`readOnly: true`"));
}

#[test]
fn without_the_pods_names_nobody_is_served_and_the_object_to_change_is_named() {
    for key in [POD_NAME, POD_NAMESPACE, POD_UID, SERVICE_ACCOUNT] {
        for error in [refusal(without(key)), refusal(set(key, ""))] {
            assert_eq!(error.code(), Code::DriverObjectInvalid, "{key}");
            assert!(error.message().contains("podInfoOnMount: true"));
        }
    }
}

#[test]
fn requests_that_no_kubelet_makes_are_refused_and_so_are_mistakes_of_a_pods_author() {
    use Code::{RequestInvalid, VolumeInvalid};
    type Change = Box<dyn FnOnce(&mut NodePublishVolumeRequest)>;
    let target = |path: &str| -> Change {
        let path = path.to_owned();
        Box::new(move |request| request.target_path = path)
    };
    let own = format!("{KUBELET}/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount");
    let other = Place::new("11111111-7a55-4d1c-b5a5-5a4b1b0c7c11", "secrets").unwrap();
    let id = other.volume_id().to_owned();
    let elsewhere = other.target(Path::new(KUBELET)).display().to_string();
    let cases: Vec<(&str, Code, Change)> = vec![
        ("a target outside", RequestInvalid, target("/etc/mount")),
        ("a target with ..", RequestInvalid, target(&own.replace("/secrets/", "/../secrets/"))),
        ("a relative target", RequestInvalid, target(&own[1..])),
        ("a target below the mount", RequestInvalid, target(&format!("{own}/..data"))),
        ("another pod's target", RequestInvalid, target(&elsewhere)),
        (
            "another volume's id",
            RequestInvalid,
            Box::new({
                let id = id.clone();
                move |request| request.volume_id = id
            }),
        ),
        (
            "another pod's target and id",
            RequestInvalid,
            Box::new(move |request| {
                request.target_path = elsewhere;
                request.volume_id = id;
            }),
        ),
        ("another pod's uid", RequestInvalid, Box::new(set(POD_UID, "11111111-7a55-4d1c-b5a5-5a4b1b0c7c11"))),
        (
            "a block device",
            RequestInvalid,
            Box::new(|request| {
                let access_type = Some(AccessType::Block(BlockVolume {}));
                request.volume_capability = Some(VolumeCapability { access_type, access_mode: None });
            }),
        ),
        ("a group that is none", RequestInvalid, Box::new(|request| request.volume_capability = mount("-1"))),
        (
            "a group that is a name",
            RequestInvalid,
            Box::new(|request| request.volume_capability = mount("root")),
        ),
        ("a namespace with a slash", RequestInvalid, Box::new(set(POD_NAMESPACE, "shop/../kube-system"))),
        ("a service account with a colon", RequestInvalid, Box::new(set(SERVICE_ACCOUNT, "web:admin"))),
        ("a name with a line feed", RequestInvalid, Box::new(set(POD_NAME, "web\nadmin"))),
        ("an overlong name", RequestInvalid, Box::new(|request| set(POD_NAME, &"a".repeat(254))(request))),
        ("a persistent volume", VolumeInvalid, Box::new(set(EPHEMERAL, "false"))),
        (
            "5 MiB of attributes",
            VolumeInvalid,
            Box::new(|request| set("objects", &"- ".repeat(5 << 19))(request)),
        ),
        ("an unknown attribute", VolumeInvalid, Box::new(set("clientId", "x"))),
        (
            "the sidecar's authority",
            VolumeInvalid,
            Box::new(set("authorityHost", "https://login.evil.example")),
        ),
        ("TLS settings", VolumeInvalid, Box::new(set("tls", "{minimumVersion: '1.2'}"))),
        ("grpc that is neither", VolumeInvalid, Box::new(set("grpc", "True"))),
        ("objects and a class", VolumeInvalid, Box::new(set("secretProviderClass", "shop"))),
        ("neither", VolumeInvalid, Box::new(without("objects"))),
        ("blank objects", VolumeInvalid, Box::new(set("objects", " \n "))),
        (
            "a class with a slash",
            VolumeInvalid,
            Box::new(|request| {
                without("objects")(request);
                set("secretProviderClass", "../shop")(request);
            }),
        ),
        (
            "half a service principal",
            Code::IdentityMissing,
            Box::new(|request| {
                request.secrets.insert("clientsecret".to_owned(), "s3cret".to_owned());
            }),
        ),
    ];
    for (what, code, change) in cases {
        let error = refusal(change);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(!error.to_string().contains("s3cret") && error.message().len() < 600, "{what}: {error}");
        assert!(!error.to_string().contains('\n'), "{what}");
    }
}

#[test]
fn a_message_shows_little_of_a_hostile_attribute_and_none_of_its_control_characters() {
    let key = format!("\u{1b}[2J{}", "x".repeat(10_000));
    let error = refusal(|request| set(&key, "1")(request));
    assert!(error.message().len() < 200 && error.message().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}

proptest! {
    /// Whatever the strings are: an answer, never a panic; what is accepted names its own place and no credential leaks.
    #[test]
    fn any_volume_context_is_understood_or_refused(
        context in proptest::collection::hash_map(
            prop_oneof![
                Just(POD_NAME.to_owned()), Just(POD_UID.to_owned()), Just("objects".to_owned()),
                Just("secretProviderClass".to_owned()), Just("grpc".to_owned()), Just("cloud".to_owned()),
                Just(EPHEMERAL.to_owned()), ".{0,20}",
            ],
            ".{0,60}",
            0..6,
        ),
        secrets in proptest::collection::hash_map(
            prop_oneof![Just("clientid".to_owned()), Just("clientsecret".to_owned()), Just(TOKENS.to_owned())],
            "canary[a-z]{20}",
            0..3,
        ),
        target in prop_oneof![Just(None), ".{0,80}".prop_map(Some)],
    ) {
        let mut request = usual();
        request.volume_context.extend(context);
        let canaries: Vec<_> = secrets.values().cloned().collect();
        request.secrets = secrets;
        if let Some(target) = target {
            request.target_path = target;
        }
        match read(request) {
            Ok(wanted) => {
                let place = Place::new(&wanted.pod.uid, wanted.place.volume()).unwrap();
                prop_assert_eq!(&place, &wanted.place);
                prop_assert_eq!(wanted.target, place.target(Path::new(KUBELET)).display().to_string());
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(canaries.iter().all(|canary| !text.contains(canary)));
            }
        }
    }
}
