//! The life of a TransferJob against a small in-memory API: what is applied, told and written, and that a plan that
//! was carried out leaves nothing to do.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod fake;

use fake::Fake;
use graft_crds::contract::{ExitReason, HTTP_PORT, Progress, Stage, TrainerConfig};
use graft_crds::status::{FailureClass, Phase};
use graft_operator_core::{Child, ChildKind, Container, EventKind, JobOutcome, decide, leave, progress_target};
use jiff::SignedDuration;
use rstest::rstest;

fn waiting(reason: &str) -> Container {
    Container::Waiting { reason: reason.into(), message: format!("details of {reason}") }
}

#[test]
fn an_undisturbed_life_takes_few_writes() {
    let mut fake = Fake::new(2);
    fake.settle();
    assert_eq!((fake.phase(), fake.applied, fake.statuses), (Phase::Starting, 4, 1));
    fake.pods_run();
    fake.settle();
    assert_eq!(fake.phase(), Phase::Running);
    // The event that it runs is sent once the status says so.
    assert!(fake.applied + fake.statuses <= 6, "create to Running: {} writes", fake.applied + fake.statuses);
    fake.pods_succeed();
    fake.settle();
    assert_eq!(fake.phase(), Phase::Succeeded);
    let status = fake.status();
    assert_eq!(status.output.unwrap().digest, "d");
    assert_eq!((status.progress.unwrap().summary, status.headline), ("100%".to_owned(), Some("auroc=0.941".to_owned())));
    assert_eq!(fake.condition("Complete"), "True");
    assert_eq!(fake.condition("Reconciling"), "False");
    assert!(fake.applied + fake.statuses + fake.events.len() <= 15);
    assert!(fake.events.iter().all(|e| e.kind == EventKind::Normal));
}

#[test]
fn a_finished_job_stays_finished_without_its_children() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pods_succeed();
    fake.settle();
    let before = (fake.applied, fake.statuses, fake.events.len());
    fake.world.jobs.clear();
    fake.world.pods.clear();
    fake.settle();
    assert_eq!((fake.applied, fake.statuses, fake.events.len()), before);
    assert_eq!(fake.phase(), Phase::Succeeded);
}

#[test]
fn another_run_token_starts_afresh_once_the_old_pods_are_gone() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    let old = fake.world.jobs[0].name.clone();
    fake.world.job.spec.run_token = "2".into();
    fake.settle();
    assert_eq!(fake.phase(), Phase::Pending, "pods of the old run still hold its GPUs");
    assert!(fake.deleted.iter().any(|c| c.kind == ChildKind::Job && c.name == old));
    fake.world.pods.clear();
    fake.settle();
    let status = fake.status();
    assert_eq!((fake.phase(), status.attempt, status.run_token.as_deref()), (Phase::Starting, 0, Some("2")));
    assert_ne!(fake.world.jobs[0].name, old);
}

#[test]
fn a_finished_run_leaves_no_trace_in_the_next() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(0, 64, None);
    fake.settle();
    assert_eq!(fake.phase(), Phase::Failed);
    assert_eq!(fake.condition("Failed"), "True");
    fake.world.job.spec.run_token = "again".into();
    fake.settle();
    let status = fake.status();
    assert_eq!((status.failure, status.metrics.len(), status.completion_time), (None, 0, None));
    assert_eq!(status.phase, Some(Phase::Starting));
}

#[rstest]
#[case(64, FailureClass::UserError, Phase::Failed)]
#[case(65, FailureClass::DataError, Phase::Failed)]
#[case(69, FailureClass::DeviceError, Phase::Restarting)]
#[case(70, FailureClass::Bug, Phase::Restarting)]
#[case(74, FailureClass::CheckpointError, Phase::Restarting)]
#[case(85, FailureClass::Preempted, Phase::Restarting)]
#[case(137, FailureClass::PodLost, Phase::Restarting)]
#[case(139, FailureClass::Bug, Phase::Restarting)]
#[case(1, FailureClass::Bug, Phase::Restarting)]
fn an_exit_code_decides(#[case] code: i32, #[case] class: FailureClass, #[case] phase: Phase) {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(1, code, None);
    fake.settle();
    let failure = fake.status().failure.unwrap();
    assert_eq!((failure.class, fake.phase(), failure.exit_code), (class, phase, Some(code)));
    assert_eq!(failure.pod.unwrap(), "p1");
}

#[test]
fn a_failed_gang_starts_again_after_the_backoff_when_all_pods_are_gone() {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(1, 137, None);
    fake.settle();
    assert_eq!((fake.phase(), fake.status().restarts.failures), (Phase::Restarting, 1));
    assert!(fake.world.jobs.is_empty(), "the failed attempt's Job is deleted");
    fake.pass(SignedDuration::from_secs(60));
    fake.settle();
    assert_eq!(fake.phase(), Phase::Restarting, "pod 0 still runs");
    fake.world.pods.clear();
    fake.settle();
    assert_eq!((fake.phase(), fake.status().attempt), (Phase::Starting, 1));
    assert_eq!(fake.status().failure.unwrap().reason, "Killed", "why it restarted stays visible");
}

#[test]
fn a_pod_on_a_node_that_is_gone_blocks_nobody_for_ever() {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(1, 137, None);
    fake.settle();
    fake.world.pods[0].deleted_by = Some(fake.world.now);
    fake.pass(SignedDuration::from_secs(31));
    fake.settle();
    assert_eq!(fake.phase(), Phase::Starting);
}

#[test]
fn restarts_are_limited_but_preemption_is_not() {
    let mut fake = Fake::new(1);
    fake.world.job.spec.recovery.max_restarts = 2;
    for round in 0..12 {
        fake.settle();
        fake.pods_run();
        fake.settle();
        if round % 4 == 0 {
            fake.pod_exits(0, 70, None);
        } else {
            fake.pod_exits(0, 85, Some("EvictionByEvictionAPI"));
        }
        fake.settle();
        if fake.phase() == Phase::Failed {
            break;
        }
        fake.world.pods.clear();
        fake.pass(SignedDuration::from_secs(400));
    }
    let restarts = fake.status().restarts;
    assert_eq!((fake.phase(), restarts.failures, restarts.preemptions), (Phase::Failed, 2, 6));
}

#[test]
fn the_cause_is_named_and_not_who_noticed_it() {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(0, i32::from(ExitReason::CollectiveLost.code()), None);
    fake.settle();
    assert_eq!(fake.phase(), Phase::Running, "the cause gets a moment to show up");
    fake.pass(SignedDuration::from_secs(1));
    fake.pod_exits(1, 137, None);
    fake.settle();
    let failure = fake.status().failure.unwrap();
    assert_eq!((failure.class, failure.pod.as_deref()), (FailureClass::PodLost, Some("p1")));
}

#[test]
fn a_lost_peer_without_a_cause_ends_the_attempt_too() {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pod_exits(0, 86, None);
    fake.pass(SignedDuration::from_secs(4));
    fake.settle();
    assert_eq!((fake.phase(), fake.status().failure.unwrap().class), (Phase::Restarting, FailureClass::CollectiveLost));
}

#[rstest]
#[case("ErrImagePull", "ImagePullBackOff")]
#[case("ImagePullBackOff", "ImagePullBackOff")]
#[case("InvalidImageName", "InvalidImageName")]
#[case("CreateContainerConfigError", "CreateContainerConfigError")]
#[case("CreateContainerError", "CreateContainerError")]
fn a_pod_that_cannot_start_shows_and_heals(#[case] reason: &str, #[case] shown: &str) {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_appear();
    fake.world.pods[1].container = waiting(reason);
    fake.settle();
    let failure = fake.status().failure.unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), fake.phase()), (FailureClass::PodNotStarted, shown, Phase::Starting));
    assert!(failure.message.contains("details of"), "{}", failure.message);
    assert_eq!((fake.condition("Stalled"), fake.condition("Reconciling")), ("True".into(), "False".into()));
    assert_eq!(fake.events.iter().filter(|e| e.reason == shown && e.kind == EventKind::Warning).count(), 1);
    fake.pods_run();
    fake.settle();
    assert_eq!((fake.phase(), fake.status().failure, fake.condition("Stalled")), (Phase::Running, None, "False".into()));
}

#[test]
fn a_corrected_image_replaces_the_pods_that_wait() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_appear();
    fake.world.pods[0].container = waiting("ImagePullBackOff");
    fake.settle();
    fake.world.job.spec.image = Some("corrected:1".into());
    fake.settle();
    fake.world.pods.clear();
    fake.settle();
    let status = fake.status();
    assert_eq!((status.phase, status.attempt, status.restarts.total, status.failure), (Some(Phase::Starting), 1, 0, None));
    fake.pods_run();
    fake.settle();
    fake.world.job.spec.image = Some("later:2".into());
    fake.settle();
    assert_eq!((fake.phase(), fake.status().attempt), (Phase::Running, 1), "a gang that runs is left alone");
}

#[test]
fn the_two_words_for_a_failed_pull_are_told_once() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_appear();
    for reason in ["ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"] {
        fake.world.pods[0].container = waiting(reason);
        fake.settle();
    }
    assert_eq!((fake.events.len(), fake.statuses), (1, 2));
}

#[test]
fn suspend_stops_the_pods_and_going_on_is_not_counted() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.world.job.spec.suspend = true;
    fake.settle();
    assert_eq!((fake.phase(), fake.condition("Suspended"), fake.world.jobs.len()), (Phase::Suspended, "True".into(), 0));
    fake.world.pods.clear();
    fake.world.job.spec.suspend = false;
    fake.settle();
    let status = fake.status();
    assert_eq!((status.phase, status.attempt, status.restarts.total), (Some(Phase::Starting), 1, 0));
}

#[test]
fn what_an_uninstalled_operator_stops_the_next_one_starts_again_and_does_not_count() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.carry_out(&leave(&fake.world));
    assert_eq!((fake.phase(), fake.world.jobs.len()), (Phase::Suspended, 0));
    assert!(fake.status().message.unwrap().contains("installed again") && !fake.world.job.spec.suspend);
    assert!(leave(&fake.world).is_empty(), "stopped twice");
    fake.world.pods.clear();
    fake.settle();
    let status = fake.status();
    assert_eq!((status.phase, status.attempt, status.restarts.total), (Some(Phase::Starting), 1, 0));
}

#[test]
fn an_uninstalled_operator_leaves_alone_what_does_not_run() {
    let mut fake = Fake::new(1);
    assert!(leave(&fake.world).is_empty(), "a job that nobody has looked at");
    fake.settle();
    fake.pods_run();
    fake.settle();
    let mut done = fake.world.clone();
    done.jobs[0].outcome = JobOutcome::Complete;
    done.pods.clear();
    assert!(leave(&done).is_empty(), "the gang is done, and the next operator sees it");
    fake.world.job.spec.suspend = true;
    fake.settle();
    assert!(leave(&fake.world).is_empty(), "a suspended job");
}

#[test]
fn a_job_that_is_suspended_from_the_start_begins_with_attempt_0() {
    let mut fake = Fake::new(1);
    fake.world.job.spec.suspend = true;
    fake.settle();
    assert_eq!((fake.phase(), fake.applied), (Phase::Suspended, 0));
    fake.world.job.spec.suspend = false;
    fake.settle();
    assert_eq!((fake.phase(), fake.status().attempt), (Phase::Starting, 0));
}

#[test]
fn a_deleted_job_is_a_lost_attempt_and_not_the_end() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.world.jobs.clear();
    fake.world.pods.clear();
    fake.settle();
    assert_eq!((fake.phase(), fake.status().failure.unwrap().reason), (Phase::Restarting, "JobDeleted".to_owned()));
}

#[test]
fn a_job_without_its_pods_is_believed() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.world.pods.clear();
    fake.world.jobs[0].outcome = JobOutcome::Complete;
    fake.settle();
    assert_eq!(fake.phase(), Phase::Succeeded);
}

#[test]
fn an_image_that_is_no_trainer_does_not_pass_for_success() {
    let mut fake = Fake::new(1);
    fake.settle();
    fake.pods_run();
    fake.settle();
    fake.pods_succeed();
    if let Container::Terminated { message, .. } = &mut fake.world.pods[0].container {
        message.clear();
    }
    fake.settle();
    assert_eq!((fake.phase(), fake.status().failure.unwrap().reason), (Phase::Restarting, "NoSummary".to_owned()));
}

#[test]
fn an_operator_that_was_killed_between_children_and_status_goes_on() {
    let mut fake = Fake::new(2);
    let plan = decide(&fake.world);
    fake.apply_children(&plan);
    let before = fake.applied;
    fake.settle();
    assert_eq!((fake.phase(), fake.applied), (Phase::Starting, before), "nothing is created twice");
}

#[test]
fn progress_is_written_at_most_every_ten_seconds_and_only_as_news() {
    let mut fake = Fake::new(2);
    fake.settle();
    fake.pods_run();
    fake.settle();
    let target = progress_target(&fake.world).unwrap();
    assert_eq!((target.ip.as_str(), target.port), ("10.0.0.10", HTTP_PORT));
    let before = fake.statuses;
    for second in 0..100 {
        fake.world.progress = Some(Progress { stage: Stage::FineTune, epoch: 1, percent: f64::from(second), ..Progress::default() });
        fake.settle();
        fake.pass(SignedDuration::from_secs(1));
    }
    assert_eq!(fake.statuses - before, 10);
    for _ in 0..100 {
        fake.settle();
        fake.pass(SignedDuration::from_secs(20));
    }
    assert_eq!(fake.statuses - before, 11, "the last percent, and then no news");
}

#[test]
fn nothing_is_written_because_of_time_alone() {
    let mut fake = Fake::new(2);
    for step in 0..3 {
        fake.settle();
        let before = fake.statuses;
        for _ in 0..50 {
            fake.pass(SignedDuration::from_secs(601));
            fake.settle();
        }
        assert_eq!(fake.statuses, before, "step {step}");
        match step {
            0 => fake.pods_run(),
            _ => fake.pods_succeed(),
        }
    }
}

#[test]
fn a_job_on_its_way_out_is_left_alone() {
    let mut fake = Fake::new(1);
    fake.world.job.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(fake.world.now));
    assert!(decide(&fake.world).is_empty());
}

#[test]
fn the_children_are_what_the_contract_says() {
    let mut fake = Fake::new(2);
    fake.world.job.spec.workers.processes = 2;
    fake.world.job.spec.workers.resources = serde_json::from_value(serde_json::json!({"limits": {"cpu": "5"}})).unwrap();
    let plan = decide(&fake.world);
    let [Child::ConfigMap(map), Child::Service(service), Child::NetworkPolicy(policy), Child::Job(job)] = plan.apply.as_slice() else {
        panic!("{:?}", plan.apply)
    };
    let name = job.metadata.name.clone().unwrap();
    assert_eq!((map.metadata.name.as_ref(), service.metadata.name.as_ref()), (Some(&name), Some(&name)));
    let config = TrainerConfig::parse(&map.data.as_ref().unwrap()["config.json"]).unwrap();
    assert_eq!((config.gang.replicas, config.gang.processes, config.gang.threads), (2, 2, 2));
    assert_eq!(config.gang.rendezvous_host, format!("{name}-0.{name}"));
    let spec = job.spec.as_ref().unwrap();
    let pod = spec.template.spec.as_ref().unwrap();
    assert_eq!((spec.completions, spec.backoff_limit, pod.subdomain.as_ref()), (Some(2), Some(0), Some(&name)));
    assert_eq!(pod.automount_service_account_token, Some(false));
    let security = pod.containers[0].security_context.as_ref().unwrap();
    assert_eq!((security.read_only_root_filesystem, security.allow_privilege_escalation), (Some(true), Some(false)));
    assert!(job.metadata.annotations.as_ref().unwrap()["graft.dev/config-sha256"].len() == 64);
    let selector = service.spec.as_ref().unwrap().selector.as_ref().unwrap();
    let labels = spec.template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
    assert!(selector.iter().all(|(k, v)| labels.get(k) == Some(v)));
    // The gang hears itself on every port, the rest of the cluster only one.
    let guard = policy.spec.as_ref().unwrap();
    let [gang, others] = guard.ingress.as_deref().unwrap() else { panic!("{guard:?}") };
    let peers = gang.from.as_ref().unwrap();
    assert_eq!((peers.len(), peers[0].pod_selector.as_ref(), gang.ports.is_none()), (1, guard.pod_selector.as_ref(), true));
    assert_eq!(guard.pod_selector.as_ref().unwrap().match_labels.as_ref(), Some(selector));
    assert!(others.from.is_none() && others.ports.as_ref().unwrap().len() == 1);
    let text = serde_json::to_string(job).unwrap();
    assert!(!text.contains("null") && !text.contains("{}"), "{text}");
}

/// What nobody asked for is bounded: a pod without resources, and every scratch folder.
#[test]
fn pods_are_limited() {
    let mut fake = Fake::new(1);
    fake.world.job.spec.workers.gpus = 1;
    let plan = decide(&fake.world);
    let Some(Child::Job(job)) = plan.apply.last() else { panic!("{:?}", plan.apply) };
    let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let limits = pod.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
    assert_eq!((limits["memory"].0.as_str(), limits["nvidia.com/gpu"].0.as_str()), ("8Gi", "1"));
    let scratch: Vec<_> = pod.volumes.as_ref().unwrap().iter().filter_map(|v| Some((v.name.as_str(), v.empty_dir.as_ref()?))).collect();
    assert_eq!(scratch.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["graft-tmp", "graft-shm"]);
    assert!(scratch.iter().all(|(_, folder)| folder.size_limit.is_some()), "{scratch:?}");
}
