//! A TransferJob and its children in memory: plans are carried out on it as the API server would.
#![allow(dead_code, reason = "each test file uses its part")]

use graft_crds::TransferJob;
use graft_crds::contract::{ExitReason, OutputRef, Progress, Stage, TerminationSummary};
use graft_crds::status::{Phase, TransferJobStatus};
use graft_operator_core::{Child, ChildKind, ChildRef, Container, Event, JobView, Plan, PodPhase, PodView, Settings, World, decide};
use jiff::{SignedDuration, Timestamp};

pub struct Fake {
    pub world: World,
    pub applied: usize,
    pub statuses: usize,
    pub deleted: Vec<ChildRef>,
    pub events: Vec<Event>,
}

pub fn job(replicas: u32) -> TransferJob {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob",
        "metadata": {"name": "lung", "namespace": "radiology", "uid": "u-1", "generation": 1},
        "spec": {
            "backbone": {"architecture": "resnet18", "weights": {"uri": "file:///w/r.pth"}},
            "data": {"train": {"uri": "file:///d"}, "test": {"uri": "file:///t"}},
            "workers": {"replicas": replicas},
            "output": {"uri": "file:///o"}
        }
    }))
    .unwrap()
}

impl Fake {
    pub fn new(replicas: u32) -> Self {
        let world = World {
            job: job(replicas),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            settings: Settings { trainer_image: "graft-trainer:1".into(), progress_interval_seconds: 10 },
            jobs: Vec::new(),
            pods: Vec::new(),
            progress: None,
            progress_written: None,
        };
        Self { world, applied: 0, statuses: 0, deleted: Vec::new(), events: Vec::new() }
    }

    /// Decide and carry out until nothing is left; more than a few rounds would be a loop.
    pub fn settle(&mut self) {
        for _ in 0..5 {
            let plan = decide(&self.world);
            assert_eq!(plan, decide(&self.world), "the same world gave two plans");
            if plan.is_empty() {
                return;
            }
            self.carry_out(&plan);
        }
        panic!("does not settle: {:#?}", decide(&self.world));
    }

    pub fn carry_out(&mut self, plan: &Plan) {
        self.apply_children(plan);
        if let Some(status) = &plan.status {
            // Through JSON, as the API server stores it.
            let text = serde_json::to_string(status).unwrap();
            self.world.job.status = Some(serde_json::from_str(&text).unwrap());
            self.statuses += 1;
            if plan.carries_progress {
                self.world.progress_written = Some(self.world.now);
            }
        }
        for child in &plan.delete {
            self.deleted.push(child.clone());
            if child.kind == ChildKind::Job {
                self.world.jobs.retain(|j| j.name != child.name);
            }
        }
        self.events.extend(plan.events.iter().cloned());
    }

    pub fn apply_children(&mut self, plan: &Plan) {
        for child in &plan.apply {
            self.applied += 1;
            if let Child::Job(job) = child {
                let mut job = (**job).clone();
                job.metadata.uid = Some(format!("uid-of-{}", job.metadata.name.as_deref().unwrap()));
                self.world.jobs.push(JobView::of(&job).unwrap());
            }
        }
    }

    pub fn pass(&mut self, time: SignedDuration) {
        self.world.now += time;
    }

    pub fn status(&self) -> TransferJobStatus {
        self.world.job.status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    pub fn condition(&self, kind: &str) -> String {
        self.status().conditions.iter().find(|c| c.type_ == kind).unwrap().status.clone()
    }

    pub fn pods_appear(&mut self) {
        let status = self.status();
        let run = graft_crds::contract::run_id("u-1", &self.world.job.spec.run_token);
        let replicas = u32::try_from(self.world.job.spec.workers.replicas).unwrap();
        self.world.pods = (0..replicas)
            .map(|index| PodView {
                name: format!("p{index}"),
                run: run.clone(),
                attempt: u32::try_from(status.attempt).ok(),
                index: Some(index),
                phase: PodPhase::Pending,
                ip: Some(format!("10.0.0.1{index}")),
                node: Some("n1".into()),
                deleted_by: None,
                disrupted: None,
                unschedulable: None,
                status: (String::new(), String::new()),
                container: Container::Unknown,
            })
            .collect();
    }

    pub fn pods_run(&mut self) {
        self.pods_appear();
        for pod in &mut self.world.pods {
            pod.phase = PodPhase::Running;
            pod.container = Container::Running;
        }
    }

    pub fn pods_succeed(&mut self) {
        let progress = Progress { stage: Stage::Evaluate, percent: 100.0, metrics: [("auroc".to_owned(), 0.9412)].into(), ..Progress::default() };
        let output = Some(OutputRef { uri: "file:///o".into(), digest: "d".into() });
        let message = TerminationSummary { exit: ExitReason::Ok, progress, failure: None, output }.to_message();
        self.pods_appear();
        for pod in &mut self.world.pods {
            pod.phase = PodPhase::Succeeded;
            pod.container = ended(0, &message, self.world.now);
        }
    }

    pub fn pod_exits(&mut self, index: usize, code: i32, disrupted: Option<&str>) {
        let now = self.world.now;
        let pod = &mut self.world.pods[index];
        pod.phase = PodPhase::Failed;
        pod.container = ended(code, "", now);
        pod.disrupted = disrupted.map(|d| (d.to_owned(), String::new()));
    }
}

pub fn ended(code: i32, message: &str, at: Timestamp) -> Container {
    Container::Terminated { code, signal: None, reason: "Error".into(), message: message.into(), finished: Some(at) }
}
