//! The operator itself: does it keep up, what does it ask of the API server, what does it use.

use serde_json::Value;

use super::panel::{Row, Shape, lines, quantile};

pub(super) fn dashboard() -> Value {
    let rows = [
        Row {
            title: "Overview",
            panels: vec![
                lines("Operators", "none", "Operators that are scraped, by version. There should be one.", &[("count by (version) (graft_build_info)", "{{version}}")])
                    .shape(Shape::Number),
                lines("TransferJobs", "none", "TransferJobs that the operator knows.", &[("sum(graft_jobs)", "jobs")]).shape(Shape::Number),
                lines(
                    "Errors",
                    "percentunit",
                    "Share of reconciles that failed in the last minutes; each is tried again with a growing delay.",
                    &[("sum(rate(controller_runtime_reconcile_errors_total[$__rate_interval])) / sum(rate(controller_runtime_reconcile_total[$__rate_interval]))", "errors")],
                )
                .shape(Shape::Number)
                .alarm(0.1),
                lines("Waiting", "none", "TransferJobs that wait for a reconcile now.", &[("sum(workqueue_depth)", "waiting")]).shape(Shape::Number).alarm(50.0),
            ],
        },
        Row {
            title: "Reconciles",
            panels: vec![
                lines(
                    "Reconciles",
                    "ops",
                    "Reconciles per second by how they ended. requeue_after is the usual end while a job runs.",
                    &[("sum by (result) (rate(controller_runtime_reconcile_total[$__rate_interval]))", "{{result}}")],
                )
                .shape(Shape::Stack),
                lines(
                    "Duration",
                    "s",
                    "How long a reconcile takes; most of it is waiting for the API server.",
                    &[
                        (&quantile("0.5", "controller_runtime_reconcile_time_seconds", ""), "median"),
                        (&quantile("0.99", "controller_runtime_reconcile_time_seconds", ""), "99 %"),
                    ],
                ),
                lines(
                    "Workers",
                    "none",
                    "Reconciles that run at once, and how many may.",
                    &[("sum(controller_runtime_active_workers)", "active"), ("sum(controller_runtime_max_concurrent_reconciles)", "limit")],
                ),
                lines("Queue", "none", "TransferJobs that wait for a reconcile.", &[("sum(workqueue_depth)", "depth")]),
                lines(
                    "Time in the queue",
                    "s",
                    "How long a TransferJob waits before its reconcile begins, and how long the reconcile takes.",
                    &[
                        (&quantile("0.99", "workqueue_queue_duration_seconds", ""), "wait, 99 %"),
                        (&quantile("0.99", "workqueue_work_duration_seconds", ""), "work, 99 %"),
                    ],
                ),
                lines(
                    "Changes",
                    "ops",
                    "Changes that asked for a reconcile, and reconciles that are tried again after an error.",
                    &[("sum(rate(workqueue_adds_total[$__rate_interval]))", "added"), ("sum(rate(workqueue_retries_total[$__rate_interval]))", "tried again")],
                ),
                lines(
                    "Running reconciles",
                    "s",
                    "How long running reconciles have taken so far; a line that keeps growing is a reconcile that hangs. Each ends after 60 s.",
                    &[("sum(workqueue_unfinished_work_seconds)", "all"), ("max(workqueue_longest_running_processor_seconds)", "longest")],
                )
                .alarm(60.0),
            ],
        },
        Row {
            title: "Requests",
            panels: vec![
                lines(
                    "Requests to the API server",
                    "reqps",
                    "By method and status code. 409 is another writer, 429 the API server's own limit; both are tried again.",
                    &[("sum by (method, code) (rate(rest_client_requests_total[$__rate_interval]))", "{{method}} {{code}}")],
                )
                .shape(Shape::Stack),
                lines(
                    "Time to answer",
                    "s",
                    "Time until the head of the API server's answer, by method.",
                    &[(&quantile("0.99", "rest_client_request_duration_seconds", "verb"), "{{verb}}, 99 %")],
                ),
                lines(
                    "Progress",
                    "ops",
                    "Questions to trainers for their progress. One that fails is no news; if all fail, a network policy may be in the way.",
                    &[("sum by (result) (rate(graft_progress_pulls_total[$__rate_interval]))", "{{result}}")],
                ),
            ],
        },
        Row {
            title: "Process",
            panels: vec![
                lines("Memory", "bytes", "Resident memory of the operator; set the limit well above it.", &[("sum(process_resident_memory_bytes and on (instance) graft_build_info)", "resident")]),
                lines("CPU", "none", "CPUs that the operator uses on average of ten minutes; it counts whole seconds.", &[("sum(rate(process_cpu_seconds_total[10m]) and on (instance) graft_build_info)", "CPUs")]),
                lines("Files", "none", "Open files and sockets of the operator; its watches are three.", &[("sum(process_open_fds and on (instance) graft_build_info)", "open")]),
            ],
        },
    ];
    super::dashboard("graft-operator", "Graft / Operator", "Does the operator keep up?", &[], &rows)
}
