//! Certificates, kubeconfigs and configuration files of a cluster's programs. Each setting that is not obvious says why
//! it is there.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{NODE_ADDRESS, Place};
use crate::programs::Programs;

/// Name of the node.
pub(super) const NODE: &str = "node-1";
/// The image that holds a pod's namespaces.
pub(super) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// Every write is logged once, with who did what, a TransferJob's status with its content; reads are not, but for those
/// of operator, trial and trainers under their own service accounts, whose rights are compared with what they use.
pub(super) const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [update, patch]
  resources: [{group: graft.dev, resources: [transferjobs/status]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  users:
  - system:serviceaccount:graft-system:graft-operator
  - system:serviceaccount:graft-system:graft-test
  - system:serviceaccount:graft-system:graft-uninstall
  - system:serviceaccount:graft-system:default
  - system:serviceaccount:radiology:graft-test
  - system:serviceaccount:radiology:default
- level: None
";

pub(super) fn apiserver_arguments(place: &Place) -> Vec<String> {
    let path = |name: &str| place.file(name).to_string_lossy().into_owned();
    vec![
        "kube-apiserver".into(),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--secure-port=6443".into(),
        // Pods cannot reach loopback, and a kubelet refuses a loopback node address.
        format!("--advertise-address={NODE_ADDRESS}"),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        format!("--client-ca-file={}", path("ca.crt")),
        format!("--tls-cert-file={}", path("apiserver.crt")),
        format!("--tls-private-key-file={}", path("apiserver.key")),
        format!("--kubelet-client-certificate={}", path("admin.crt")),
        format!("--kubelet-client-key={}", path("admin.key")),
        // Without it `kubectl logs` looks the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", path("service-account.pub")),
        format!("--service-account-signing-key-file={}", path("service-account.key")),
        "--authorization-mode=Node,RBAC".into(),
        // As strict as clusters can be: who blocks an owner's deletion must have the right to.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".into(),
        "--allow-privileged=true".into(),
        format!("--audit-policy-file={}", path("audit-policy.yaml")),
        format!("--audit-log-path={}", path("audit.log")),
        "--audit-log-mode=blocking".into(),
    ]
}

/// CA, server certificate, one client certificate and kubeconfig per component, and the service accounts' key.
pub(super) fn write_pki(place: &Place) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = subject("graft-tests", None);
    let certificate = params.self_signed(&key)?;
    fs::write(place.file("ca.crt"), certificate.pem())?;
    let issuer = Issuer::new(params, key);

    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
    for address in [NODE_ADDRESS, &place.address(), "10.96.0.1", "127.0.0.1"] {
        server.subject_alt_names.push(SanType::IpAddress(address.parse::<IpAddr>().context("an address")?));
    }
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(place, &issuer, server, subject("kube-apiserver", None), "apiserver")?;
    let accounts = KeyPair::generate()?;
    fs::write(place.file("service-account.key"), accounts.serialize_pem())?;
    fs::write(place.file("service-account.pub"), accounts.public_key_pem())?;

    let inside = format!("https://{NODE_ADDRESS}:6443");
    let outside = format!("https://{}:6443", place.address());
    let node = format!("system:node:{NODE}");
    for (file, name, group, server) in [
        ("admin", "admin", Some("system:masters"), &outside),
        ("controller-manager", "system:kube-controller-manager", None, &inside),
        ("scheduler", "system:kube-scheduler", None, &inside),
        ("kubelet", node.as_str(), Some("system:nodes"), &inside),
        ("proxy", "system:kube-proxy", None, &inside),
        ("dns", "coredns", Some("system:masters"), &inside),
    ] {
        let mut client = CertificateParams::new(Vec::new())?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        sign(place, &issuer, client, subject(name, group), file)?;
        fs::write(place.file(&format!("{file}.kubeconfig")), kubeconfig(place, file, server))?;
    }
    Ok(())
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject
}

fn sign(place: &Place, issuer: &Issuer<'_, KeyPair>, mut params: CertificateParams, subject: DistinguishedName, file: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&key, issuer)?;
    fs::write(place.file(&format!("{file}.crt")), certificate.pem())?;
    fs::write(place.file(&format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}

fn kubeconfig(place: &Place, name: &str, server: &str) -> String {
    let path = |suffix: &str| place.file(&format!("{name}.{suffix}")).display().to_string();
    format!(
        "apiVersion: v1
kind: Config
current-context: graft
clusters: [{{name: graft, cluster: {{server: {server}, certificate-authority: {}}}}}]
users: [{{name: {name}, user: {{client-certificate: {}, client-key: {}}}}}]
contexts: [{{name: graft, context: {{cluster: graft, user: {name}}}}}]
",
        place.file("ca.crt").display(),
        path("crt"),
        path("key"),
    )
}

/// Configuration of containerd, CNI, kubelet, kube-proxy and CoreDNS.
pub(super) fn write_node(place: &Place, programs: &Programs) -> Result<()> {
    let path = |name: &str| place.file(name).display().to_string();
    fs::create_dir_all(place.file("cni"))?;
    fs::create_dir_all(place.file("pod-logs"))?;
    let network = serde_json::json!({"cniVersion": "1.0.0", "name": "graft", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": path("ipam"),
         "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.10"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
    fs::write(place.file("cni/10-graft.conflist"), serde_json::to_vec(&network)?)?;
    fs::write(place.file("containerd.toml"), containerd(place, programs))?;
    fs::write(place.file("kubelet.yaml"), kubelet(place))?;
    let proxy = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {}}}
mode: iptables
hostnameOverride: {NODE}
clusterCIDR: 10.244.0.0/24
conntrack: {{maxPerCore: 0, min: 0}}
",
        path("proxy.kubeconfig")
    );
    fs::write(place.file("kube-proxy.yaml"), proxy)?;
    let dns = format!(
        ".:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {} graft\n    ttl 1\n  }}\n}}\n",
        path("dns.kubeconfig")
    );
    fs::write(place.file("Corefile"), dns)?;
    Ok(())
}

fn containerd(place: &Place, programs: &Programs) -> String {
    let path = |name: &str| place.file(name).display().to_string();
    // The network namespaces, runc's state and the shims' sockets are in the state folder, so that nothing is left elsewhere.
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE a container's score cannot go below containerd's own.
    format!(
        "version = 3
root = '{root}'
state = '{state}'
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']

[grpc]
address = '{socket}'

[ttrpc]
address = '{socket}.ttrpc'

[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE_IMAGE}'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{runc}'
Root = '{runs}'
SystemdCgroup = false

[plugins.'io.containerd.shim.v1.manager']
socket_dir = '{shims}'

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{conf}'
",
        root = path("containerd"),
        state = path("run"),
        socket = path("containerd.sock"),
        runc = programs.path("runc").display(),
        runs = path("runc"),
        shims = path("s"),
        cni = programs.folder("bridge").display(),
        conf = path("cni"),
    )
}

fn kubelet(place: &Place) -> String {
    let path = |name: &str| place.file(name).display().to_string();
    // podLogsDir: two kubelets on one machine delete each other's log folders as orphans.
    // cgroupRoot: their pods must not meet in one cgroup either.
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
authorization: {{mode: Webhook}}
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDNS: ['{NODE_ADDRESS}']
clusterDomain: cluster.local
resolvConf: ''
podLogsDir: {logs}
volumePluginDir: {plugins}
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
",
        ca = path("ca.crt"),
        socket = path("containerd.sock"),
        cgroup = place.cgroup(),
        logs = path("pod-logs"),
        plugins = path("volume-plugins"),
    )
}
