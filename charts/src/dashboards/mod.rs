//! The three dashboards as Grafana's JSON: what runs the jobs, all jobs, one job. They use a data source variable and no
//! plugin, so they load into any Grafana from version 10 on.

mod fleet;
mod job;
mod operator;
mod panel;

use serde_json::{Value, json};

use crate::{File, file};
use panel::Row;

/// Dashboards by the name of their file.
fn all() -> Vec<(&'static str, Value)> {
    vec![("operator", operator::dashboard()), ("fleet", fleet::dashboard()), ("job", job::dashboard())]
}

/// The files of this module.
pub(crate) fn files() -> Vec<File> {
    let text = |dashboard: &Value| serde_json::to_string_pretty(dashboard).unwrap_or_default() + "\n";
    all().iter().map(|(name, dashboard)| file(&format!("charts/graft/dashboards/{name}.json"), text(dashboard))).collect()
}

/// A choice at the top of a dashboard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Namespaces, several or all.
    Namespace,
    /// One job of the namespaces.
    Job,
}

impl Choice {
    fn variable(self) -> Value {
        let (name, label, query, several) = match self {
            Self::Namespace => ("namespace", "Namespace", "label_values(graft_jobs, namespace)", true),
            Self::Job => ("transferjob", "TransferJob", "label_values(graft_job_phase{namespace=~\"$namespace\"}, transferjob)", false),
        };
        let all = if several { json!(".*") } else { Value::Null };
        json!({"type": "query", "name": name, "label": label, "datasource": panel::source(), "query": {"query": query, "refId": name},
               "definition": query, "refresh": 2, "sort": 1, "multi": several, "includeAll": several, "allValue": all})
    }
}

/// Share of jobs that is done, chosen by `labels`. The operator has it of jobs that are not over, and a job that succeeded is done.
fn done(labels: &str) -> String {
    let over = format!("graft_job_phase{}, phase=\"Succeeded\"}}", labels.trim_end_matches('}'));
    format!("(graft_job_progress_ratio{labels} or on (namespace, transferjob) sum without (phase) ({over} == 1))")
}

fn dashboard(uid: &str, title: &str, description: &str, choices: &[Choice], rows: &[Row]) -> Value {
    let source = json!({"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1});
    let variables: Vec<Value> = std::iter::once(source).chain(choices.iter().map(|c| c.variable())).collect();
    json!({
        "uid": uid, "title": title, "description": description, "tags": ["graft"], "schemaVersion": 39, "version": 1, "editable": true,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "timezone": "",
        "links": [{"type": "dashboards", "title": "Graft", "tags": ["graft"], "asDropdown": false, "includeVars": true, "keepTime": true,
                   "icon": "external link", "tooltip": "", "targetBlank": false}],
        "annotations": {"list": []},
        "templating": {"list": variables},
        "panels": panel::layout(rows),
    })
}

#[cfg(test)]
mod tests {
    use graft_operator::metrics;
    use regex::Regex;

    use super::*;

    #[test]
    fn panels_are_described_have_units_and_ask_for_metrics_that_exist() {
        let names = Regex::new(r"\b(graft|controller_runtime|workqueue|rest_client)_[a-z_]+").unwrap();
        let trainer = include_str!("../../../trainer/src/metrics.rs");
        for (dashboard, value) in all() {
            let mut ids = Vec::new();
            for panel in value["panels"].as_array().unwrap() {
                ids.push(panel["id"].as_u64().unwrap());
                if panel["type"] == "row" {
                    continue;
                }
                let title = panel["title"].as_str().unwrap();
                assert!(panel["description"].as_str().unwrap().len() > 20, "{dashboard}: {title} is not described");
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{dashboard}: {title} has no unit");
                for target in panel["targets"].as_array().unwrap() {
                    for name in names.find_iter(target["expr"].as_str().unwrap()).map(|m| m.as_str()) {
                        let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
                        let known = metrics::ALL.iter().any(|m| m.name == base || m.name == name) || trainer.contains(&format!("\"{base}\""));
                        assert!(known, "{dashboard}: {title}: there is no metric {name}");
                    }
                }
            }
            let count = ids.len();
            ids.dedup();
            assert_eq!(ids.len(), count);
        }
    }

    /// `cargo xtask dashboards` draws the pictures.
    #[test]
    fn the_documentation_shows_every_dashboard() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs");
        let page = std::fs::read_to_string(docs.join("observability.md")).unwrap();
        for (dashboard, value) in all() {
            let picture = format!("dashboards/{dashboard}.png");
            assert!(page.contains(&format!("![{}]({picture})", value["title"].as_str().unwrap())), "{picture} is not shown");
            let bytes = std::fs::metadata(docs.join(&picture)).unwrap_or_else(|e| panic!("{picture}: {e}")).len();
            assert!(bytes < 150 << 10, "{picture} has {bytes} bytes");
        }
    }
}
