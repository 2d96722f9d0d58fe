//! The cluster through its own tools: kubectl, Helm, and the scripts that booted it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::Outcome;
use crate::wait::{ensure, until};

/// The label of namespaces that scenarios make.
const OF_A_SCENARIO: &str = "keyward-tests";

/// Where the cluster is, and what is installed on it.
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    chart: PathBuf,
    /// The image, `NAME:TAG`.
    pub(crate) image: String,
    /// The node's address on the bridge of its pods.
    pub(crate) address: String,
    /// kubelet's root directory.
    pub(crate) kubelet_dir: PathBuf,
    /// `control NAME stop|start`: single components.
    control: PathBuf,
}

impl Cluster {
    pub(crate) fn from_environment() -> Outcome<Self> {
        let get = |name: &str| {
            let name = format!("KEYWARD_CLUSTER_{name}");
            std::env::var(&name).map_err(|_| format!("{name} is not set; start tests/kubernetes/run"))
        };
        Ok(Self {
            kubeconfig: get("KUBECONFIG")?.into(),
            kubectl: get("KUBECTL")?.into(),
            helm: get("HELM")?.into(),
            chart: get("CHART")?.into(),
            image: get("IMAGE")?,
            address: get("ADDRESS")?,
            kubelet_dir: get("KUBELET_DIR")?.into(),
            control: get("CONTROL")?.into(),
        })
    }

    /// What a shell needs to work on the cluster.
    pub(crate) fn shell(&self) -> String {
        let tools = self.kubectl.parent().unwrap_or(&self.kubectl);
        format!("export KUBECONFIG={} PATH={}:$PATH", self.kubeconfig.display(), tools.display())
    }

    fn run(&self, program: &PathBuf, arguments: &[&str], input: Option<&str>) -> Outcome<String> {
        let output = self.output(program, arguments, input)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {}: {}", program.display(), arguments.join(" "), said.trim()))
    }

    fn output(&self, program: &PathBuf, arguments: &[&str], input: Option<&str>) -> Outcome<Output> {
        let failed = |error: std::io::Error| format!("{}: {error}", program.display());
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        if let Some(text) = input {
            stdin.write_all(text.as_bytes()).map_err(failed)?;
        }
        drop(stdin);
        child.wait_with_output().map_err(failed)
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Outcome<String> {
        self.run(&self.kubectl, arguments, None)
    }

    pub(crate) fn apply(&self, objects: &[Value]) -> Outcome {
        self.apply_with(&["apply", "-f", "-"], objects)
    }

    /// Creates one object with one request, without asking what the server knows first.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Outcome {
        self.run(&self.kubectl, &["create", "--raw", path, "-f", "-"], Some(&object.to_string())).map(drop)
    }

    /// Asks the API server and its webhooks, and changes nothing.
    pub(crate) fn try_apply(&self, objects: &[Value]) -> Outcome {
        self.apply_with(&["create", "--dry-run=server", "-f", "-"], objects)
    }

    fn apply_with(&self, arguments: &[&str], objects: &[Value]) -> Outcome {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.run(&self.kubectl, arguments, Some(&list.to_string())).map(drop)
    }

    pub(crate) fn get(&self, arguments: &[&str]) -> Outcome<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| format!("kubectl get {}: {error}", arguments.join(" ")))
    }

    /// Installs or upgrades a release and waits until its pods are ready.
    pub(crate) fn install(&self, release: &str, namespace: &str, values: &Value) -> Outcome {
        let chart = self.chart.display().to_string();
        let (repository, tag) = self.image.rsplit_once(':').ok_or("the image has no tag")?;
        let mut values = values.clone();
        values["image"] = serde_json::json!({"repository": repository, "tag": tag, "pullPolicy": "Never"});
        let arguments = [
            "upgrade",
            "--install",
            release,
            &chart,
            "--namespace",
            namespace,
            "--create-namespace",
            "--wait",
            "--timeout",
            "120s",
            "--values",
            "-",
        ];
        self.run(&self.helm, &arguments, Some(&values.to_string()))?;
        // Helm waits for those that come, while those that go still answer.
        until(60, "rolled over", || {
            let pods = self.get(&["pods", "-n", namespace])?;
            let goes = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
            let going = pods["items"].as_array().into_iter().flatten().filter(|pod| goes(pod)).count();
            ensure(going == 0, || format!("{going} pods of {namespace} are ending"))
        })
    }

    /// Runs the chart's own tests.
    pub(crate) fn helm_test(&self, release: &str, namespace: &str) -> Outcome {
        let arguments = ["test", release, "--namespace", namespace, "--timeout", "60s"];
        self.run(&self.helm, &arguments, None).map(drop)
    }

    pub(crate) fn uninstall(&self, release: &str, namespace: &str) -> Outcome {
        self.run(&self.helm, &["uninstall", release, "--namespace", namespace, "--wait"], None).map(drop)
    }

    /// Stops or starts a component: `kubelet`, `kube-apiserver`, or `reboot` for all that runs on the node.
    pub(crate) fn control(&self, what: &str, action: &str) -> Outcome {
        self.run(&self.control, &[what, action], None).map(drop)
    }

    /// Runs a command in a container.
    pub(crate) fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Outcome<String> {
        let place = ["exec", "-n", namespace, pod, "-c", container, "--"];
        self.kubectl(&[&place[..], command].concat())
    }

    pub(crate) fn logs(&self, namespace: &str, pod: &str, container: &str) -> Outcome<String> {
        self.kubectl(&["logs", "-n", namespace, pod, "-c", container])
    }

    /// What events say about a pod.
    pub(crate) fn events(&self, namespace: &str, pod: &str) -> Outcome<String> {
        let selector = format!("involvedObject.name={pod}");
        let events = self.get(&["events", "-n", namespace, "--field-selector", &selector])?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|e| format!("{} {}\n", e["reason"], e["message"])).collect())
    }

    /// Waits until a pod is ready.
    pub(crate) fn ready(&self, namespace: &str, pod: &str, seconds: u64) -> Outcome {
        let waited = self.kubectl(&[
            "wait",
            "-n",
            namespace,
            &format!("pod/{pod}"),
            "--for=condition=Ready",
            &format!("--timeout={seconds}s"),
        ]);
        waited
            .map(drop)
            .map_err(|why| format!("{why}; events: {}", self.events(namespace, pod).unwrap_or_default()))
    }

    /// Waits until so many pods with this label are ready.
    pub(crate) fn all_ready(&self, namespace: &str, label: &str, count: usize, seconds: u64) -> Outcome {
        until(seconds, "ready", || {
            let pods = self.get(&["pods", "-n", namespace, "-l", label])?;
            let ready = pods["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count();
            ensure(ready == count, || format!("{ready} of {count} pods are ready"))
        })
    }

    /// Makes a namespace anew, with service accounts.
    pub(crate) fn namespace(&self, name: &str, accounts: &[&str]) -> Outcome {
        let _ = self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=90s"]);
        let mut objects = vec![
            serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {OF_A_SCENARIO: "true"}}}),
        ];
        objects.extend(accounts.iter().map(|account| {
            serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}})
        }));
        self.apply(&objects)
    }

    /// Takes away what failed scenarios left, so that it does not speak against the next.
    pub(crate) fn clear(&self) -> Outcome {
        self.kubectl(&["delete", "namespace", "-l", &format!("{OF_A_SCENARIO}=true"), "--timeout=90s"])
            .map(drop)
    }

    /// Deletes a namespace; everything in it must go.
    pub(crate) fn end(&self, namespace: &str) -> Outcome {
        self.kubectl(&["delete", "namespace", namespace, "--timeout=90s"]).map(drop)
    }

    /// No mount of ours is left below kubelet's directory for pods that are gone.
    pub(crate) fn no_mount_left(&self) -> Outcome {
        until(60, "unmounted", || {
            let pods = self.get(&["pods", "--all-namespaces"])?;
            let uids: Vec<_> = pods["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|p| p["metadata"]["uid"].as_str())
                .collect();
            let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
            let below = format!("{}/pods/", self.kubelet_dir.display());
            let left: Vec<_> = mounts
                .lines()
                .filter(|line| line.contains("kubernetes.io~csi"))
                .filter_map(|line| line.split(' ').nth(1)?.strip_prefix(&below))
                .filter(|path| !uids.iter().any(|uid| path.starts_with(uid)))
                .map(str::to_owned)
                .collect();
            ensure(left.is_empty(), || format!("left behind: {}", left.join(", ")))
        })
    }

    /// The name of the driver's pod.
    pub(crate) fn driver_pod(&self) -> Outcome<String> {
        let pods =
            self.get(&["pods", "-n", "keyward-system", "-l", "app.kubernetes.io/component=csi-driver"])?;
        let name = pods["items"].as_array().into_iter().flatten().find(|pod| is_ready(pod));
        name.and_then(|pod| pod["metadata"]["name"].as_str())
            .map(str::to_owned)
            .ok_or("no driver is ready".to_owned())
    }
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
