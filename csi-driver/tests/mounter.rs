//! What the mounter does, against the real kernel: the test is the broker.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

mod node;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use keyward_core::Code;
use keyward_csi_driver::mounts::{Found, Mounts, Place, Socket, Tmpfs, Volume};
use keyward_csi_driver::protocol::{REPLY, REQUEST, Reason, Reply, Request};
use node::{Node, POD};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

const SMALL: Tmpfs = Tmpfs { bytes: 8192, mode: 0o755, gid: None };

fn write(root: &impl AsFd, name: &str, content: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    File::from(openat(root, name, flags, Mode::from_raw_mode(0o444))?).write_all(content)
}

fn ours(found: Found) -> Volume {
    match found {
        Found::Ours(volume) => volume,
        other => panic!("{other:?}"),
    }
}

/// A mounted volume with a file in it, and its root.
fn mounted(node: &Node, mounts: &Mounts, name: &str) -> (Place, OwnedFd) {
    let place = node.place(name);
    let detached = mounts.create(&SMALL).unwrap();
    write(&detached.root(), "password", b"one").unwrap();
    let root = detached.commit(&place).unwrap();
    (place, root)
}

#[test]
fn a_volume_is_filled_before_it_is_seen_and_then_read_only_where_it_is_seen() {
    let Some((node, mounts)) = Node::lent() else { return };
    let place = node.place("secrets");
    assert_eq!(mounts.inspect(&place).unwrap(), Found::Absent);
    let detached = mounts.create(&Tmpfs { bytes: 5000, mode: 0o750, gid: Some(4321) }).unwrap();
    write(&detached.root(), "password", b"one").unwrap();
    assert_eq!(mounts.inspect(&place).unwrap(), Found::Absent);
    assert_eq!(mounts.list().unwrap(), []);

    let root = detached.commit(&place).unwrap();
    let target = node.target(&place);
    assert_eq!(std::fs::read(target.join("password")).unwrap(), b"one");
    let error = std::fs::write(target.join("password"), "two").unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::ROFS));
    let metadata = target.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o2750, 4321));
    let volume = ours(mounts.inspect(&place).unwrap());
    assert_eq!((volume.device, volume.inode), (metadata.dev(), metadata.ino()));
    assert!(volume.read_only && volume.noswap && volume.bytes == 8192, "{volume:?}");
    let line = node.mounts_at(&target).pop().unwrap();
    assert!(line.contains("ro,nosuid,nodev,noexec,noatime") && line.contains("tmpfs keyward"), "{line}");

    write(&root, "password", b"two").unwrap();
    assert_eq!(std::fs::read(target.join("password")).unwrap(), b"two");
    assert_eq!(std::fs::metadata(target.join("password")).unwrap().gid(), 4321);
    assert_eq!(mounts.list().unwrap(), std::slice::from_ref(&place));

    assert!(mounts.unmount(&place).unwrap());
    assert!(!target.exists() && target.parent().unwrap().exists());
    assert!(!mounts.unmount(&place).unwrap());
    assert_eq!(mounts.inspect(&place).unwrap(), Found::Absent);
    std::fs::remove_dir_all(node.home.join("kubelet/pods").join(POD)).unwrap();
    assert_eq!(mounts.inspect(&place).unwrap(), Found::PodGone);
    assert!(!mounts.unmount(&place).unwrap());
}

#[test]
fn a_tmpfs_that_is_not_committed_is_never_seen_and_goes() {
    let Some((node, mounts)) = Node::lent() else { return };
    let detached = mounts.create(&SMALL).unwrap();
    let root = detached.directory().unwrap();
    drop(detached);
    // The view still works for who holds it, and leads nowhere.
    write(&root, "file", b"one").unwrap();
    drop(root);
    // Other nodes may run on this machine: only what is below this one's directory counts.
    let shows = |process: &str, source: &str| {
        let table = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
        table.lines().any(|line| line.contains(source) && line.contains(node.home.to_str().unwrap()))
    };
    assert!(!shows(&node.mounter.id().to_string(), "tmpfs keyward rw"));
    assert!(!shows("thread-self", "keyward-waiting"));
}

#[test]
fn no_directory_that_the_broker_gets_leads_anywhere() {
    let Some((node, mounts)) = Node::lent() else { return };
    let waiting = mounts.create(&SMALL).unwrap();
    let (place, committed) = mounted(&node, &mounts, "secrets");
    for root in [waiting.directory().unwrap(), committed, mounts.reopen(&place).unwrap()] {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let above = File::from(openat(&root, "../../../../..", flags, Mode::empty()).unwrap());
        let root = File::from(root);
        let identity =
            |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).unwrap();
        assert_eq!(identity(&above), identity(&root));
    }
}

#[test]
fn a_volume_from_before_a_restart_can_be_written_and_grown_again() {
    let Some((node, mounts)) = Node::lent() else { return };
    let (place, root) = mounted(&node, &mounts, "secrets");
    drop(root);
    let root = mounts.reopen(&place).unwrap();
    assert!(write(&root, "large", &[1; 16 * 1024]).is_err());
    mounts.resize(&place, 64 * 1024).unwrap();
    mounts.resize(&place, 4096).unwrap();
    write(&root, "large", &[1; 16 * 1024]).unwrap();
    let volume = ours(mounts.inspect(&place).unwrap());
    assert_eq!((volume.bytes, volume.read_only, volume.noswap), (64 * 1024, true, true));
    assert_eq!(std::fs::read(node.target(&place).join("large")).unwrap().len(), 16 * 1024);
    let line = node.mounts_at(&node.target(&place)).pop().unwrap();
    assert!(line.contains("ro,nosuid,nodev,noexec,noatime"), "{line}");
    let detached = mounts.create(&SMALL).unwrap();
    detached.resize(64 * 1024).unwrap();
    write(&detached.root(), "large", &[1; 16 * 1024]).unwrap();
}

#[test]
fn a_busy_volume_is_detached_and_stacked_ones_all_go() {
    let Some((node, mounts)) = Node::lent() else { return };
    let (place, root) = mounted(&node, &mounts, "secrets");
    let target = node.target(&place);
    let reader = File::open(target.join("password")).unwrap();
    // As a driver that died at a bad moment could have left it.
    for _ in 0..2 {
        mount("keyward", &target, "tmpfs", MountFlags::empty(), None).unwrap();
    }
    assert_eq!(node.mounts_at(&target).len(), 3);
    assert!(mounts.unmount(&place).unwrap());
    assert_eq!(node.mounts_at(&target).len(), 0);
    assert!(!target.exists());
    let mut content = String::new();
    (&reader).read_to_string(&mut content).unwrap();
    assert_eq!(content, "one");
    drop(root);
}

#[test]
fn a_foreign_mount_on_the_target_is_neither_covered_nor_unmounted() {
    let Some((node, mounts)) = Node::lent() else { return };
    let place = node.place("secrets");
    let target = node.target(&place);
    std::fs::create_dir(&target).unwrap();
    assert_eq!(mounts.inspect(&place).unwrap(), Found::NotMounted);
    node::tmpfs(&target);
    assert_eq!(mounts.inspect(&place).unwrap(), Found::Foreign);
    for error in [
        mounts.create(&SMALL).unwrap().commit(&place).unwrap_err(),
        mounts.unmount(&place).unwrap_err(),
        mounts.reopen(&place).unwrap_err(),
        mounts.resize(&place, 1 << 20).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::FileSystem, "{error}");
    }
    assert_eq!(node.mounts_at(&target).len(), 1);
    // A bind of a part of one of our volumes is not one of them either.
    let (_, root) = mounted(&node, &mounts, "other");
    rustix::fs::mkdirat(&root, "part", Mode::RWXU).unwrap();
    let part = node.target(&Place::new(POD, "other").unwrap()).join("part");
    let third = node.place("third");
    std::fs::create_dir(node.target(&third)).unwrap();
    rustix::mount::mount_bind(&part, node.target(&third)).unwrap();
    assert_eq!(mounts.inspect(&third).unwrap(), Found::Foreign);
}

#[test]
fn a_volume_that_kubelet_made_for_another_driver_is_not_served() {
    let Some((node, mounts)) = Node::lent() else { return };
    for (name, driver, served) in [("theirs", "csi.example.com", false), ("ours", "csi.keyward.dev", true)] {
        let place = node.place_of(driver, name);
        let committed = mounts.create(&SMALL).unwrap().commit(&place);
        assert_eq!(committed.is_ok(), served, "{name}");
        assert_eq!(node.target(&place).exists(), served);
    }
}

#[test]
fn a_volume_without_a_record_of_kubelet_that_names_the_driver_is_not_served() {
    let Some((node, mounts)) = Node::lent() else { return };
    let elsewhere = node.home.join("record.json");
    std::fs::write(&elsewhere, "{\"driverName\":\"csi.keyward.dev\"}").unwrap();
    let huge = format!("{{\"driverName\":\"csi.keyward.dev\",\"x\":\"{}\"}}", "x".repeat(64 << 10));
    type Spoil<'a> = &'a dyn Fn(&Path);
    let spoilt: [(&str, Spoil<'_>); 8] = [
        ("none", &|record| std::fs::remove_file(record).unwrap()),
        ("empty", &|record| std::fs::write(record, "").unwrap()),
        ("half", &|record| std::fs::write(record, "{\"driverName\":\"csi.key").unwrap()),
        ("nameless", &|record| std::fs::write(record, "{\"driver\":\"csi.keyward.dev\"}").unwrap()),
        ("huge", &|record| std::fs::write(record, &huge).unwrap()),
        ("linked", &|record| {
            std::fs::remove_file(record).unwrap();
            symlink(&elsewhere, record).unwrap();
        }),
        ("directory", &|record| {
            std::fs::remove_file(record).unwrap();
            std::fs::create_dir(record).unwrap();
        }),
        ("fifo", &|record| {
            std::fs::remove_file(record).unwrap();
            nix::unistd::mkfifo(record, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
    ];
    for (name, spoil) in spoilt {
        let place = node.place(name);
        spoil(&node.target(&place).with_file_name("vol_data.json"));
        let error = mounts.create(&SMALL).unwrap().commit(&place).unwrap_err();
        assert!(error.message().contains("vol_data.json"), "{name}: {error}");
        assert!(!node.target(&place).exists(), "{name}");
    }
    mounted(&node, &mounts, "fine");
}

const PRIVATE: MountPropagationFlags = MountPropagationFlags::PRIVATE;
const SHARED: MountPropagationFlags = MountPropagationFlags::SHARED;
/// What the administrator has to add.
const LINE: &str = "mountPropagation: Bidirectional";

#[test]
fn kubelets_directory_on_a_mount_that_does_not_reach_the_host_is_refused_at_start() {
    let pods = |home: &Path| home.join("kubelet/pods");
    let private = Node::refused_where(|home| mount_change(pods(home), PRIVATE).unwrap());
    // As `HostToContainer` makes it: what the host mounts is seen here, and not the other way round.
    let receiving =
        Node::refused_where(|home| mount_change(pods(home), MountPropagationFlags::DOWNSTREAM).unwrap());
    let by_link = Node::refused_where(|home| {
        rustix::mount::unmount(pods(home), rustix::mount::UnmountFlags::empty()).unwrap();
        std::fs::rename(home.join("kubelet"), home.join("disk")).unwrap();
        symlink("disk", home.join("kubelet")).unwrap();
        node::tmpfs(&pods(home));
    });
    for refused in [private, receiving, by_link] {
        let Some((status, said)) = refused else { return };
        assert_eq!(status.code(), Some(69), "{said}");
        assert!(said.contains(LINE) && said.contains("kubelet/pods"), "{said}");
    }
}

#[test]
fn a_volume_that_the_host_would_not_see_is_never_committed() {
    let own = |home: &Path| home.join("kubelet/pods").join(POD);
    // The pod's directory on another file system, which is private when the mounter starts.
    let Some(node) = Node::start_where("lend", |home| {
        std::fs::create_dir(own(home)).unwrap();
        node::tmpfs(&own(home));
        mount_change(own(home), PRIVATE).unwrap();
    }) else {
        return;
    };
    let mounts = Mounts::new(node.socket());
    let (place, pods) = (node.place("secrets"), node.home.join("kubelet/pods"));
    let refused = |why: &str| {
        let error = mounts.create(&SMALL).unwrap().commit(&place).unwrap_err();
        assert_eq!(error.code(), Code::FileSystem);
        assert!(error.message().contains(LINE), "{why}: {error}");
        assert_eq!(mounts.list().unwrap(), [], "{why}");
        assert_eq!(mounts.inspect(&place).unwrap(), Found::Absent, "{why}");
        assert!(!node.target(&place).exists(), "{why}");
    };
    refused("a private file system of its own");
    // Kubelet's directory itself, made private after the start, and shared again.
    rustix::mount::unmount(own(&node.home), rustix::mount::UnmountFlags::DETACH).unwrap();
    node.change_inside(&pods, PRIVATE);
    node.place("secrets");
    refused("made private later");
    node.change_inside(&pods, SHARED);
    // Shared, but with nobody: the kernel's table of this process cannot tell that from the host's group.
    mounts.create(&SMALL).unwrap().commit(&place).unwrap();
}

#[test]
fn kubelets_directory_is_followed_to_where_it_is_remounted_and_where_a_link_leads() {
    let Some((node, mounts)) = Node::lent() else { return };
    let seen = |place: &Place| std::fs::read(node.target(place).join("password")).unwrap();
    let (first, _root) = mounted(&node, &mounts, "first");
    assert_eq!(seen(&first), b"one");
    // Another file system is mounted over it on the host, and kubelet makes its directories there.
    let pods = node.home.join("kubelet/pods");
    node::tmpfs(&pods);
    let (second, _root) = mounted(&node, &mounts, "second");
    assert_eq!(seen(&second), b"one");
    assert_eq!(mounts.inspect(&first).unwrap(), Found::Absent);
    // And the mounter's own view of that one made private.
    node.change_inside(&pods, PRIVATE);
    let third = node.place("third");
    let error = mounts.create(&SMALL).unwrap().commit(&third).unwrap_err();
    assert!(error.message().contains(LINE), "{error}");
    assert!(!node.target(&third).exists());
    assert!(mounts.unmount(&second).unwrap());
    drop((node, mounts));

    let linked = Node::start_where("lend", |home| {
        let (pods, disk) = (home.join("kubelet/pods"), home.join("disk"));
        rustix::mount::unmount(&pods, rustix::mount::UnmountFlags::empty()).unwrap();
        std::fs::rename(home.join("kubelet"), &disk).unwrap();
        symlink("disk", home.join("kubelet")).unwrap();
        node::tmpfs(&pods);
        mount_change(&pods, SHARED).unwrap();
    });
    let node = linked.unwrap();
    let mounts = Mounts::new(node.socket());
    let (place, _root) = mounted(&node, &mounts, "secrets");
    assert_eq!(
        std::fs::read(
            node.home.join("disk/pods").join(POD).join("volumes/kubernetes.io~csi/secrets/mount/password")
        )
        .unwrap(),
        b"one"
    );
    assert_eq!(mounts.list().unwrap(), std::slice::from_ref(&place));
    assert!(mounts.unmount(&place).unwrap());
}

#[test]
fn a_volume_is_committed_once_and_only_where_nothing_is_mounted() {
    let Some((node, mounts)) = Node::lent() else { return };
    let (place, _root) = mounted(&node, &mounts, "secrets");
    let error = mounts.create(&SMALL).unwrap().commit(&place).unwrap_err();
    assert!(error.message().contains("mounted there already"), "{error}");
    let nowhere = Place::new(POD, "nowhere").unwrap();
    let error = mounts.create(&SMALL).unwrap().commit(&nowhere).unwrap_err();
    assert!(error.message().contains("kubelet has not made"), "{error}");
    assert_eq!(node.mounts_at(&node.target(&place)).len(), 1);
    assert_eq!(mounts.list().unwrap(), [place]);
}

#[test]
fn a_way_to_the_target_that_is_not_plain_directories_is_refused() {
    let Some((node, mounts)) = Node::lent() else { return };
    let place = node.place("secrets");
    let volume = node.target(&place).parent().unwrap().to_owned();
    let elsewhere = node.home.join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("mount")).unwrap();
    let aside = node.home.join("kubelet/pods/aside");
    std::fs::rename(&volume, &aside).unwrap();
    symlink(&elsewhere, &volume).unwrap();
    let refused = |what: &str| {
        for error in [
            mounts.inspect(&place).unwrap_err(),
            mounts.create(&SMALL).unwrap().commit(&place).unwrap_err(),
            mounts.unmount(&place).unwrap_err(),
            mounts.reopen(&place).unwrap_err(),
        ] {
            assert!(error.message().contains("symbolic link or a file"), "{what}: {error}");
        }
    };
    refused("a linked volume");
    assert!(elsewhere.join("mount").exists());
    std::fs::remove_file(&volume).unwrap();
    std::fs::rename(&aside, &volume).unwrap();
    symlink(&elsewhere, volume.join("mount")).unwrap();
    refused("a linked target");
    std::fs::remove_file(volume.join("mount")).unwrap();
    std::fs::write(volume.join("mount"), "").unwrap();
    refused("a file for a target");
    let pod = node.home.join("kubelet/pods").join(POD);
    std::fs::rename(&pod, node.home.join("kubelet/pods/other")).unwrap();
    symlink("other", &pod).unwrap();
    refused("a linked pod");
}

#[test]
fn a_target_with_content_on_disk_is_left_alone() {
    let Some((node, mounts)) = Node::lent() else { return };
    let place = node.place("secrets");
    std::fs::create_dir(node.target(&place)).unwrap();
    std::fs::write(node.target(&place).join("somebody's"), "").unwrap();
    assert_eq!(mounts.unmount(&place).unwrap_err().code(), Code::FileSystem);
    assert!(node.target(&place).join("somebody's").exists());
}

#[test]
fn volumes_beyond_one_page_are_all_listed() {
    let Some((node, mounts)) = Node::lent() else { return };
    let mut places: Vec<_> =
        (0..40).map(|number| mounted(&node, &mounts, &format!("v-{number}")).0).collect();
    places.sort();
    assert_eq!(mounts.list().unwrap(), places);
}

#[test]
fn the_tmpfs_that_wait_are_bounded_in_number_and_size() {
    let Some((_node, mounts)) = Node::lent() else { return };
    let error = mounts.create(&Tmpfs { bytes: 2 << 30, ..SMALL }).err().unwrap();
    assert_eq!(error.code(), Code::LimitExceeded);
    let waiting: Vec<_> = (0..1024).map(|_| mounts.create(&SMALL).unwrap()).collect();
    assert_eq!(mounts.create(&SMALL).err().unwrap().code(), Code::LimitExceeded);
    drop(waiting);
    mounts.create(&SMALL).unwrap();
}

#[test]
fn only_a_file_of_a_volume_gets_another_owner() {
    let Some((node, mounts)) = Node::lent() else { return };
    let (place, root) = mounted(&node, &mounts, "secrets");
    let open = |path: &Path| File::open(path).unwrap();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(&root, "password", flags, Mode::empty()).unwrap();
    mounts.own(file.as_fd(), 1234, 4321).unwrap();
    let metadata = std::fs::metadata(node.target(&place).join("password")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
    let waiting = mounts.create(&SMALL).unwrap();
    write(&waiting.root(), "file", b"x").unwrap();
    mounts.own(openat(waiting.root(), "file", flags, Mode::empty()).unwrap().as_fd(), 1, 1).unwrap();

    let (read, _write) = std::io::pipe().unwrap();
    for wrong in [
        open(&node.home.join("config/keyward.yaml")).into(),
        open(&node.home).into(),
        open(Path::new("/dev/null")).into(),
        root.try_clone().unwrap(),
        OwnedFd::from(read),
        node.control.try_clone().unwrap().into(),
        open(&node.home.join("state")).into(),
    ] {
        let error = mounts.own(wrong.as_fd(), 1234, 1234).unwrap_err();
        assert_eq!(error.code(), Code::FileSystem, "{error}");
    }
    let read_only = open(&node.target(&place).join("password"));
    assert!(mounts.own(read_only.as_fd(), 0, 0).is_err());
    assert!(mounts.own(file.as_fd(), u32::MAX, 0).is_err());
}

#[test]
fn sockets_are_bound_privately_replaced_watched_and_removed_at_the_end() {
    let Some((mut node, mounts)) = Node::lent() else { return };
    let path = node.home.join("plugin/csi.sock");
    // What a killed driver left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = mounts.listen(Socket::Csi).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let listed: Vec<_> =
        std::fs::read_dir(node.home.join("plugin")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, [OsStr::new("csi.sock")]);
    UnixStream::connect(&path).unwrap();
    let by_file = format!("/proc/self/fd/{}", first.file.as_raw_fd());
    UnixStream::connect(&by_file).unwrap();
    let mut buffer = [0; 256];
    let quiet = |watch: &OwnedFd| rustix::io::read(watch, &mut [0; 256]).err() == Some(Errno::AGAIN);
    assert!(quiet(first.watch.as_ref().unwrap()) && mounts.is_named(Socket::Csi).unwrap());
    std::fs::write(node.home.join("plugin/other"), "").unwrap();
    std::fs::remove_file(node.home.join("plugin/other")).unwrap();
    assert!(quiet(first.watch.as_ref().unwrap()) && mounts.is_named(Socket::Csi).unwrap());

    std::fs::remove_file(&path).unwrap();
    assert!(rustix::io::read(first.watch.as_ref().unwrap(), &mut buffer).unwrap() > 0);
    assert!(!mounts.is_named(Socket::Csi).unwrap());
    assert_eq!(rustix::fs::fstat(&first.file).unwrap().st_nlink, 0);
    let second = mounts.listen(Socket::Csi).unwrap();
    UnixStream::connect(&path).unwrap();
    let third = mounts.listen(Socket::Csi).unwrap();
    assert!(rustix::io::read(second.watch.as_ref().unwrap(), &mut buffer).unwrap() > 0);
    UnixStream::connect(format!("/proc/self/fd/{}", third.file.as_raw_fd())).unwrap();

    mounts.listen(Socket::Registration).unwrap();
    assert!(node.home.join("registry/keyward-reg.sock").exists());
    // Somebody else's now: it stays.
    std::fs::remove_file(node.home.join("registry/keyward-reg.sock")).unwrap();
    std::fs::write(node.home.join("registry/keyward-reg.sock"), "").unwrap();
    assert!(mounts.listen(Socket::Registration).is_err());
    assert_eq!(node.end(0).code(), Some(0));
    assert!(!path.exists());
    assert!(node.home.join("registry/keyward-reg.sock").exists());
}

#[test]
fn the_state_directory_is_private_and_its_snapshot_survives_a_restart() {
    let Some((mut node, mounts)) = Node::lent() else { return };
    let state = node.home.join("state");
    for name in ["", "volumes", "snapshot"] {
        assert_eq!(state.join(name).metadata().unwrap().mode() & 0o777, 0o700, "{name}");
    }
    let line = node.mounts_at(&state.join("snapshot")).pop().unwrap();
    assert!(line.contains("tmpfs keyward-state") && line.contains("noswap"), "{line}");
    std::fs::write(state.join("snapshot/kept"), "x").unwrap();
    let (place, _) = mounted(&node, &mounts, "secrets");
    assert_eq!(node.end(7).code(), Some(7));
    assert!(mounts.list().is_err() && mounts.is_gone());
    assert_eq!(std::fs::read(node.target(&place).join("password")).unwrap(), b"one");

    let (again, mounts) = node.restart();
    assert_eq!(again.mounts_at(&state.join("snapshot")).len(), 1);
    assert!(state.join("snapshot/kept").exists());
    assert_eq!(mounts.list().unwrap(), std::slice::from_ref(&place));
    assert!(ours(mounts.inspect(&place).unwrap()).read_only);
    assert!(mounts.unmount(&place).unwrap());
}

/// Says something to the mounter that `Mounts` never would, and returns its reply.
fn say(socket: &OwnedFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Reply {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::empty()).unwrap();
    let mut reply = [0; REPLY];
    let (received, _) = recv(socket, &mut reply, rustix::net::RecvFlags::empty()).unwrap();
    Reply::decode(&reply[..received]).unwrap()
}

#[test]
fn a_message_that_makes_no_sense_is_answered_and_changes_nothing() {
    let Some(node) = Node::start("lend") else { return };
    let socket = node.socket();
    let malformed = Reply::Refused { reason: Reason::Malformed, errno: 0 };
    let place = node.place("secrets");
    let mut wrong_hash = Request::Unmount(place.clone()).encode();
    let at = wrong_hash.windows(4).position(|bytes| bytes == b"csi-").unwrap();
    wrong_hash[at + 5] ^= 1;
    let mut dots = Request::Inspect(place.clone()).encode();
    let at = dots.windows(7).position(|bytes| bytes == b"secrets").unwrap();
    dots[at..at + 7].copy_from_slice(b"../../x");
    let null = File::open("/dev/null").unwrap();
    let create = Request::Create(SMALL).encode();
    let nonsense: [(&[u8], &[BorrowedFd<'_>]); 8] = [
        (&[0; REQUEST], &[]),
        (&[255; REQUEST], &[]),
        (&create[..40], &[]),
        (&[&create[..], &[0]].concat(), &[]),
        (&wrong_hash, &[]),
        (&dots, &[]),
        (&create, &[null.as_fd()]),
        (&Request::Own { uid: 1, gid: 1 }.encode(), &[null.as_fd(), null.as_fd()]),
    ];
    for (message, descriptors) in nonsense {
        assert_eq!(say(&socket, message, descriptors), malformed);
    }
    assert_eq!(say(&socket, &Request::Own { uid: 1, gid: 1 }.encode(), &[]), malformed);
    let setuid = Tmpfs { mode: 0o4755, ..SMALL };
    assert_eq!(say(&socket, &Request::Create(setuid).encode(), &[]), malformed);

    let unknown = Reply::Refused { reason: Reason::UnknownId, errno: 0 };
    let Reply::Created { id, .. } = say(&socket, &create, &[]) else { panic!() };
    assert_eq!(say(&socket, &Request::Commit(id + 1, place.clone()).encode(), &[]), unknown);
    assert_eq!(say(&socket, &Request::Discard(id).encode(), &[]), Reply::Done(true));
    assert_eq!(say(&socket, &Request::Discard(id).encode(), &[]), Reply::Done(false));
    let Reply::Created { id: next, .. } = say(&socket, &create, &[]) else { panic!() };
    assert_ne!(next, id, "a number is never used again");
    assert_eq!(say(&socket, &Request::Commit(id, place.clone()).encode(), &[]), unknown);
    assert_eq!(say(&socket, &Request::Commit(next, place.clone()).encode(), &[]), Reply::Done(true));
    assert_eq!(say(&socket, &Request::Commit(next, place).encode(), &[]), unknown);
}

#[test]
fn a_broker_that_floods_loses_the_mounter_and_nothing_else() {
    let Some(mut node) = Node::start("lend") else { return };
    let socket = node.socket();
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    let message = Request::List(0).encode();
    // Never a reply is read: the mounter stops to listen instead of waiting.
    let mut sent = 0;
    loop {
        match rustix::net::send(&socket, &message, SendFlags::NOSIGNAL) {
            Ok(_) => sent += 1,
            Err(Errno::AGAIN) if sent < 100_000 => {
                let mut full = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
                let patience = rustix::event::Timespec { tv_sec: 2, tv_nsec: 0 };
                if rustix::event::poll(&mut full, Some(&patience)).unwrap() == 0 {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    assert_eq!(node.end(3).code(), Some(3));
}

#[test]
fn a_signal_is_passed_on_and_the_end_of_the_broker_is_the_end() {
    let Some((mut node, _mounts)) = Node::lent() else { return };
    let pid = rustix::process::Pid::from_child(&node.mounter);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // The lending broker does not handle it: it dies of it.
    let status = node.mounter.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15));
}

#[test]
fn a_signal_that_comes_while_the_driver_starts_is_not_lost() {
    let Some(mut node) = Node::start("hasty") else { return };
    assert_eq!(node.mounter.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn overlong_paths_of_sockets_are_no_obstacle() {
    let Some(mut node) = Node::start("lend") else { return };
    drop(node.socket());
    node.end(0);
    let long = node.home.join("l".repeat(100)).join("o".repeat(100));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&long).unwrap();
    let (node, mounts) = node.restart_with_plugin(&long);
    let bound = mounts.listen(Socket::Csi).unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}", bound.file.as_raw_fd())).unwrap();
    assert!(long.join("csi.sock").exists());
    drop(node);
}
