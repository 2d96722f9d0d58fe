use std::path::{Path, PathBuf};

use crate::Outcome;

/// A CPU limit on processes, as kubelet sets it; gone when dropped, once they have ended.
pub(crate) struct CpuLimit(PathBuf);

impl CpuLimit {
    /// Five milliseconds in every hundred: `cpu: 50m`.
    pub(crate) fn fifty_millicores(pids: &[u32]) -> Outcome<Self> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
        let name = format!("keyward-bench-{}", std::process::id());
        let limit = if std::fs::read_to_string(unified).is_ok_and(|all| all.contains("cpu")) {
            let limit = Self(Path::new("/sys/fs/cgroup").join(name));
            std::fs::create_dir(&limit.0)?;
            // The root may not hand the controller down yet.
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
            limit.set("cpu.max", "5000 100000")?;
            limit
        } else {
            let limit = Self(Path::new("/sys/fs/cgroup/cpu").join(name));
            std::fs::create_dir(&limit.0)?;
            limit.set("cpu.cfs_period_us", "100000")?;
            limit.set("cpu.cfs_quota_us", "5000")?;
            limit
        };
        for pid in pids {
            limit.set("cgroup.procs", &pid.to_string())?;
        }
        Ok(limit)
    }

    fn set(&self, file: &str, text: &str) -> Outcome<()> {
        let path = self.0.join(file);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // Processes that still run keep it; the machine's owner sees its name.
        let _ = std::fs::remove_dir(&self.0);
    }
}
