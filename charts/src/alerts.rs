//! Recording and alerting rules. Every alert has a page in `docs/runbooks/` of its name, a case in `charts/graft/rules/test.yaml`
//! in which it fires and one in which it does not.

use crate::{File, HEADER, file};

/// How soon somebody must look.
#[derive(Clone, Copy, Debug)]
enum Severity {
    /// Now.
    Critical,
    /// Today.
    Warning,
    /// When there is time.
    Info,
}

/// An alert.
struct Alert {
    name: &'static str,
    expression: &'static str,
    /// How long it must hold.
    hold: &'static str,
    severity: Severity,
    summary: &'static str,
    /// What it means and what to do first, with Prometheus' templates.
    description: &'static str,
}

const RECORDED: [(&str, &str); 3] = [
    (
        "graft:reconcile_errors:ratio_rate10m",
        "sum(rate(controller_runtime_reconcile_errors_total{controller=\"transferjob\"}[10m])) / sum(rate(controller_runtime_reconcile_total{controller=\"transferjob\"}[10m]))",
    ),
    ("graft:gpus_running:sum", "sum by (namespace) (graft_job_gpus and on (namespace, transferjob) graft_job_phase{phase=\"Running\"})"),
    ("graft:job_failures:increase1d", "sum by (namespace, class) (increase(graft_jobs_failed_total[1d]))"),
];

const ALERTS: [Alert; 10] = [
    Alert {
        name: "GraftOperatorDown",
        expression: "absent(graft_build_info)",
        hold: "5m",
        severity: Severity::Critical,
        summary: "No operator of Graft is scraped.",
        description: "Gangs that run go on, but nothing new starts and no gang that fails is started again.",
    },
    Alert {
        name: "GraftReconcileErrors",
        expression: "graft:reconcile_errors:ratio_rate10m > 0.1",
        hold: "15m",
        severity: Severity::Warning,
        summary: "Reconciles of TransferJobs fail.",
        description: "{{ $value | humanizePercentage }} of the operator's reconciles failed in the last 10 minutes; its log says why.",
    },
    Alert {
        name: "GraftJobStalled",
        expression: "graft_job_stalled == 1",
        hold: "10m",
        severity: Severity::Warning,
        summary: "A TransferJob needs help.",
        description: "{{ $labels.namespace }}/{{ $labels.transferjob }} will not go on by itself; status.failure says what is wrong.",
    },
    Alert {
        name: "GraftJobNoProgress",
        expression: "graft_job_phase{phase=\"Running\"} == 1 and on (namespace, transferjob) (changes(graft_job_progress_ratio[1h]) == 0 and changes(graft_job_epoch[1h]) == 0)",
        hold: "15m",
        severity: Severity::Warning,
        summary: "A running TransferJob makes no progress.",
        description: "{{ $labels.namespace }}/{{ $labels.transferjob }} runs, but neither its progress nor its epoch has changed for more than an hour.",
    },
    Alert {
        name: "GraftRestartStorm",
        expression: "sum by (namespace, transferjob) (increase(graft_job_restarts_total{cause=\"failure\"}[1h])) > 2.5",
        hold: "0m",
        severity: Severity::Warning,
        summary: "A gang is started again and again.",
        description: "The gang of {{ $labels.namespace }}/{{ $labels.transferjob }} was started again {{ $value | humanize }} times within an hour.",
    },
    Alert {
        name: "GraftCheckpointStale",
        expression: "(graft_job_epoch - on (namespace, transferjob) graft_job_checkpoint_epoch) > 2",
        hold: "30m",
        severity: Severity::Warning,
        summary: "A TransferJob trains without checkpoints.",
        description: "{{ $labels.namespace }}/{{ $labels.transferjob }} is {{ $value | humanize }} epochs past its newest checkpoint; a lost node would take them.",
    },
    Alert {
        name: "GraftQueueTooLong",
        expression: "max by (namespace, transferjob) (graft_job_phase{phase=~\"Pending|Starting\"}) == 1",
        hold: "1h",
        severity: Severity::Warning,
        summary: "A TransferJob waits for its pods.",
        description: "The gang of {{ $labels.namespace }}/{{ $labels.transferjob }} has not been running for an hour; status.message says what it waits for.",
    },
    Alert {
        name: "GraftDeviceIdle",
        expression: "avg by (namespace, pod) (avg_over_time(DCGM_FI_DEV_GPU_UTIL[15m])) < 5 and on (namespace, pod) graft_trainer_samples_total",
        hold: "15m",
        severity: Severity::Info,
        summary: "GPUs of a TransferJob do nothing.",
        description: "The GPUs of {{ $labels.namespace }}/{{ $labels.pod }} compute {{ $value | humanize }} % of the time; the job's dashboard shows what it waits for.",
    },
    Alert {
        name: "GraftDataRefused",
        expression: "sum by (namespace) (increase(graft_jobs_failed_total{class=\"DataError\"}[1h])) > 0",
        hold: "0m",
        severity: Severity::Info,
        summary: "A TransferJob refused its data.",
        description: "In {{ $labels.namespace }} a job ended because of its data, such as a patient who is in two splits; status.failure names the file and the row.",
    },
    Alert {
        name: "GraftLeakFound",
        expression: "sum by (namespace, transferjob) (graft_job_data_findings{kind=\"across_splits\"}) > 0 and on (namespace, transferjob) graft_job_phase{phase=~\"Running|Succeeded\"} == 1",
        hold: "0m",
        severity: Severity::Info,
        summary: "Pictures of a TransferJob are in two splits.",
        description: "{{ $value | humanize }} pairs of the same picture are in two splits of {{ $labels.namespace }}/{{ $labels.transferjob }}; its test result looks better than it is.",
    },
];

/// The files of this module.
pub(crate) fn files() -> Vec<File> {
    vec![file("charts/graft/rules/graft.yaml", text())]
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn text() -> String {
    let recorded: String =
        RECORDED.iter().map(|(name, expression)| format!("      - record: {name}\n        expr: {}\n", quoted(expression))).collect();
    let alerts: String = ALERTS
        .iter()
        .map(|a| {
            let severity = match a.severity {
                Severity::Critical => "critical",
                Severity::Warning => "warning",
                Severity::Info => "info",
            };
            format!(
                "      - alert: {}
        expr: {}
        for: {}
        labels:
          severity: {severity}
        annotations:
          summary: {}
          description: {}
          runbook_url: docs/runbooks/{0}.md
",
                a.name,
                quoted(a.expression),
                a.hold,
                quoted(a.summary),
                quoted(a.description)
            )
        })
        .collect();
    format!("{HEADER}groups:\n  - name: graft.recorded\n    rules:\n{recorded}  - name: graft\n    rules:\n{alerts}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_alert_has_a_runbook_and_both_cases_and_every_runbook_an_alert() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let cases = std::fs::read_to_string(root.join("charts/graft/rules/test.yaml")).unwrap();
        let mut pages: Vec<String> =
            std::fs::read_dir(root.join("docs/runbooks")).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        for alert in &ALERTS {
            let page = format!("{}.md", alert.name);
            assert!(pages.contains(&page), "docs/runbooks/{page} is missing");
            pages.retain(|p| *p != page);
            for name in ["fires", "is quiet"] {
                assert!(cases.contains(&format!("name: {} {name}\n", alert.name)), "{} has no case in which it {name}", alert.name);
            }
        }
        assert!(pages.is_empty(), "runbooks without an alert: {pages:?}");
    }
}
