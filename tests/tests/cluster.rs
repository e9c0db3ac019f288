//! The test cluster itself: a node on which restricted pods reach each other by name, write to a claim and are heard; a
//! second cluster beside it; and nothing left of a cluster whose owner was killed. Needs root on Linux, says so otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests, which the lint does not see as such.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use graft_tests::cluster::{Cluster, can_run_node, clean_up};
use graft_tests::oci::{Entry, Settings, write_image};
use graft_tests::programs::Programs;
use graft_tests::scenario::{kubectl, restricted_namespace};
use serde_json::{Value, json};

const IMAGE: &str = "docker.io/library/probe:1";
const NAMESPACE: &str = "probe";
/// Set in the process that is killed; see `owner`.
const OWNER: &str = "GRAFT_TEST_CLUSTER_OWNER";

#[test]
fn a_node_runs_restricted_pods_beside_another_cluster_and_a_killed_owner_leaves_nothing() {
    if let Err(reason) = can_run_node() {
        println!("skipped a_node_runs_restricted_pods: {reason}");
        return;
    }
    // Programs are compiled before there are two processes that would both compile them.
    let programs = Programs::ensure().unwrap();
    let mut other = owner();
    let cluster = Cluster::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    load_probe(&cluster, &programs, folder.path());

    let other_id = started(&mut other);
    assert_ne!(cluster.id(), other_id);
    run_job(&cluster, folder.path());
    audited(&cluster);

    let traces = traces(&other_id);
    for kind in ["process ", "mount ", "log ", "/tmp/", "/var/run/netns/", "/sys/fs/cgroup/"] {
        assert!(traces.iter().any(|t| t.starts_with(kind)), "a running cluster must show {kind}, else the next check sees nothing: {traces:#?}");
    }
    other.kill().unwrap();
    other.wait().unwrap();
    clean_up();
    let left = self::traces(&other_id);
    assert!(left.is_empty(), "left behind: {left:#?}");

    let node = kubectl(&cluster, &["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"]).unwrap();
    assert_eq!(node, "True", "the cluster whose owner lives must go on");
    let id = cluster.id().to_owned();
    cluster.stop();
    let left = self::traces(&id);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Not a test of its own: the body of the process that `owner` starts and the test kills.
#[test]
fn owner_that_is_killed() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let cluster = Cluster::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    load_probe(&cluster, &Programs::ensure().unwrap(), folder.path());
    restricted_namespace(&cluster, NAMESPACE).unwrap();
    volume(&cluster, folder.path());
    apply(&cluster, folder.path(), &service());
    apply(&cluster, folder.path(), &job(1));
    // Index 0 waits for a peer that never comes: a pod is running when the owner is killed.
    kubectl(&cluster, &["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "-l", "job-name=probe", "--timeout=60s"]).unwrap();
    println!("\nstarted {}", cluster.id());
    loop {
        std::thread::park();
    }
}

fn owner() -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "owner_that_is_killed", "--nocapture"]).env(OWNER, "1").stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn started(owner: &mut Child) -> String {
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let id = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("started ").map(str::to_owned));
    id.expect("the other owner must get its cluster up")
}

fn load_probe(cluster: &Cluster, programs: &Programs, folder: &Path) {
    let tar = folder.join("probe.tar");
    let entry = Entry::File { path: "probe".into(), source: programs.path("probe"), mode: 0o755 };
    let settings = Settings { entrypoint: vec!["/probe".into()], user: "65532:65532".into(), ..Default::default() };
    write_image(&tar, IMAGE, &[vec![entry]], &settings).unwrap();
    cluster.load_image(&tar).unwrap();
}

fn volume(cluster: &Cluster, folder: &Path) {
    let out = folder.join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    cluster.create_hostpath_volume("out", NAMESPACE, &out, "1Gi").unwrap();
}

fn apply(cluster: &Cluster, folder: &Path, object: &Value) {
    let file = folder.join("object.json");
    fs::write(&file, object.to_string()).unwrap();
    kubectl(cluster, &["apply", "-n", NAMESPACE, "-f", &file.to_string_lossy()]).unwrap();
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gang"},
           "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"job-name": "probe"}}})
}

fn job(pods: u32) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"},
        "spec": {"completionMode": "Indexed", "completions": pods, "parallelism": pods, "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "subdomain": "gang", "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "out", "persistentVolumeClaim": {"claimName": "out"}}],
                "containers": [{"name": "probe", "image": IMAGE, "imagePullPolicy": "Never", "args": ["probe-0.gang"],
                    "securityContext": security, "volumeMounts": [{"name": "out", "mountPath": "/out"}]}]}}}})
}

/// Two pods meet by name; claim, log and termination message carry what they said.
fn run_job(cluster: &Cluster, folder: &Path) {
    restricted_namespace(cluster, NAMESPACE).unwrap();
    volume(cluster, folder);
    apply(cluster, folder, &service());
    apply(cluster, folder, &job(2));
    let waited = kubectl(cluster, &["wait", "-n", NAMESPACE, "--for=condition=Complete", "job/probe", "--timeout=90s"]);
    let logs = kubectl(cluster, &["logs", "-n", NAMESPACE, "-l", "job-name=probe", "--prefix"]).unwrap();
    if let Err(error) = waited {
        panic!("{error}\n{logs}\n{}", kubectl(cluster, &["describe", "pods", "-n", NAMESPACE]).unwrap());
    }
    assert!(logs.contains("index 1 heard: hello from probe-0"), "{logs}");
    assert_eq!(fs::read_to_string(folder.join("out/1.txt")).unwrap(), "hello from probe-0");
    let messages = "jsonpath={range .items[*]}{.status.containerStatuses[0].state.terminated.message}{'\\n'}{end}";
    let messages = kubectl(cluster, &["get", "pods", "-n", NAMESPACE, "-l", "job-name=probe", "-o", messages]).unwrap();
    assert!(messages.contains("index 0 is done") && messages.contains("index 1 is done"), "{messages}");
    let privileged = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {"containers": [{"name": "a", "image": IMAGE}]}});
    fs::write(folder.join("bad.json"), privileged.to_string()).unwrap();
    let refused = cluster.kubectl(&["apply", "-n", NAMESPACE, "-f", &folder.join("bad.json").to_string_lossy()]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("violates PodSecurity"), "{refused:?}");
}

/// The audit log names who wrote what, and holds no reads.
fn audited(cluster: &Cluster) {
    let text = fs::read_to_string(cluster.audit_log()).unwrap();
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let created = events.iter().filter(|e| e["verb"] == "create" && e["objectRef"]["resource"] == "jobs");
    let agents: Vec<&str> = created.filter_map(|e| e["userAgent"].as_str()).collect();
    assert!(agents.len() == 1 && agents[0].contains("kubectl"), "{agents:?}");
    assert!(!events.iter().any(|e| e["verb"] == "get" || e["verb"] == "list" || e["verb"] == "watch"));
}

/// All that the machine shows of a cluster.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        // A process that has ended and waits for its parent has no command line any more.
        let command = read("cmdline");
        if !command.is_empty() && (command.contains(id) || read("environ").contains(id) || read("cgroup").contains(id)) {
            found.push(format!("process {}", command.replace('\0', " ")));
        }
    }
    found.extend(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(id)).map(|l| format!("mount {l}")));
    for folder in ["/tmp", "/var/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu"] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path().display().to_string());
        found.extend(names.filter(|n| n.contains(id)));
    }
    let links = fs::read_dir("/var/log/containers").into_iter().flatten().flatten().filter_map(|e| fs::read_link(e.path()).ok());
    found.extend(links.map(|l| format!("log {}", l.display())).filter(|l| l.contains(id)));
    found
}
