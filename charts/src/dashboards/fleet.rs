//! All jobs: how many, how long they wait, how they end, what they use.

use serde_json::Value;

use super::panel::{Row, Shape, lines, quantile_of_hour};
use super::{Choice, done};

pub(super) fn dashboard() -> Value {
    let rows = [
        Row {
            title: "Jobs",
            panels: vec![
                lines("Running", "none", "Jobs whose whole gang runs.", &[("sum(graft_jobs{namespace=~\"$namespace\", phase=\"Running\"})", "jobs")])
                    .shape(Shape::Number),
                lines(
                    "Waiting",
                    "none",
                    "Jobs that are seen or whose pods do not all run yet.",
                    &[("sum(graft_jobs{namespace=~\"$namespace\", phase=~\"Pending|Starting\"})", "jobs")],
                )
                .shape(Shape::Number),
                lines(
                    "Need help",
                    "none",
                    "Jobs that will not go on without somebody's help.",
                    &[("sum(graft_job_stalled{namespace=~\"$namespace\"})", "jobs")],
                )
                .shape(Shape::Number)
                .alarm(1.0),
                lines(
                    "GPUs at work",
                    "none",
                    "GPUs of the gangs that run.",
                    &[("sum(graft_job_gpus{namespace=~\"$namespace\"} and on (namespace, transferjob) graft_job_phase{phase=\"Running\"})", "GPUs")],
                )
                .shape(Shape::Number),
                lines(
                    "GPU seconds",
                    "s",
                    "What gangs had of GPUs within the last hour, by namespace: GPUs times the time in which they ran.",
                    &[(
                        "10 * sum_over_time(sum by (namespace) (graft_job_gpus{namespace=~\"$namespace\"} and on (namespace, transferjob) graft_job_phase{phase=\"Running\"})[1h:10s])",
                        "{{namespace}}",
                    )],
                )
                .shape(Shape::Stack),
                lines(
                    "Phases",
                    "none",
                    "Jobs by phase, each job in one of them.",
                    &[("sum by (phase) (graft_jobs{namespace=~\"$namespace\"})", "{{phase}}")],
                )
                .shape(Shape::Stack),
                lines(
                    "Ends",
                    "none",
                    "Runs that were taken up and that ended within the last hour.",
                    &[
                        ("sum(increase(graft_jobs_created_total{namespace=~\"$namespace\"}[1h]))", "created"),
                        ("sum(increase(graft_jobs_succeeded_total{namespace=~\"$namespace\"}[1h]))", "succeeded"),
                        ("sum(increase(graft_jobs_failed_total{namespace=~\"$namespace\"}[1h]))", "failed"),
                    ],
                ),
                lines(
                    "Failures",
                    "none",
                    "Runs that ended without a model within the last hour, by class. UserError and DataError are never tried again.",
                    &[("sum by (class) (increase(graft_jobs_failed_total{namespace=~\"$namespace\"}[1h])) > 0", "{{class}}")],
                )
                .shape(Shape::Stack),
            ],
        },
        Row {
            title: "Time",
            panels: vec![
                lines(
                    "Wait for pods",
                    "s",
                    "From asking for a run's pods until the whole gang runs: scheduling, images, volumes; within the last hour.",
                    &[(&quantile_of_hour("0.5", "graft_queue_wait_seconds"), "median"), (&quantile_of_hour("0.95", "graft_queue_wait_seconds"), "95 %")],
                ),
                lines(
                    "Time to running",
                    "s",
                    "From the creation of a job until its gang runs for the first time; within the last hour.",
                    &[
                        (&quantile_of_hour("0.5", "graft_time_to_running_seconds"), "median"),
                        (&quantile_of_hour("0.95", "graft_time_to_running_seconds"), "95 %"),
                    ],
                ),
                lines(
                    "Time to the first step",
                    "s",
                    "From asking for a run's first pods until steps of fine-tuning are told: the above, reading and checking the data, loading the weights; within the last hour.",
                    &[
                        (&quantile_of_hour("0.5", "graft_time_to_first_step_seconds"), "median"),
                        (&quantile_of_hour("0.95", "graft_time_to_first_step_seconds"), "95 %"),
                    ],
                ),
                lines(
                    "Stages",
                    "s",
                    "Mean duration of the stages that ended within the last hour.",
                    &[(
                        "sum by (stage) (increase(graft_stage_duration_seconds_sum[1h])) / sum by (stage) (increase(graft_stage_duration_seconds_count[1h]))",
                        "{{stage}}",
                    )],
                ),
            ],
        },
        Row {
            title: "Recovery",
            panels: vec![
                lines(
                    "Goodput",
                    "percentunit",
                    "Share of the gangs' time within the last hour whose work was kept, by a checkpoint, a finished stage or the model.",
                    &[(
                        "sum(increase(graft_goodput_seconds_total{namespace=~\"$namespace\"}[1h])) / (sum(increase(graft_goodput_seconds_total{namespace=~\"$namespace\"}[1h])) + sum(increase(graft_badput_seconds_total{namespace=~\"$namespace\"}[1h])))",
                        "goodput",
                    )],
                ),
                lines(
                    "Badput",
                    "s",
                    "Time of gangs within the last hour without lasting work: waiting for the first gang or a further one, and work that was lost with a gang or in a failure.",
                    &[("sum by (cause) (increase(graft_badput_seconds_total{namespace=~\"$namespace\"}[1h]))", "{{cause}}")],
                )
                .shape(Shape::Stack),
                lines(
                    "Restarts",
                    "none",
                    "Gangs that were started again within the last hour, by class. Preempted is not counted against a job.",
                    &[("sum by (class) (increase(graft_gang_restarts_total{namespace=~\"$namespace\"}[1h])) > 0", "{{class}}")],
                )
                .shape(Shape::Stack),
                lines(
                    "Lost work",
                    "none",
                    "Fine-tuning within the last hour that was in no checkpoint when its gang was lost: whole epochs, and optimizer steps.",
                    &[
                        ("sum(increase(graft_lost_epochs_total{namespace=~\"$namespace\"}[1h]))", "epochs"),
                        ("sum(increase(graft_lost_steps_total{namespace=~\"$namespace\"}[1h]))", "steps"),
                    ],
                ),
                lines(
                    "Time to recover",
                    "s",
                    "From the loss of a gang until the whole next one runs; within the last hour.",
                    &[(&quantile_of_hour("0.5", "graft_recovery_seconds"), "median"), (&quantile_of_hour("0.95", "graft_recovery_seconds"), "95 %")],
                ),
            ],
        },
        Row {
            title: "Each job",
            panels: vec![
                lines(
                    "Progress",
                    "percentunit",
                    "Share of each job that is done; of jobs that did not fail.",
                    &[(&format!("sort_desc({})", done("{namespace=~\"$namespace\"}")), "")],
                )
                .shape(Shape::Table),
                lines(
                    "Results",
                    "none",
                    "The first of the metrics that each job was asked for.",
                    &[("sort_desc(graft_job_headline{namespace=~\"$namespace\"})", "")],
                )
                .shape(Shape::Table),
            ],
        },
    ];
    super::dashboard("graft-fleet", "Graft / Fleet", "How are the jobs?", &[Choice::Namespace], &rows)
}
