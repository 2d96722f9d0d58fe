use proptest::prelude::*;

use super::*;

const POD: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const OTHER: &str = "ffffffff-4e5f-6071-8293-a4b5c6d7e8f9";
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn systemd(uid: &str) -> String {
    uid.replace('-', "_")
}

/// Every form that is known of container runtimes and cgroup drivers.
fn forms(uid: &str) -> Vec<String> {
    let escaped = systemd(uid);
    [
        format!("/kubepods/burstable/pod{uid}/{ID}"),
        format!("/kubepods/besteffort/pod{uid}/{ID}"),
        format!("/kubepods/pod{uid}/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope"),
        format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-{ID}.scope"),
        format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{escaped}.slice/docker-{ID}.scope"),
        format!("/kubepods-besteffort-pod{escaped}.slice:cri-containerd:{ID}"),
        format!("/system.slice/containerd.service/kubepods-burstable-pod{escaped}.slice:cri-containerd:{ID}"),
        format!("/docker/{ID}/kubepods/besteffort/pod{uid}/{ID}"),
        format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{escaped}.slice/cri-containerd-{ID}.scope"),
        format!("/../../pod{uid}/{ID}"),
        format!("/../kubepods-pod{escaped}.slice/cri-containerd-{ID}.scope"),
    ]
    .map(|path| format!("0::{path}\n"))
    .to_vec()
}

#[test]
fn every_known_form_names_its_pod() {
    for text in forms(POD) {
        assert_eq!(pod_of(text.as_bytes()), Found::Pod(POD.to_owned()), "{text}");
    }
    let from_file = format!("0::/kubepods/pod{}/{ID}\n", "ab".repeat(16));
    assert_eq!(pod_of(from_file.as_bytes()), Found::Pod("ab".repeat(16)));
}

#[test]
fn all_hierarchies_of_version_1_must_agree_and_those_outside_of_pods_do_not_count() {
    let lines = format!(
        "12:memory:/kubepods/pod{POD}/{ID}\n11:cpu,cpuacct:/kubepods/pod{POD}/{ID}\n1:name=systemd:/kubepods/pod{POD}/{ID}\n0::/system.slice/containerd.service\n"
    );
    assert_eq!(pod_of(lines.as_bytes()), Found::Pod(POD.to_owned()));
    let forged = lines.replacen(POD, OTHER, 1);
    assert_eq!(pod_of(forged.as_bytes()), Found::Several);
}

#[test]
fn a_group_that_a_pod_named_after_another_belongs_to_nobody() {
    for text in forms(POD) {
        let below = format!("{}/kubepods/pod{OTHER}/{ID}\n", text.trim_end());
        assert_eq!(pod_of(below.as_bytes()), Found::Several, "{below}");
    }
}

#[test]
fn what_is_no_container_of_a_pod_names_none() {
    for path in [
        "/".to_owned(),
        "/user.slice/user-0.slice/session-1.scope".to_owned(),
        format!("/../crio-{ID}.scope"),
        format!("/kubepods.slice/kubepods-pod{}.slice/crio-conmon-{ID}.scope", systemd(POD)),
        format!("/user.slice/evil-pod{}.slice", systemd(POD)),
        format!("/user.slice/mypod{POD}"),
        "/kubepods/pod0a1b2c3d-4e5f-6071-8293/x".to_owned(),
        format!("/kubepods/pod{POD}0/x"),
    ] {
        assert_eq!(pod_of(format!("0::{path}\n").as_bytes()), Found::Nothing, "{path}");
    }
    assert_eq!(pod_of(b""), Found::Nothing);
    assert_eq!(pod_of(b"\xff"), Found::Nothing);
}

#[test]
fn a_peer_is_admitted_by_its_own_cgroup_alone() {
    let proc = tempfile::tempdir().unwrap();
    let write = |pid: i32, uid: &str| {
        std::fs::create_dir_all(proc.path().join(pid.to_string())).unwrap();
        let text = format!("0::/kubepods/pod{uid}/{ID}\n");
        std::fs::write(proc.path().join(pid.to_string()).join("cgroup"), text).unwrap();
    };
    write(7, POD);
    write(8, OTHER);
    let check = PodCgroup { uid: POD.to_owned(), proc: proc.path().to_owned() };
    let peer = |pid| Peer { uid: 0, gid: 0, pid, pidfd: None };
    assert!(check.check(&peer(7)).is_ok());
    for pid in [8, 9, 0, -1] {
        assert_eq!(check.check(&peer(pid)).unwrap_err().code(), Code::CallerRefused, "{pid}");
    }
    let text = check.check(&peer(0)).unwrap_err().to_string();
    assert!(text.contains("hostPID"), "{text}");
}

#[tokio::test]
async fn a_pidfd_names_the_process_that_connected_where_the_kernel_gives_one() {
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let peer = Peer::of(&ours, true).unwrap();
    let Some(pidfd) = &peer.pidfd else { return };
    let check = PodCgroup::new(POD);
    assert_eq!(check.pid_of(pidfd).unwrap(), std::process::id() as i32);
    assert_eq!(check.cgroup(&peer).unwrap(), std::fs::read("/proc/self/cgroup").unwrap());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = pod_of(&text);
    }

    #[test]
    fn a_pod_is_found_only_where_its_uid_stands(text in "([0-9]:[a-z]{0,3}:(/(kubepods|pod|docker|[a-f0-9_-]{32,36}|kubepods-pod|\\.\\.|\\.slice|:){0,3}){0,5}\n){0,3}") {
        if let Found::Pod(uid) = pod_of(text.as_bytes()) {
            let named = text.replace('_', "-").contains(&format!("pod{uid}"));
            prop_assert!(named);
        }
    }

    #[test]
    fn whatever_a_pod_appends_to_its_own_path_is_never_another_pods(
        form in 0usize..12,
        tail in "(/(kubepods|pod[a-f0-9]{32}|kubepods-pod[a-f0-9]{8}_[a-f0-9]{4}_[a-f0-9]{4}_[a-f0-9]{4}_[a-f0-9]{12}\\.slice|x)){0,4}",
    ) {
        let text = format!("{}{tail}\n", forms(POD)[form].trim_end());
        match pod_of(text.as_bytes()) {
            Found::Pod(uid) => prop_assert_eq!(uid, POD),
            Found::Several | Found::Nothing => {}
        }
    }
}
