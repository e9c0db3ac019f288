//! The values of the chart. The types are the only place where they stand: `values.yaml`, its schema and the table in the
//! README are written from them, and `config` is the operator's own configuration.

use std::collections::BTreeMap;

use graft_operator::config::OperatorConfig;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Fields of the operator's configuration that other values of the chart decide.
const DECIDED_BY_THE_CHART: [&str; 5] = ["trainerImage", "namespace", "listen", "tlsFolder", "scrapers"];

/// The values.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// The operator's image.
    pub image: Image,
    /// Secrets to pull it with, as `[{name: …}]`.
    pub image_pull_secrets: Vec<Named>,
    /// The image of jobs that name none.
    pub trainer_image: Image,
    /// The operator's own configuration; every field is an environment variable of it.
    pub config: Config,
    /// Levels of the log, such as `info` or `info,graft_operator=debug`.
    pub log_level: String,
    /// The only namespace to work in; the operator then has a Role there and none for the cluster. Empty: all namespaces.
    pub watch_namespace: String,
    /// The operator's service account.
    pub service_account: ServiceAccount,
    /// Roles.
    pub rbac: Rbac,
    /// CPU and memory of the operator. It needs little: about 30 MiB with 1,000 jobs.
    #[schemars(with = "Map<String, Value>")]
    pub resources: Value,
    /// Labels of the nodes it may run on.
    pub node_selector: BTreeMap<String, String>,
    /// Taints it tolerates.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub tolerations: Vec<Value>,
    /// Where it prefers to run.
    #[schemars(with = "Map<String, Value>")]
    pub affinity: Value,
    /// More annotations of its pod.
    pub pod_annotations: BTreeMap<String, String>,
    /// More labels of its pod.
    pub pod_labels: BTreeMap<String, String>,
    /// Its priority.
    pub priority_class: PriorityClass,
    /// The Service in front of `/metrics`.
    pub service: Service,
    /// How `/metrics` is served.
    pub metrics: Metrics,
    /// What Prometheus and Grafana take; each needs its operator or sidecar in the cluster.
    pub monitoring: Monitoring,
    /// Where traces go. Only `graft-operator-otel` sends them.
    pub tracing: Tracing,
    /// Who may talk to the operator, and to whom it may talk.
    pub network_policy: NetworkPolicy,
    /// What TransferJobs may ask for. Without it, whatever their authors could ask for in a Job.
    pub admission: Admission,
    /// A PodDisruptionBudget. There is one replica, so it lets it be evicted: gangs train on without the operator.
    pub pod_disruption_budget: Switch,
    /// What `helm test` does: it generates pictures and weights, trains on them on CPUs, and deletes it all.
    pub test: Test,
    /// What `helm uninstall` does.
    pub uninstall: Uninstall,
    /// Values for all charts of a parent; not used here.
    #[schemars(with = "Map<String, Value>")]
    pub global: Value,
}

/// An image.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Where it lies, without tag.
    pub repository: String,
    /// Its tag. Empty: the version of the chart's app.
    pub tag: String,
    /// Its digest as `sha256:…`; stands above the tag.
    #[schemars(regex(pattern = "^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,
    /// When it is pulled. For trainers it is always IfNotPresent.
    pub pull_policy: PullPolicy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// The node must have it.
    Never,
}

/// A reference by name.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// The operator's configuration; the schema comes from the operator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Config(pub BTreeMap<String, Value>);

impl JsonSchema for Config {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Config".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = OperatorConfig::json_schema(generator).to_value();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.retain(|name, _| !DECIDED_BY_THE_CHART.contains(&name.as_str()));
        }
        if let Some(object) = schema.as_object_mut() {
            object.remove("required");
            object.insert("additionalProperties".into(), false.into());
        }
        schema.try_into().unwrap_or_default()
    }
}

/// The operator's service account.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// Make it.
    pub create: bool,
    /// Its name. Empty: `RELEASE-operator`, or `default` where none is made.
    pub name: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Roles.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rbac {
    /// Make the operator's role and bind it.
    pub create: bool,
    /// Let those who may view or edit a namespace do so with its TransferJobs: two ClusterRoles that aggregate to `view` and `edit`.
    pub aggregate: bool,
}

/// Priority of the operator.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorityClass {
    /// Make a PriorityClass of this name.
    pub create: bool,
    /// The class. Empty: the cluster's default, or `RELEASE-operator` where one is made.
    pub name: String,
    /// Its value.
    pub value: i32,
}

/// The Service in front of `/metrics`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// How `/metrics` is served.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metrics {
    /// A Secret of type `kubernetes.io/tls` in the release's namespace; the operator then speaks TLS only. Empty: plain HTTP.
    pub tls_secret: String,
    /// Serve it only to those whom the API server lets `get` `/metrics`, by their token; needs `tlsSecret`. The operator then has a ClusterRole for the two reviews.
    pub authorize: bool,
}

/// Where traces go.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// A collector that takes OTLP over HTTP, with its port, such as `http://collector.monitoring:4318`. Empty: none.
    #[schemars(regex(pattern = "^(https?://[^/:]+:[0-9]+)?$"))]
    pub endpoint: String,
}

/// What `helm test` does.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Test {
    /// Namespace of its job and its volume. Empty: `watchNamespace`, else the release's.
    pub namespace: String,
    /// Its trainer image. Empty: `trainerImage`.
    pub image: String,
    /// A PersistentVolumeClaim to use, which stays. Empty: one is made and deleted.
    pub claim: String,
    /// Storage class of the claim that is made. Empty: the cluster's default.
    pub storage_class: String,
    /// How long the data and the job may take, each, in seconds; pods that do not run after half of it make the test fail.
    #[schemars(range(min = 10))]
    pub seconds: u32,
    /// CPU and memory of the job.
    #[schemars(with = "Map<String, Value>")]
    pub resources: Value,
}

/// What `helm uninstall` does.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uninstall {
    /// What becomes of gangs: `keep` lets them train on to their end; `stop` ends them before the operator goes. TransferJobs, checkpoints and models stay either way, and a new installation goes on from them.
    pub jobs: Gangs,
}

/// What becomes of gangs without an operator.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gangs {
    /// They train on to their end.
    Keep,
    /// They are stopped.
    Stop,
}

/// What Prometheus and Grafana take.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Monitoring {
    /// A ServiceMonitor of the operator.
    pub service_monitor: Monitor,
    /// A PodMonitor of the trainers' pods.
    pub pod_monitor: Monitor,
    /// A PrometheusRule with the recording and alerting rules.
    pub prometheus_rule: Rule,
    /// The dashboards as ConfigMaps, for Grafana's sidecar.
    pub dashboards: Dashboards,
}

/// What is scraped.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Monitor {
    /// Make it.
    pub enabled: bool,
    /// How often.
    pub interval: String,
    /// Its labels, by which a Prometheus selects it.
    pub labels: BTreeMap<String, String>,
}

/// Rules of Prometheus.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Make it.
    pub enabled: bool,
    /// Its labels, by which a Prometheus selects it.
    pub labels: BTreeMap<String, String>,
    /// Folder of the runbooks that the alerts link to.
    pub runbooks: String,
}

/// Dashboards of Grafana.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dashboards {
    /// Make them.
    pub enabled: bool,
    /// Labels by which the sidecar finds them.
    pub labels: BTreeMap<String, String>,
    /// Annotations, such as the folder they are shown in.
    pub annotations: BTreeMap<String, String>,
}

/// Who may talk to the operator.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Let nothing in but to `/metrics` and the probes.
    pub enabled: bool,
    /// Peers of a NetworkPolicy that may scrape. Empty: all.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub scrapers: Vec<Value>,
    /// Let nothing out but DNS, `apiServerPorts` and the progress of trainers.
    pub restrict_egress: bool,
    /// Ports of the API server.
    pub api_server_ports: Vec<u16>,
}

/// What TransferJobs may ask for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admission {
    /// Make a ValidatingAdmissionPolicy, for all namespaces or for `watchNamespace`, with the limits below.
    pub enabled: bool,
    /// Beginnings of the images that jobs may name, such as `registry.example/graft-`. Empty: any.
    pub images: Vec<String>,
    /// Service accounts that jobs may name. Empty: any.
    pub service_accounts: Vec<String>,
    /// Let jobs mount folders of their node.
    pub host_paths: bool,
    /// Most processes or GPUs of one job, over all its pods. 0: no limit.
    pub max_processes: u32,
}

/// Something that is made or not.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// Make it.
    pub enabled: bool,
}

impl Default for Values {
    fn default() -> Self {
        let image = |name: &str| Image { repository: name.into(), tag: String::new(), digest: String::new(), pull_policy: PullPolicy::IfNotPresent };
        let monitor = |interval: &str| Monitor { enabled: false, interval: interval.into(), labels: BTreeMap::new() };
        Self {
            image: image("graft-operator"),
            image_pull_secrets: Vec::new(),
            trainer_image: image("graft-trainer"),
            config: Config(BTreeMap::from([("logFormat".into(), "json".into()), ("progressIntervalSeconds".into(), 10.into())])),
            log_level: "info".into(),
            watch_namespace: String::new(),
            service_account: ServiceAccount { create: true, name: String::new(), annotations: BTreeMap::new() },
            rbac: Rbac { create: true, aggregate: true },
            resources: json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: json!({}),
            pod_annotations: BTreeMap::new(),
            pod_labels: BTreeMap::new(),
            priority_class: PriorityClass { create: false, name: String::new(), value: 1_000_000 },
            service: Service { port: 8080, annotations: BTreeMap::new() },
            metrics: Metrics { tls_secret: String::new(), authorize: false },
            monitoring: Monitoring {
                service_monitor: monitor("30s"),
                pod_monitor: monitor("15s"),
                prometheus_rule: Rule { enabled: false, labels: BTreeMap::new(), runbooks: "docs/runbooks".into() },
                dashboards: Dashboards {
                    enabled: false,
                    labels: BTreeMap::from([("grafana_dashboard".into(), "1".into())]),
                    annotations: BTreeMap::new(),
                },
            },
            tracing: Tracing { endpoint: String::new() },
            network_policy: NetworkPolicy { enabled: true, scrapers: Vec::new(), restrict_egress: false, api_server_ports: vec![443, 6443] },
            admission: Admission { enabled: false, images: Vec::new(), service_accounts: Vec::new(), host_paths: false, max_processes: 0 },
            pod_disruption_budget: Switch { enabled: false },
            test: Test {
                namespace: String::new(),
                image: String::new(),
                claim: String::new(),
                storage_class: String::new(),
                seconds: 240,
                resources: json!({"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}),
            },
            uninstall: Uninstall { jobs: Gangs::Keep },
            global: json!({}),
        }
    }
}

/// The JSON schema; no references, because people read it too.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Values>().to_value();
    // A user's file names only what differs.
    strip_required(&mut schema);
    schema
}

fn strip_required(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("required").is_some_and(Value::is_array) && fields.contains_key("properties") {
                fields.remove("required");
            }
            fields.values_mut().for_each(strip_required);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_required),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schema as it is written.
#[must_use]
pub fn schema_text() -> String {
    serde_json::to_string_pretty(&schema()).unwrap_or_default() + "\n"
}

fn defaults() -> Value {
    serde_json::to_value(Values::default()).unwrap_or_default()
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// `values.yaml`: every value with its default and its description above it.
#[must_use]
pub fn yaml() -> String {
    let mut text = String::new();
    write(&schema(), &defaults(), 0, &mut text);
    text
}

fn write(schema: &Value, defaults: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        text.push_str(&format!("{indent}# {}\n", description(field)));
        let default = &defaults[name];
        if field.get("properties").is_some() {
            text.push_str(&format!("{indent}{name}:\n"));
            write(field, default, depth + 1, text);
        } else if default.is_null() {
            // Not set: the operator decides.
            text.push_str(&format!("{indent}# {name}:\n"));
        } else {
            // JSON on one line is YAML.
            text.push_str(&format!("{indent}{name}: {default}\n"));
        }
    }
}

/// Path, default and description of every value.
#[must_use]
pub fn table() -> Vec<(String, String, String)> {
    let mut rows = Vec::new();
    collect(&schema(), &defaults(), "", &mut rows);
    rows
}

fn collect(schema: &Value, defaults: &Value, path: &str, rows: &mut Vec<(String, String, String)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if field.get("properties").is_some() {
            collect(field, &defaults[name], &path, rows);
        } else {
            let default = if defaults[name].is_null() { String::new() } else { format!("`{}`", defaults[name]) };
            rows.push((path, default, description(field)));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_value_is_described() {
        for (path, _, text) in table() {
            assert!(text.len() >= 8, "{path} has no description");
        }
    }

    /// The template writes `GRAFT_` and the field's name in capitals; the operator must listen to just that.
    #[test]
    fn every_config_value_is_an_environment_variable_of_the_operator() {
        let command = OperatorConfig::command();
        let known: Vec<String> = command.get_arguments().filter_map(|a| Some(a.get_env()?.to_string_lossy().into_owned())).collect();
        let schema = schema();
        let fields = schema["properties"]["config"]["properties"].as_object().unwrap();
        assert!(fields.len() >= 3);
        for name in fields.keys() {
            let snake: String = name.chars().map(|c| if c.is_uppercase() { format!("_{c}") } else { c.to_ascii_uppercase().to_string() }).collect();
            assert!(known.contains(&format!("GRAFT_{snake}")), "{name}: {known:?}");
        }
    }
}
