use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use super::*;

/// A process with a name that nothing else on the machine has; ended with the test.
struct Sleeper(Child);

impl Sleeper {
    fn called(argv0: &str) -> Self {
        let mut command = Command::new("sleep");
        Self::settled(command.arg0(argv0).arg("300").stdin(Stdio::null()).spawn().unwrap())
    }

    /// execve lets the parent go on a moment before the new name and arguments are in place.
    fn settled(child: Child) -> Self {
        let place = PathBuf::from(format!("/proc/{}", child.id()));
        while !read(place.join("cmdline")).ends_with(b"300\0") {
            std::thread::yield_now();
        }
        Self(child)
    }

    fn ended_by(&mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unique(word: &str) -> String {
    format!("kw-{word}-{}", std::process::id())
}

#[test]
fn a_process_is_found_by_the_last_part_of_its_argv0() {
    let name = unique("argv0");
    let mut sleeper = Sleeper::called(&format!("/opt/app/bin/{name}"));
    assert!(send("USR1", &name).is_ok());
    assert_eq!(sleeper.ended_by(), Some(Signal::USR1.as_raw()));
}

#[test]
fn a_process_is_found_by_its_comm() {
    let directory = tempfile::tempdir().unwrap();
    let name = unique("c");
    let sleep = ["/bin/sleep", "/usr/bin/sleep"].iter().find(|path| Path::new(path).exists()).unwrap();
    symlink(sleep, directory.path().join(&name)).unwrap();
    let child = Command::new(directory.path().join(&name)).arg0("something-else").arg("300").spawn().unwrap();
    let mut sleeper = Sleeper::settled(child);
    assert!(send("HUP", &name).is_ok());
    assert_eq!(sleeper.ended_by(), Some(Signal::HUP.as_raw()));
}

#[test]
fn nobody_of_that_name_is_an_error_that_names_the_setting() {
    let failed = send("HUP", &unique("nobody")).err().unwrap();
    assert!(failed.error.message().contains("shareProcessNamespace") && !failed.permanent);
}

#[test]
fn we_are_never_signalled_ourselves() {
    let ourselves = std::env::args().next().unwrap();
    let name = ourselves.rsplit('/').next().unwrap();
    assert!(is_called(Path::new("/proc/self"), name));
    let pid = getpid().as_raw_nonzero().get();
    assert!(find(Path::new("/proc"), name).unwrap().iter().all(|found| found.pid != pid));
}

#[test]
fn a_zombie_is_not_found() {
    let name = unique("zombie");
    let mut sleeper = Sleeper::called(&name);
    let pid = sleeper.0.id();
    rustix::process::kill_process(Pid::from_child(&sleeper.0), Signal::KILL).unwrap();
    while parent_of(Path::new(&format!("/proc/{pid}"))).is_some_and(|(_, alive)| alive) {
        std::thread::yield_now();
    }
    assert!(find(Path::new("/proc"), &name).unwrap().is_empty());
    assert_eq!(sleeper.ended_by(), Some(Signal::KILL.as_raw()));
}

#[test]
fn workers_are_left_to_their_master() {
    let pidfd = std::fs::File::open("/dev/null").unwrap();
    let process =
        |pid, parent| Found { pid, parent, uid: 0, pidfd: pidfd.as_fd().try_clone_to_owned().unwrap() };
    let found = vec![process(12, 10), process(10, 1), process(13, 12), process(40, 2)];
    assert_eq!(topmost(found).iter().map(|found| found.pid).collect::<Vec<_>>(), [10, 40]);
}

#[test]
fn a_foreign_uid_is_named_with_the_fix() {
    let message = not_ours("gunicorn", 7, 1000).to_string();
    assert!(
        message.contains("gunicorn (pid 7)") && message.contains("uid 1000") && message.contains("runAsUser")
    );
}

#[test]
fn every_signal_that_a_user_may_write_is_known() {
    assert!(["HUP", "USR1", "USR2", "TERM", "INT", "WINCH"].iter().all(|word| number(word).is_some()));
    assert_eq!(number("KILL"), None);
}
