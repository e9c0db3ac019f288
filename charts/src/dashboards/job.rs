//! One job: how far, how well, how fast, and what holds it up. The trainers' own series come from their pods; use of GPUs
//! from DCGM's exporter, joined by pod.

use serde_json::Value;

use super::panel::{Row, Shape, lines};
use super::{Choice, done};

/// Series that the operator has of the job.
const OWN: &str = "{namespace=~\"$namespace\", transferjob=\"$transferjob\"}";

fn own(metric: &str) -> String {
    format!("{metric}{OWN}")
}

/// [`OWN`] and further labels.
fn labelled(more: &str) -> String {
    OWN.replace('}', &format!(", {more}}}"))
}

/// GPU series of the pods that train for the job.
fn dcgm(metric: &str) -> String {
    format!("avg by (pod, gpu) ({metric}{{namespace=~\"$namespace\"}} and on (namespace, pod) graft_trainer_samples_total{OWN})")
}

pub(super) fn dashboard() -> Value {
    let rows = [
        Row {
            title: "State",
            panels: vec![
                lines("Phase", "none", "The phase that the job is in.", &[(&own("graft_job_phase"), "{{phase}}")]).shape(Shape::Name),
                lines("Progress", "percentunit", "Share of the whole job that is done.", &[(&done(OWN), "done")]).shape(Shape::Number),
                lines("Result", "none", "The first of the metrics that the job was asked for.", &[(&own("graft_job_headline"), "{{metric}}")]).shape(Shape::Number),
                lines("Restarts", "none", "How often the gang was started again in this run.", &[(&format!("sum by (cause) ({})", own("graft_job_restarts_total")), "{{cause}}")])
                    .shape(Shape::Number)
                    .alarm(3.0),
                lines("Checkpoint", "none", "Epochs in the newest checkpoint: what a lost node would not take.", &[(&own("graft_job_checkpoint_epoch"), "epoch")])
                    .shape(Shape::Number),
                lines("Age of the checkpoint", "s", "Time since the newest checkpoint was seen in the job's progress: about what a lost node would take.", &[
                    (&own("graft_job_checkpoint_age_seconds"), "age"),
                ])
                .shape(Shape::Number),
                lines("Found in the data", "none", "Pairs of the same picture in two splits or under two labels, and features that tell the label and should not.", &[
                    (&own("graft_job_data_findings"), "{{kind}}"),
                ])
                .shape(Shape::Number)
                .alarm(1.0),
                lines("Needs help", "none", "1 when nothing will change without somebody's help.", &[(&own("graft_job_stalled"), "stalled")]).shape(Shape::Number).alarm(1.0),
            ],
        },
        Row {
            title: "Training",
            panels: vec![
                lines("Progress", "percentunit", "Share of the whole job that is done.", &[(&done(OWN), "done")]),
                lines(
                    "Loss",
                    "none",
                    "Mean loss of the last epoch, of index 0.",
                    &[
                        (&format!("max(graft_trainer_loss{OWN} > 0)"), "training"),
                        (&format!("max(graft_trainer_metric{})", labelled("split=\"validation\", name=\"loss\"")), "validation"),
                    ],
                ),
                lines(
                    "Quality",
                    "none",
                    "Metrics by split: validation while it trains, test at the end.",
                    &[(&format!("max by (split, name) (graft_trainer_metric{})", labelled("name!~\"loss|frozen_tensors.*\"")), "{{split}} {{name}}")],
                ),
                lines(
                    "Learning rate",
                    "none",
                    "Learning rate at the end of the last epoch.",
                    &[(&format!("max(graft_trainer_learning_rate{OWN} > 0)"), "learning rate")],
                ),
                lines("Epochs", "none", "Epochs of the current stage that are done, and those in the newest checkpoint.", &[
                    (&own("graft_job_epoch"), "done"),
                    (&own("graft_job_checkpoint_epoch"), "in the checkpoint"),
                ]),
            ],
        },
        Row {
            title: "Speed",
            panels: vec![
                lines("Images per second", "none", "Over the whole gang, as the job's status says.", &[(&own("graft_job_samples_per_second"), "images/s")]),
                lines(
                    "By pod",
                    "none",
                    "Images per second of each pod. They wait for each other, so a slow one shows in the parts of a step.",
                    &[(&format!("rate(graft_trainer_samples_total{OWN}[$__rate_interval])"), "{{pod}}")],
                ),
                lines(
                    "Parts of a step",
                    "s",
                    "Mean time of each part. Communication overlaps with backward; a long `data` part means that reading holds training up.",
                    &[(
                        &format!(
                            "sum by (part) (rate(graft_trainer_step_seconds_sum{OWN}[$__rate_interval])) / sum by (part) (rate(graft_trainer_step_seconds_count{OWN}[$__rate_interval]))"
                        ),
                        "{{part}}",
                    )],
                )
                .shape(Shape::Stack),
                lines(
                    "Exchange of gradients",
                    "s",
                    "Mean time of a step's exchange between ranks, and how much of it lies under the backward pass and costs nothing.",
                    &[
                        (&format!("max by (pod) (graft_trainer_gradient_exchange_seconds{OWN})"), "{{pod}}"),
                        (&format!("max by (pod) (graft_trainer_gradient_exchange_overlapped_seconds{OWN})"), "{{pod}} under backward"),
                    ],
                ),
            ],
        },
        Row {
            title: "Use",
            panels: vec![
                lines("Memory", "bytes", "What the ranks of each pod have in memory; the limit is spec.resources' or the node's.", &[
                    (&format!("max by (pod) (graft_trainer_memory_bytes{OWN})"), "{{pod}}"),
                ]),
                lines("Checkpoints", "s", "Mean time that training waited for a checkpoint to be written.", &[(
                    &format!("sum(rate(graft_trainer_checkpoint_seconds_sum{OWN}[$__rate_interval])) / sum(rate(graft_trainer_checkpoint_seconds_count{OWN}[$__rate_interval]))"),
                    "seconds",
                )]),
            ],
        },
        Row {
            title: "GPUs",
            panels: vec![
                lines("GPU seconds", "s", "How long the gang has held GPUs since its start, all of them together.", &[(&format!("sum(graft_trainer_gpu_seconds_total{OWN})"), "held")]).shape(Shape::Number),
                lines("Use", "percent", "Share of time in which the GPU computed, by DCGM's exporter.", &[(&dcgm("DCGM_FI_DEV_GPU_UTIL"), "{{pod}} GPU {{gpu}}")]),
                lines("Memory", "decmbytes", "Memory of the GPU that is in use, by DCGM's exporter.", &[(&dcgm("DCGM_FI_DEV_FB_USED"), "{{pod}} GPU {{gpu}}")]),
                lines("Power", "watt", "Power that the GPU takes, by DCGM's exporter.", &[(&dcgm("DCGM_FI_DEV_POWER_USAGE"), "{{pod}} GPU {{gpu}}")]),
            ],
        },
    ];
    super::dashboard("graft-job", "Graft / Job", "How is this job?", &[Choice::Namespace, Choice::Job], &rows)
}
