//! The traces that `graft-operator-otel` sends to a collector.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use graft_crds::status::Phase;
use graft_tests::collector::{Collector, Span, attribute};

use crate::bench::{Bench, Operator, PATIENCE};

/// The job's spans, as soon as they are what they should be.
fn spans(bench: &Bench, collector: &Collector, job: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut own = collector.spans();
        own.retain(|span| attribute(span, "graft.transferjob.name") == job);
        if enough(&own) {
            return own;
        }
        let names: Vec<_> = own.iter().map(|span| &span.name).collect();
        assert!(Instant::now() < until, "{names:?}\n{}", bench.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn has(spans: &[Span], name: &str) -> bool {
    spans.iter().any(|span| span.name == name)
}

/// The operator is killed while a job runs; the next one goes on with its trace.
pub fn go_on_over_a_restart(bench: &Bench) {
    let collector = Collector::start(&bench.cluster.host_address()).unwrap();
    let operator = || -> Operator {
        bench.run_operator("graft-operator-otel", |command| {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "100");
        })
    };
    let first = operator();
    bench.apply("traced", |_| {}).unwrap();
    let pods = bench.run("traced");
    spans(bench, &collector, "traced", |all| has(all, "start") && has(all, "reconcile"));
    // SIGKILL.
    drop(first);
    let second = operator();
    bench.finish(&pods);
    bench.until_phase("traced", Phase::Succeeded);
    let all = spans(bench, &collector, "traced", |all| has(all, "run"));

    let traces: BTreeSet<_> = all.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 1, "one run, one trace");
    let [root] = all.iter().filter(|span| span.name == "run").collect::<Vec<_>>()[..] else { panic!("{all:#?}") };
    assert!(root.parent_span_id.is_empty() && root.start_time_unix_nano < root.end_time_unix_nano);
    let children: Vec<_> = all.iter().filter(|span| span.name != "run").collect();
    assert!(children.iter().all(|span| span.parent_span_id == root.span_id));
    let parts: Vec<_> = children.iter().filter(|span| span.name != "reconcile").map(|span| span.name.as_str()).collect();
    assert_eq!(parts, ["start", "prepare"], "each part once, whichever operator saw it");
    let ids: BTreeSet<_> = all.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), all.len());
    println!("{} spans of one run in one trace, {} of them reconciles", all.len(), children.len() - parts.len());
    drop(second);
}
