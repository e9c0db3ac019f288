//! `/metrics` over TLS, for those only whom the API server lets read it.

use std::fs;
use std::time::{Duration, Instant};

use graft_operator::access::{SCRAPES, rules};
use graft_tests::observe::Prometheus;
use graft_tests::scenario::{http_get, workspace};
use rcgen::{CertificateParams, KeyPair, SanType};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::bench::{Bench, Operator, PATIENCE};

/// The operator's name in `docs/observability.md`.
const NAME: &str = "graft-operator.graft-system.svc";

/// What the chart makes with `metrics.authorize`, and two service accounts: one that may scrape and one that may not.
fn roles() -> String {
    let bound = |role: &str, account: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {role}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: graft-system}}]
---
"
        )
    };
    let role = |name: &str, rules: &str| {
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {name}}}\nrules:\n{rules}---\n")
    };
    let account = |name: &str| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: graft-system}}\n---\n");
    [
        role("scrapes", &rules(SCRAPES)),
        bound("scrapes", "graft-operator"),
        role("metrics-reader", "- nonResourceURLs: [/metrics]\n  verbs: [get]\n"),
        bound("metrics-reader", "prometheus"),
        account("prometheus"),
        account("stranger"),
    ]
    .concat()
}

/// A certificate for the operator's address in its folder; gives it for the other side.
fn certify(bench: &Bench) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(bench.cluster.address().parse().unwrap()), SanType::DnsName(NAME.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let folder = bench.file("tls");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("tls.crt"), &certificate).unwrap();
    certificate
}

/// Status and body of an answer, or what was wrong with the connection.
fn get(certificate: &str, url: &str, token: Option<&str>) -> Result<(u16, String), ureq::Error> {
    let root = Certificate::from_pem(certificate.as_bytes())?;
    let tls = TlsConfig::builder().root_certs(RootCerts::from(vec![root])).build();
    let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).timeout_global(Some(Duration::from_secs(10)));
    let mut request = ureq::Agent::from(config.build()).get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call()?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
}

pub fn are_let_in_by_token(bench: &Bench) {
    let file = bench.file("scrapes.yaml");
    fs::write(&file, roles()).unwrap();
    bench.kubectl(&["apply", "-f", &file.to_string_lossy()]);
    let certificate = certify(bench);
    let operator = bench.operator_with(&["--tls-folder", &bench.file("tls").to_string_lossy(), "--scrapers", "authorized"]);
    let url = |path: &str| format!("https://{}{path}", operator.address);
    let until = Instant::now() + PATIENCE;
    while !get(&certificate, &url("/readyz"), None).is_ok_and(|(code, _)| code == 200) {
        assert!(Instant::now() < until, "{}", bench.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let token = |account: &str| bench.kubectl(&["create", "token", account, "-n", "graft-system"]).trim().to_owned();
    let (prometheus, stranger) = (token("prometheus"), token("stranger"));
    let forged = format!("{}x", &prometheus[..prometheus.len() - 8]);
    let scrape = |token| get(&certificate, &url("/metrics"), token).unwrap();
    for (token, expected) in
        [(None, 401), (Some("x"), 401), (Some(forged.as_str()), 401), (Some(stranger.as_str()), 403), (Some(prometheus.as_str()), 200)]
    {
        let (code, body) = scrape(token);
        assert_eq!((code, body.contains("graft_build_info")), (expected, expected == 200), "{token:?}: {body}");
    }
    // The second time it is remembered, and refused is refused again.
    assert_eq!((scrape(Some(&prometheus)).0, scrape(Some(&stranger)).0), (200, 403));
    http_get(&operator.address, "/metrics").expect_err("plain HTTP is answered");
    prometheus_scrapes(bench, &operator, &prometheus, &stranger);

    let renewed = certify(bench);
    assert_eq!(get(&renewed, &url("/livez"), None).unwrap().0, 200, "a new certificate is served at once");
    get(&certificate, &url("/livez"), None).expect_err("the old certificate is still served");
}

/// A real Prometheus with the configuration of `docs/observability.md`, whose files and address alone are those of this test.
fn prometheus_scrapes(bench: &Bench, operator: &Operator, reader: &str, stranger: &str) {
    let page = fs::read_to_string(workspace().join("docs/observability.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut config = blocks.into_iter().find(|block| block.contains("scheme: https")).expect("no such example").to_owned();
    let (token, authority) = (bench.file("prometheus.token"), bench.file("tls").join("tls.crt"));
    for (documented, here) in [
        ("/var/run/secrets/kubernetes.io/serviceaccount/token", token.to_string_lossy().into_owned()),
        ("/etc/prometheus/graft/ca.crt", authority.to_string_lossy().into_owned()),
        (&format!("[\"{NAME}:8080\"]"), format!("[\"{}\"]", operator.address)),
    ] {
        assert_eq!(config.matches(documented).count(), 1, "{documented}");
        config = config.replace(documented, &here);
    }
    fs::write(&token, reader).unwrap();
    let prometheus = Prometheus::start_with(&bench.cluster, &bench.file("prometheus-tls"), &config).unwrap();
    let up = |expected: &str| {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = prometheus.query("up{job=\"graft-operator\"}").unwrap();
            if found.first().is_some_and(|series| series["value"][1] == expected) {
                return;
            }
            assert!(Instant::now() < until, "{found:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    up("1");
    assert!(!prometheus.query("graft_build_info{namespace=~\".*\"}").unwrap().is_empty());
    fs::write(&token, stranger).unwrap();
    up("0");
}
