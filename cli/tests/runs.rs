//! `graft run` with real ranks, real torch and real files: what it writes, that the same seed writes the same, what it does
//! when a rank is killed or it is told to stop, and what it does not do twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;

use common::{Run, Site, children, command, graft, signal};
use serde_json::Value;

#[test]
fn a_run_writes_a_whole_model_that_verifies() {
    let site = Site::new();
    let run = site.run("whole", |_| {});
    let summary = run.summary();
    assert_eq!(summary["exit"], "Ok");
    for metric in ["auroc", "accuracy", "f1", "sensitivity", "specificity"] {
        let value = summary["progress"]["metrics"][metric].as_f64().unwrap_or_else(|| panic!("{metric}: {summary}"));
        assert!((0.0..=1.0).contains(&value), "{metric} is {value}");
    }
    assert_eq!(summary["progress"]["percent"], 100.0);

    let predictions = site.text("whole/predictions.csv");
    let mut rows = csv::Reader::from_reader(predictions.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["input", "patient", "label", "probability_normal", "probability_lesion"]);
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 12, "four of twenty patients are in the test split, three slices each");
    for row in &rows {
        let sum: f64 = row.iter().skip(3).map(|p| p.parse::<f64>().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{row:?}");
        assert!(!row[1].contains("phantom") && !row[1].is_empty(), "a patient id in {row:?}");
    }
    assert!(!run.stdout.contains("phantom-0"), "a patient id in the log");

    let history = site.text("whole/history.csv");
    let stages: Vec<&str> = history.lines().skip(1).filter_map(|l| l.split(',').next()).collect();
    assert_eq!(stages.iter().filter(|s| **s == "fineTune").count(), 2);
    assert_eq!(stages.iter().filter(|s| **s == "head").count(), 20);
    let events: Vec<_> = fs::read_dir(site.path("whole/tensorboard")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    let tags = |tag: &str| events[0].windows(tag.len()).filter(|part| *part == tag.as_bytes()).count();
    assert_eq!((events.len(), tags("fineTune/train_loss"), tags("head/validation_auroc")), (1, 2, 20));
    let description: Value = serde_json::from_slice(&site.read("whole/model.json")).unwrap();
    assert_eq!((description["architecture"].as_str(), description["classes"][1].as_str()), (Some("mobilenet_v1_025"), Some("lesion")));

    let verified = graft(&["verify", &site.path("whole").to_string_lossy()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    // A file that was changed after the run is found.
    let mut model = site.read("whole/model.safetensors");
    *model.last_mut().unwrap() ^= 1;
    fs::write(site.path("whole/model.safetensors"), model).unwrap();
    let verified = Run::of(graft(&["verify", &site.path("whole").to_string_lossy()]));
    assert_eq!(verified.code, Some(64));
    assert!(verified.stderr.contains("OutputIncomplete") && verified.stderr.contains("model.safetensors"), "{}", verified.stderr);
    // And without a manifest nothing is taken for whole.
    fs::remove_file(site.path("whole/manifest.json")).unwrap();
    assert!(Run::of(graft(&["verify", &site.path("whole").to_string_lossy()])).stderr.contains("OutputIncomplete"));
}

#[test]
fn only_what_is_unfrozen_moves() {
    let site = Site::new();
    site.run("frozen", |_| {});
    let (before, after) = (graft_trainer::weights::load(&site.path("weights.safetensors"), None).unwrap().tensors, site.model("frozen"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, tensor) in &after {
        let trained = ["25.", "26.", "27."].iter().any(|prefix| name.starts_with(prefix));
        let same = tensor.size() == before[name].size() && tensor.equal(&before[name]);
        assert_eq!(same, !trained, "{name}");
    }
}

#[test]
fn the_same_seed_writes_the_same_files() {
    let site = Site::new();
    site.run("first", |_| {});
    site.run("second", |_| {});
    site.run("other", |job| job["spec"]["fineTune"]["seed"] = 1.into());
    for file in ["model.safetensors", "predictions.csv", "metrics.json"] {
        assert!(site.read(&format!("first/{file}")) == site.read(&format!("second/{file}")), "{file} differs between two runs of one seed");
    }
    assert!(site.read("first/model.safetensors") != site.read("other/model.safetensors"), "the seed does nothing");
}

#[test]
fn decoded_images_are_kept_shared_and_change_nothing() {
    let site = Site::with_a_signal();
    let start = |name: &str, variable: (&str, &str)| {
        let run = Run::of(command(&["run", &site.job(name, |_| {}).to_string_lossy()]).env(variable.0, variable.1).output().unwrap());
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
        run
    };
    assert!(site.run("first", |_| {}).logs("0 of 60 images were decoded already"));
    let shared = site.path("first/.graft/decoded").to_string_lossy().into_owned();
    let second = start("second", ("GRAFT_DECODED", &shared));
    assert!(second.logs("60 of 60 images were decoded already"), "{}", second.stdout);
    let without = start("without", ("GRAFT_DECODED_GIB", "0"));
    assert!(!without.logs("were decoded already") && !site.path("without/.graft/decoded").exists());
    // Where nothing can be kept the job says so, once, and trains.
    fs::write(site.path("file"), b"no folder").unwrap();
    let unable = start("unable", ("GRAFT_DECODED", &site.path("file").to_string_lossy()));
    let said = unable.events().iter().filter(|event| event["message"].as_str().is_some_and(|m| m.contains("are not all kept on the disk"))).count();
    assert_eq!(said, 1, "{}", unable.stdout);
    for other in ["second", "without", "unable"] {
        for file in ["model.safetensors", "predictions.csv", "metrics.json", "data.json"] {
            assert!(site.read(&format!("first/{file}")) == site.read(&format!("{other}/{file}")), "{file} of {other} differs");
        }
    }
    // A changed file is found; what it holds now is known as another slice.
    let image = site.path("phantom/images/patient-003-slice-1.png");
    fs::copy(site.path("phantom/images/patient-003-slice-0.png"), image).unwrap();
    let changed = start("changed", ("GRAFT_DECODED", &shared));
    assert!(changed.logs("60 of 60 images were decoded already"), "{}", changed.stdout);
    let digest = |name: &str| serde_json::from_slice::<Value>(&site.read(&format!("{name}/model.json"))).unwrap()["dataDigest"].clone();
    assert_ne!(digest("first"), digest("changed"));

    let cache = |arguments: &[&str]| {
        let run = Run::of(graft(&[&["data", "cache"], arguments].concat()));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    let output = site.path("first").to_string_lossy().into_owned();
    let listed = cache(&["ls", &output]);
    assert!(listed.contains("phantom at 32 x 32 pixels: 60 images, 0.2 MiB, used") && listed.contains("1 data sets"), "{listed}");
    assert!(cache(&["gc", &output]).contains("0.0 MiB freed"));
    assert!(cache(&["gc", &output, "--quota", "0", "--dry-run"]).contains("0.2 MiB would be freed"));
    let freed = cache(&["gc", &output, "--quota", "0"]);
    assert!(freed.contains("60 images") && freed.contains("over the quota") && freed.contains("0.2 MiB freed"), "{freed}");
    assert!(cache(&["ls", &output]).contains("0 data sets"));
}

#[test]
fn outputs_of_frozen_layers_are_kept_and_change_nothing() {
    let site = Site::with_a_signal();
    let epochs = |job: &mut Value| job["spec"]["fineTune"]["epochs"] = 4.into();
    const KEPT: &str = "from now on only trained layers run: the frozen ones' outputs of 36 images are kept";
    assert!(site.run("kept", epochs).logs(KEPT));
    // Augmentation that changes nothing, and yet might.
    let other = site.run("computed", |job| {
        epochs(job);
        job["spec"]["fineTune"]["augment"] = serde_json::json!({});
    });
    assert!(!other.logs("are kept in"));
    let start = graft_trainer::weights::load(&site.path("weights.safetensors"), None).unwrap().tensors;
    let (kept, computed) = (site.model("kept"), site.model("computed"));
    let distance = |name: &str, a: &graft_torch::tch::Tensor| (a - &kept[name]).abs().max().double_value(&[]);
    for name in ["25.dw.weight", "26.conv.weight"] {
        let (moved, between) = (distance(name, &start[name]), distance(name, &computed[name]));
        assert!(moved > 1e-3 && between < 1e-3 * moved, "{name} moved by {moved}, and lies {between} from what computing everything gives");
    }
}

#[test]
fn features_are_extracted_once() {
    let site = Site::new();
    let frozen = |job: &mut Value| drop(job["spec"].as_object_mut().unwrap().remove("fineTune"));
    let first = site.run("features", frozen);
    assert!(!first.logs("features are reused"));
    let second = site.run("features", |job| {
        frozen(job);
        job["spec"]["head"]["epochs"] = 5.into();
    });
    assert!(second.logs("features are reused"), "{}", second.stdout);
    // A damaged artefact is made again, not used.
    let part = walk(&site.path("features/.graft/features")).into_iter().find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&part, bytes).unwrap();
    let third = site.run("features", frozen);
    assert!(!third.logs("features are reused"));
    assert_eq!(first.summary()["progress"]["metrics"], third.summary()["progress"]["metrics"]);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.flat_map(|e| if e.path().is_dir() { walk(&e.path()) } else { vec![e.path()] }).collect()
}

/// Long enough to be killed in the middle.
fn long(job: &mut Value) {
    job["spec"]["fineTune"]["epochs"] = 12.into();
    job["spec"]["backbone"]["preprocessing"]["size"] = 64.into();
}

#[expect(clippy::zombie_processes, reason = "the caller waits")]
/// Start a run and read on until its second checkpoint is written.
fn until_checkpoint(site: &Site, name: &str, change: impl FnOnce(&mut Value)) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command(&["run", &site.job(name, change).to_string_lossy()]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the run ended before its second checkpoint");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["checkpoint"]["epoch"].as_u64() >= Some(2) {
            return (child, output);
        }
    }
}

fn rest(mut child: Child, mut output: BufReader<std::process::ChildStdout>) -> Run {
    let mut stdout = String::new();
    std::io::Read::read_to_string(&mut output, &mut stdout).unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    Run { code: child.wait().unwrap().code(), stdout, stderr }
}

#[test]
fn a_killed_rank_ends_the_run_and_the_next_goes_on_to_the_same_model() {
    let site = Site::new();
    site.run("calm", long);
    let (child, output) = until_checkpoint(&site, "hurt", long);
    let ranks = children(child.id());
    assert_eq!(ranks.len(), 2);
    signal(ranks[1], "KILL");
    let run = rest(child, output);
    let summary = run.summary();
    assert_eq!((run.code, summary["exit"].as_str(), summary["failure"]["reason"].as_str()), (Some(86), Some("CollectiveLost"), Some("RankKilled")));
    assert!(!site.path("hurt/manifest.json").exists());
    assert!(ranks.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()), "a rank outlives its agent");

    let again = site.run("hurt", long);
    assert!(again.logs("going on after epoch"), "{}", again.stdout);
    for file in ["model.safetensors", "predictions.csv"] {
        assert!(site.read(&format!("calm/{file}")) == site.read(&format!("hurt/{file}")), "{file} differs after the interruption");
    }
    let epochs = |name: &str| site.text(&format!("{name}/history.csv")).lines().filter(|l| l.starts_with("fineTune,")).count();
    assert_eq!((epochs("calm"), epochs("hurt")), (12, 12));
}

#[test]
fn a_damaged_checkpoint_is_left_aside() {
    let site = Site::new();
    // What is kept of frozen layers is another thing after each thaw.
    let thawing = |job: &mut Value| {
        long(job);
        job["spec"]["fineTune"]["thawEveryEpochs"] = 2.into();
    };
    site.run("calm", thawing);
    let (child, output) = until_checkpoint(&site, "hurt", thawing);
    signal(child.id(), "KILL");
    rest(child, output);
    let mut states: Vec<_> = walk(&site.path("hurt/.graft/checkpoints")).into_iter().filter(|p| p.ends_with("state.safetensors")).collect();
    states.retain(|p| p.to_string_lossy().contains("/epoch-"));
    states.sort();
    let newest = states.last().unwrap();
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, bytes).unwrap();
    let again = site.run("hurt", thawing);
    assert!(again.logs("it is left aside") && again.logs("going on after epoch"), "{}", again.stdout);
    assert!(site.read("calm/model.safetensors") == site.read("hurt/model.safetensors"));
}

#[test]
fn sigterm_is_never_a_success() {
    let site = Site::new();
    let (child, output) = until_checkpoint(&site, "stopped", long);
    signal(child.id(), "TERM");
    let run = rest(child, output);
    let summary = run.summary();
    assert_eq!((run.code, summary["exit"].as_str(), summary["failure"]["reason"].as_str()), (Some(85), Some("Preempted"), Some("Terminated")));
    assert!(summary["progress"]["checkpoint"]["epoch"].as_u64() >= Some(2), "{summary}");
    assert!(!site.path("stopped/manifest.json").exists());
}
