//! What holds in every world, however odd its pods: the same plan twice, nothing left after it was carried out, and
//! no child of a run that is over.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod fake;

use fake::Fake;
use graft_crds::contract::{CheckpointRef, DataFindings, Progress, ShortcutFeature, ShortcutFinding, Stage};
use graft_crds::status::Phase;
use graft_operator_core::{Container, JobOutcome, JobView, PodPhase, PodView, decide, expected_job, progress_target};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("ErrImagePull".to_owned()),
        Just("OOMKilled".to_owned()),
        Just("Evicted".to_owned()),
        Just("StartError".to_owned()),
        Just(r#"{"exit":"DataError","progress":{"stage":"prepare","epoch":0,"epochs":0,"step":0,"percent":1e308},"failure":{"exit":"DataError","reason":"ä!","message":"m"}}"#.to_owned()),
        ".{0,20}",
    ]
}

fn container() -> impl Strategy<Value = Container> {
    prop_oneof![
        Just(Container::Unknown),
        Just(Container::Running),
        (word(), word()).prop_map(|(reason, message)| Container::Waiting { reason, message }),
        (
            prop_oneof![Just(0), Just(64), Just(85), Just(86), any::<i32>()],
            proptest::option::of(any::<i32>()),
            word(),
            word(),
            proptest::option::of(0i64..4_000_000_000)
        )
            .prop_map(|(code, signal, reason, message, at)| Container::Terminated {
                code,
                signal,
                reason,
                message,
                finished: at.and_then(|s| Timestamp::from_second(s).ok())
            }),
    ]
}

prop_compose! {
    fn pod()(name in "[a-z]{1,5}", current in any::<bool>(), attempt in proptest::option::of(0u32..3), index in proptest::option::of(0u32..3),
             phase in prop_oneof![Just(PodPhase::Pending), Just(PodPhase::Running), Just(PodPhase::Succeeded), Just(PodPhase::Failed)],
             container in container(), disrupted in proptest::option::of((word(), word())), unschedulable in proptest::option::of(word()),
             deleted in proptest::option::of(0i64..4_000_000_000), status in (word(), word())) -> PodView {
        let run = if current { graft_crds::contract::run_id("u-1", "1") } else { "other".into() };
        PodView { name, run, attempt, index, phase, ip: Some("10.0.0.1".into()), node: None, deleted_by: deleted.and_then(|s| Timestamp::from_second(s).ok()),
                  disrupted, unschedulable, status, container }
    }
}

fn jobs() -> impl Strategy<Value = Vec<JobView>> {
    let outcome = prop_oneof![Just(JobOutcome::Active), Just(JobOutcome::Complete), word().prop_map(JobOutcome::Failed)];
    let name = (0u32..3).prop_map(|n| graft_crds::names::attempt_name("lung", &graft_crds::contract::run_id("u-1", "1"), n));
    let job = (prop_oneof![name, Just("lung-old-0".to_owned())], any::<bool>(), outcome).prop_map(|(name, deleting, outcome)| JobView {
        uid: name.clone(),
        pod_digest: deleting.then(|| "other".to_owned()),
        name,
        deleting,
        outcome,
    });
    proptest::collection::vec(job, 0..3)
}

fn phase() -> impl Strategy<Value = Option<Phase>> {
    proptest::option::of(proptest::sample::select(Phase::ALL))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_world_settles(replicas in 1u32..4, pods in proptest::collection::vec(pod(), 0..5), jobs in jobs(), phase in phase(), attempt in -1i32..3,
                           suspend in any::<bool>(), token in prop_oneof![Just("1"), Just("2")], failures in any::<i32>()) {
        let mut fake = Fake::new(replicas);
        fake.world.pods = pods;
        fake.world.jobs = jobs;
        fake.world.job.spec.suspend = suspend;
        if let Some(phase) = phase {
            fake.world.job.status = Some(serde_json::from_value(serde_json::json!({"phase": phase, "runToken": "1", "attempt": attempt, "restarts": {"total": failures, "failures": failures, "preemptions": failures}})).unwrap());
        }
        fake.world.job.spec.run_token = token.into();
        let _ = (expected_job(&fake.world), progress_target(&fake.world));
        let over = phase.is_some_and(Phase::is_terminal) && token == "1";
        // Jobs that are being deleted go sooner or later.
        for _ in 0..3 {
            fake.settle();
            fake.world.jobs.retain(|j| !j.deleting);
            fake.pass(SignedDuration::from_secs(400));
        }
        if over {
            prop_assert_eq!(fake.applied, 0);
            prop_assert!(fake.deleted.is_empty());
            prop_assert_eq!(Some(fake.phase()), phase);
        }
    }

    #[test]
    fn any_pod_becomes_a_view(json in arbitrary_pod()) {
        let pod: Pod = serde_json::from_value(json).unwrap();
        if let Some(view) = PodView::of(&pod) {
            let mut fake = Fake::new(1);
            fake.world.pods = vec![view];
            let _ = decide(&fake.world);
        }
    }
}

proptest! {
    // Each of them is large.
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a pod says of its progress, the status stays small and has nothing in it that moves a terminal's cursor.
    #[test]
    fn hostile_progress_is_bounded(progress in hostile_progress(), exit in any::<bool>()) {
        let mut fake = Fake::new(1);
        fake.settle();
        fake.pods_run();
        if exit {
            let text = serde_json::json!({"exit": "Ok", "progress": progress, "output": {"uri": "file:///\u{1b}[2J", "digest": "\u{7}"}}).to_string();
            fake.world.pods[0].phase = PodPhase::Succeeded;
            fake.world.pods[0].container = fake::ended(0, &text, fake.world.now);
        }
        fake.world.progress = Some(progress);
        let status = decide(&fake.world).status.unwrap();
        let text = serde_json::to_string(&status).unwrap();
        prop_assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        prop_assert!(!text.contains("\\u00"), "{}", text);
        prop_assert_eq!(status.stage, Some(Stage::FineTune));
    }
}

fn hostile_progress() -> impl Strategy<Value = Progress> {
    let text = || prop_oneof![Just("\u{1b}[31m".to_owned()), Just("\u{0}".to_owned()), "\\PC{0,8}", Just("x".repeat(60_000)), ".{0,200}"];
    let metrics = proptest::collection::btree_map(prop_oneof![text(), "[a-z]{1,40}"], any::<f64>(), 0..400);
    (metrics, text(), text(), any::<(u64, u64, u64, f64)>(), any::<(f64, f64)>()).prop_map(|(metrics, digest, class, numbers, speed)| {
        let (epoch, epochs, step, percent) = numbers;
        let shortcut = ShortcutFinding { feature: ShortcutFeature::ImageSize, class, auroc: percent };
        let data = DataFindings {
            images: step,
            skipped: epoch,
            pairs_across_splits: epochs,
            label_conflicts: step,
            left_out: epoch,
            shortcuts: vec![shortcut; 100],
        };
        Progress {
            stage: Stage::FineTune,
            epoch,
            epochs,
            step,
            unsaved_steps: epoch,
            percent,
            samples_per_second: Some(speed.0),
            eta_seconds: Some(speed.1),
            loss: Some(speed.0),
            metrics,
            checkpoint: Some(CheckpointRef { epoch, digest }),
            data: Some(data),
        }
    })
}

fn arbitrary_pod() -> impl Strategy<Value = serde_json::Value> {
    let state = prop_oneof![
        Just(serde_json::json!({})),
        Just(serde_json::json!({"running": {}})),
        word().prop_map(|w| serde_json::json!({"waiting": {"reason": w}})),
        (any::<i32>(), word()).prop_map(|(code, w)| serde_json::json!({"terminated": {"exitCode": code, "message": w, "finishedAt": null}})),
    ];
    (proptest::option::of("[a-z]{1,4}"), word(), word(), state, prop_oneof![Just("trainer".to_owned()), word()]).prop_map(
        |(name, label, phase, state, container)| {
            serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"graft.dev/attempt": label, "batch.kubernetes.io/job-completion-index": label}},
            "status": {"phase": phase, "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                       "containerStatuses": [{"name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}})
        },
    )
}
