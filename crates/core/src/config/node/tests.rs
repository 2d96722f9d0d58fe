use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::config::Setting;
use crate::config::read::set;
use crate::document;

#[test]
fn an_empty_document_is_a_whole_configuration() {
    let config = parse(b"").unwrap();
    assert_eq!(config.default_cloud.name, "AzurePublicCloud");
    assert_eq!((config.limits.volumes, config.limits.objects_per_volume), (512, 1000));
    assert!(config.grpc.enabled && !config.grpc.host_pid && config.registration.enabled);
    assert!(config.node_identity.is_empty() && config.identity_binding.is_none() && config.admin.is_none());
    assert_eq!(config.csi_driver, CsiDriverFacts::Check);
}

#[test]
fn every_setting_of_the_reference_is_taken_from_document_and_flag() {
    for Setting { path, example, .. } in SETTINGS {
        let mut overrides = vec![(*path, *example)];
        match path.split('.').next().unwrap() {
            "identityBinding" if *path != "identityBinding.proxy" => {
                overrides.push(("identityBinding.proxy", "https://proxy.example/token"));
            }
            "traces" if *path != "traces.endpoint" => {
                overrides.push(("traces.endpoint", "http://127.0.0.1:4318"));
            }
            "csiDriver" => overrides.extend([
                ("csiDriver.check", "false"),
                ("csiDriver.podInfoOnMount", "true"),
                ("csiDriver.tokensInSecrets", "false"),
            ]),
            _ => {}
        }
        let from_flag = parse_with(b"", &overrides);
        assert!(from_flag.is_ok(), "{path}: {}", from_flag.unwrap_err());
    }
}

#[test]
fn a_document_that_uses_every_setting_has_no_unknown_ones() {
    let mut tree = Value::Object(Map::new());
    for Setting { path, example, .. } in SETTINGS {
        set(&mut tree, path, document::parse(example.as_bytes()).unwrap()).unwrap();
    }
    let text = serde_json::to_string(&tree).unwrap();
    let error = parse(text.as_bytes()).unwrap_err();
    assert_eq!(
        error.message(),
        "tls.extraRoots: and extraRootsFile exclude each other\nidentityBinding.caFile: and caData exclude each other"
    );
}

#[test]
fn mistakes_in_several_sections_come_together() {
    let error = parse(
        b"defaultCloud: AzureGermanCloud\n\
          clouds: [{name: AzureChinaCloud, authorityHost: 'https://l.example', vaultDnsSuffix: v.example}]\n\
          nodeIdentity: [{namespace: 'shop-*', serviceAccount: web, clientId: a, system: true}]\n\
          identityBinding: {proxy: 'http://proxy.example'}\n\
          limits: {publishDeadline: 10s}\n\
          csiDriver: {check: false, podInfoOnMount: true}\n\
          grpc: {hostPID: true}\n",
    )
    .unwrap_err();
    for part in [
        "defaultCloud: names the cloud that Microsoft closed",
        "clouds[0].name: is the name of a built-in cloud",
        "nodeIdentity[0].namespace: must be a name as Kubernetes takes it, no pattern",
        "nodeIdentity[0]: needs exactly one of clientId",
        "nodeIdentity[0].vaults: is missing",
        "identityBinding.proxy: must be an https URL",
        "limits.conversionDeadline: must not be longer",
        "csiDriver.check: may be false only where",
        "grpc.hostPID: is not a setting; did you mean hostPid?",
    ] {
        assert!(error.message().contains(part), "{part} in {error}");
    }
}

#[test]
fn a_node_identity_is_for_the_listed_account_and_the_very_identity_alone() {
    let config = parse(
        b"nodeIdentity:\n\
          - {namespace: shop, serviceAccount: web, clientId: ABCD-1, vaults: [shop.vault.azure.net]}\n\
          - {namespace: shop, serviceAccount: web, system: true, vaults: [other.vault.azure.net]}\n",
    )
    .unwrap();
    let find = |namespace, account, selector: &Selector| {
        config.node_identity(namespace, account, selector).map(|entry| entry.vaults[0].as_str().to_owned())
    };
    let client = Selector::ClientId("abcd-1".to_owned());
    assert_eq!(find("shop", "web", &client).as_deref(), Some("shop.vault.azure.net"));
    assert_eq!(find("shop", "web", &Selector::System).as_deref(), Some("other.vault.azure.net"));
    assert_eq!(find("shop", "other", &client), None);
    assert_eq!(find("shops", "web", &client), None);
    assert_eq!(find("shop", "web", &Selector::ObjectId("abcd-1".to_owned())), None);
}

#[test]
fn a_cloud_is_known_by_its_name_in_any_case_of_letters_and_a_closed_one_is_not() {
    let config = parse(
        b"clouds: [{name: Corp, authorityHost: 'https://login.corp.example/', vaultDnsSuffix: vault.corp.example}]\n\
          defaultCloud: corp\n",
    )
    .unwrap();
    assert_eq!(config.default_cloud.authority_host, "https://login.corp.example");
    assert_eq!(config.cloud("AZUREPUBLICCLOUD").unwrap().name, "AzurePublicCloud");
    assert_eq!(config.cloud("CORP").unwrap().audience, "https://vault.corp.example");
    assert_eq!(config.cloud("AzureGermanCloud"), None);
}

#[test]
fn one_listing_of_an_account_and_an_identity_is_enough() {
    let line = "{namespace: a, serviceAccount: b, clientId: C, vaults: [s.vault.azure.net]}";
    let text = format!(
        "nodeIdentity: [{line}, {}]",
        line.to_ascii_lowercase().replace("serviceaccount", "serviceAccount").replace("clientid", "clientId")
    );
    assert_eq!(parse(text.as_bytes()).unwrap_err().message(), "nodeIdentity[1]: is listed twice");
}

#[test]
fn a_pods_share_follows_the_nodes_budget_and_never_exceeds_it() {
    let limits = |text: &str| parse(text.as_bytes()).map(|config| config.limits);
    let small = limits("limits: {bytesPerNode: 3145728}").unwrap();
    assert_eq!((small.bytes_per_node, small.bytes_per_pod), (3 << 20, 1 << 20));
    let error = limits("limits: {bytesPerNode: 1048576, bytesPerPod: 1048577}").unwrap_err();
    assert_eq!(error.message(), "limits.bytesPerPod: must not be larger than limits.bytesPerNode");
    // What the chart renders for its default payload is the default.
    assert_eq!(limits("limits: {bytesPerNode: 402653184}").unwrap(), Limits::default());
    assert!(Limits::default().bytes_per_pod * 2 < Limits::default().bytes_per_node, "no pod can take it all");
}

#[test]
fn the_ledger_holds_pods_to_what_is_configured() {
    use crate::ledger::{Kind, Ledger};

    let config = parse(b"limits: {bytesPerPod: 65536, volumesPerPod: 1, hostsPerPod: 2}").unwrap();
    let account = Ledger::new(config.limits.ledger(10)).account("pod");
    let _bytes = account.charge(Kind::Cached, 65_536).unwrap();
    let _volume = account.charge(Kind::Volumes, 1).unwrap();
    for (kind, amount, setting) in [
        (Kind::Staged, 1, "limits.bytesPerPod"),
        (Kind::Volumes, 1, "limits.volumesPerPod"),
        (Kind::Connections, 257, "limits.connectionsPerPod"),
        (Kind::Streams, 1025, "limits.streamsPerPod"),
        (Kind::PinnedVersions, 257, "limits.pinnedVersionsPerPod"),
        (Kind::Hosts, 3, "limits.hostsPerPod"),
        (Kind::Descriptors, 11, "RLIMIT_NOFILE"),
    ] {
        let error = account.charge(kind, amount).err().unwrap();
        assert!(error.message().contains(setting), "{setting} in {error}");
    }
}

#[test]
fn pods_that_act_together_leave_every_other_pod_a_start() {
    use crate::ledger::{Kind, Ledger, PODS};

    const KINDS: [(Kind, usize); 6] = [
        (Kind::Staged, 512 << 10),
        (Kind::Volumes, 1),
        (Kind::Connections, 4),
        (Kind::Streams, 16),
        (Kind::PinnedVersions, 4),
        (Kind::Descriptors, 16),
    ];
    let ledger = Ledger::new(Limits::default().ledger(1 << 20));
    let mut held = Vec::new();
    let greedy: Vec<_> = (0..20).map(|pod| ledger.account(&format!("greedy-{pod}"))).collect();
    for (account, (kind, _)) in greedy.iter().flat_map(|account| KINDS.map(|kind| (account, kind))) {
        held.push(account.charge_up_to(kind, 0, usize::MAX).unwrap());
    }
    let others: Vec<_> = (0..PODS - 20).map(|pod| ledger.account(&format!("pod-{pod}"))).collect();
    for (account, (kind, own)) in others.iter().flat_map(|account| KINDS.map(|kind| (account, kind))) {
        held.push(account.charge(kind, own).unwrap());
    }
    // With a small budget half of it is kept back.
    let small = Limits { bytes_per_node: 64 << 20, volumes: 100, ..Limits::default() }.ledger(1000);
    assert_eq!((small.of(Kind::Staged).own, small.of(Kind::Volumes).own), ((64 << 20) / (2 * PODS), 0));
    assert_eq!(small.of(Kind::Descriptors).own, 1);
}

proptest! {
    #[test]
    fn any_document_is_parsed_or_refused(text in "\\PC{0,300}") {
        let _ = parse(text.as_bytes());
    }

    #[test]
    fn whatever_stands_in_a_setting_is_taken_or_refused_by_its_name(
        index in 0..SETTINGS.len(),
        value in "[ -~]{0,40}",
    ) {
        let path = SETTINGS[index].path;
        if let Err(error) = parse_with(b"", &[(path, &value)]) {
            let section = path.split('.').next().unwrap();
            prop_assert!(error.message().contains(section), "{error}");
        }
    }
}
