//! The ways to fine-tune, each by what it must do: schedules and rates, augmentation that does not depend on the ranks,
//! accumulation, averaging, thawing, linear probing first, early stopping; and a resumed run that has all of them at once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;

use common::{Run, Site, graft};
use graft_torch::tch::Tensor;
use graft_trainer::weights;
use serde_json::{Value, json};

fn tuned(settings: Value) -> impl FnOnce(&mut Value) {
    move |job| {
        let own = job["spec"]["fineTune"].as_object_mut().unwrap();
        own.extend(settings.as_object().unwrap().clone());
    }
}

/// Largest difference of two models beside their heads.
fn distance(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> f64 {
    let backbone = a.iter().filter(|(name, _)| !name.starts_with("27."));
    backbone.map(|(name, t)| (t - &b[name]).abs().max().double_value(&[])).fold(0.0, f64::max)
}

fn column(site: &Site, name: &str, column: &str) -> Vec<String> {
    let text = site.text(&format!("{name}/history.csv"));
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let at = rows.headers().unwrap().iter().position(|h| h == column).unwrap();
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    rows.iter().filter(|r| &r[0] == "fineTune").map(|r| r[at].to_owned()).collect()
}

#[test]
fn augmented_and_blended_training_does_not_depend_on_the_ranks() {
    let site = Site::with_a_signal();
    for (name, ranks, accumulate) in [("alone", 1, 1), ("ranks", 3, 1), ("parts", 1, 4)] {
        site.run(name, |job| {
            job["spec"]["workers"]["processes"] = ranks.into();
            tuned(json!({
                "epochs": 1, "globalBatchSize": 12, "accumulate": accumulate, "optimizer": {"name": "sgd", "learningRate": "0.05"},
                "augment": {"horizontalFlip": "0.5", "crop": "0.6", "rotate": "10", "translate": "0.05", "brightness": "0.2", "contrast": "0.2", "gamma": "0.3", "blur": "1", "noise": "0.05", "erase": "0.3",
                            "policy": {"name": "randAugment", "operations": 3}},
                "mix": {"mixup": "0.4", "cutmix": "1"}, "loss": {"labelSmoothing": "0.1"}, "clip": {"norm": "1"},
            }))(job);
        });
    }
    site.run("plain", tuned(json!({"epochs": 1, "optimizer": {"name": "sgd", "learningRate": "0.05"}})));
    let alone = site.model("alone");
    let start = weights::load(&site.path("weights.safetensors"), None).unwrap().tensors;
    let (plain, moved) = (distance(&alone, &site.model("plain")), distance(&alone, &start));
    assert!(plain > 0.1 * moved, "augmentation does nothing: {plain} of {moved}");
    for other in ["ranks", "parts"] {
        assert!(distance(&alone, &site.model(other)) <= 1e-5, "{other}: {}", distance(&alone, &site.model(other)));
    }
}

#[test]
fn balanced_focal_training_does_not_depend_on_the_ranks() {
    let site = Site::with_a_signal();
    // Two thirds of the lesions go, so that the weights are not 1.
    site.manifest(|row, line| (!line.contains(",lesion,train,") || row % 3 == 0).then(|| line.to_owned()));
    for ranks in [1, 3] {
        site.run(&format!("focal-{ranks}"), |job| {
            job["spec"]["workers"]["processes"] = ranks.into();
            tuned(json!({"epochs": 1, "globalBatchSize": 7, "optimizer": {"name": "sgd", "learningRate": "0.05"}, "loss": {"name": "focal", "classWeights": "balanced"}}))(job);
        });
    }
    site.run(
        "equal",
        tuned(json!({"epochs": 1, "globalBatchSize": 7, "optimizer": {"name": "sgd", "learningRate": "0.05"}, "loss": {"name": "focal"}})),
    );
    let balanced = site.model("focal-1");
    assert!(distance(&balanced, &site.model("focal-3")) <= 1e-5);
    assert!(distance(&balanced, &site.model("equal")) > 1e-4, "the weights do nothing");
}

#[test]
fn balanced_sampling_does_not_depend_on_the_ranks() {
    let site = Site::with_a_signal();
    site.manifest(|row, line| (!line.contains(",lesion,train,") || row % 3 == 0).then(|| line.to_owned()));
    let settings =
        |sampling: &str| json!({"epochs": 1, "globalBatchSize": 8, "optimizer": {"name": "sgd", "learningRate": "0.05"}, "sampling": sampling});
    for ranks in [1, 3] {
        site.run(&format!("balanced-{ranks}"), |job| {
            job["spec"]["workers"]["processes"] = ranks.into();
            tuned(settings("balanced"))(job);
        });
    }
    site.run("all", tuned(settings("all")));
    let balanced = site.model("balanced-1");
    assert!(distance(&balanced, &site.model("balanced-3")) <= 1e-5);
    assert!(distance(&balanced, &site.model("all")) > 1e-4, "the sampling does nothing");
}

#[test]
fn synchronised_batch_normalisation_does_not_depend_on_the_ranks() {
    let site = Site::new();
    let weights = site.hashed_weights_of(graft_crds::Architecture::ResNet18, "resnet.safetensors", 2);
    for (name, ranks, sync) in [("alone", 1, false), ("ranks", 3, true), ("apart", 3, false)] {
        site.run(name, |job| {
            job["spec"]["workers"]["processes"] = ranks.into();
            job["spec"]["backbone"]["architecture"] = "resnet18".into();
            job["spec"]["backbone"]["weights"]["uri"] = site.uri("resnet.safetensors").into();
            let settings = json!({"unfreeze": ["layer4"], "epochs": 1, "globalBatchSize": 8, "optimizer": {"name": "sgd", "learningRate": "0.01"}});
            tuned(settings)(job);
            job["spec"]["fineTune"]["syncBatchNorm"] = sync.into();
        });
    }
    let (alone, ranks, apart) = (site.model("alone"), site.model("ranks"), site.model("apart"));
    for name in ["layer4.1.conv2.weight", "layer4.1.bn2.weight", "layer4.1.bn2.running_mean", "layer4.1.bn2.running_var"] {
        let distance = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        let moved = distance(&alone[name], &weights[name]);
        let (together, not) = (distance(&alone[name], &ranks[name]), distance(&alone[name], &apart[name]));
        assert!(together < 1e-3 * moved && not > 10.0 * together, "{name} moved by {moved}: {together} together, {not} apart");
    }
}

#[test]
fn each_optimizer_and_schedule_trains() {
    let site = Site::with_a_signal();
    for (name, optimizer) in [
        ("nesterov", json!({"name": "sgd", "learningRate": "0.01", "nesterov": true, "weightDecay": "1e-4", "decay": "matrices"})),
        ("adamw", json!({"name": "adamw", "learningRate": "1e-3", "weightDecay": "0.05", "layerDecay": "0.7", "headLearningRate": "1e-2"})),
        ("lamb", json!({"name": "lamb", "learningRate": "5e-3", "weightDecay": "0.01"})),
    ] {
        site.run(name, tuned(json!({"epochs": 6, "optimizer": optimizer, "schedule": {"name": "cosine", "warmupEpochs": "1.5"}})));
        let losses: Vec<f64> = column(&site, name, "train_loss").iter().map(|l| l.parse().unwrap()).collect();
        assert!(losses[5] < losses[0], "{name}: {losses:?}");
        let rates: Vec<f64> = column(&site, name, "learning_rate").iter().map(|l| l.parse().unwrap()).collect();
        assert!(rates[1] > rates[0] && rates[2] > rates[5] && rates[5] < 1e-6, "{name}: {rates:?}");
    }
}

#[test]
fn layers_thaw_one_by_one_and_a_pull_keeps_them_near() {
    let site = Site::with_a_signal();
    let start = weights::load(&site.path("weights.safetensors"), None).unwrap().tensors;
    let run = site.run("thaw", tuned(json!({"epochs": 2, "thawEveryEpochs": 1, "keep": "last"})));
    // The second of two epochs trains the last layer of the list only.
    let after = site.model("thaw");
    for (name, tensor) in after.iter().filter(|(name, _)| !name.starts_with("27.")) {
        assert_eq!(!tensor.equal(&start[name]), name.starts_with("26."), "{name}");
    }
    assert!(run.logs("trained layers are now 26 and the head"), "{}", run.stdout);
    // 27 convolutions with an offset each, of which two layers and the head are in the hands of training.
    assert!(run.logs("0 of 50 frozen tensors changed"), "{}", run.stdout);
    let description: Value = serde_json::from_slice(&site.read("thaw/model.json")).unwrap();
    assert_eq!((&description["frozenTensors"], &description["frozenTensorsChanged"]), (&json!(50), &json!(0)));
    let metrics = &run.summary()["progress"]["metrics"];
    assert_eq!((&metrics["frozen_tensors"], &metrics["frozen_tensors_changed"]), (&json!(50.0), &json!(0.0)));
    let strong = json!({"name": "sgd", "learningRate": "0.05"});
    site.run("free", tuned(json!({"epochs": 4, "optimizer": strong, "keep": "last"})));
    site.run("pulled", tuned(json!({"epochs": 4, "optimizer": strong, "keep": "last", "l2sp": "20"})));
    let (pulled, free) = (distance(&site.model("pulled"), &start), distance(&site.model("free"), &start));
    assert!(pulled < 0.5 * free, "{pulled} with a pull, {free} without");
}

#[test]
fn a_probed_head_begins_fine_tuning_and_may_stay() {
    let site = Site::with_a_signal();
    let first = |name: &str, settings: Value, head: Value| {
        site.run(name, |job| {
            job["spec"]["head"] = head;
            // The head alone: what the probe found is then what the first epoch begins with.
            job["spec"]["fineTune"]["unfreeze"] = json!(["27"]);
            tuned(settings)(job);
        });
        column(&site, name, "train_loss")[0].parse::<f64>().unwrap()
    };
    let head = json!({"epochs": 60, "optimizer": {"learningRate": "1e-2"}});
    let cold = first("cold", json!({"epochs": 1}), head.clone());
    let warm = first("warm", json!({"epochs": 1, "headFirst": true}), head.clone());
    assert!(warm < 0.9 * cold, "with a probed head {warm}, without {cold}");
    let rows = site.text("warm/history.csv");
    assert_eq!(rows.lines().filter(|l| l.starts_with("head,")).count(), 60, "the probe is no stage of its own");
    first("kept", json!({"epochs": 1, "headFirst": true}), json!({"epochs": 60, "optimizer": {"learningRate": "1e-2"}, "afterFineTune": "keep"}));
    assert!(!site.text("kept/history.csv").contains("\nhead,"));
    let verified = Run::of(graft(&["verify", &site.path("kept").to_string_lossy()]));
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    assert!(!site.model("kept")["27.conv.weight"].equal(&site.model("warm")["27.conv.weight"]));
}

#[test]
fn training_stops_when_it_no_longer_helps() {
    let site = Site::with_a_signal();
    // A rate that soon makes things worse.
    let run = site.run("worse", tuned(json!({"epochs": 40, "patienceEpochs": 2, "optimizer": {"name": "sgd", "learningRate": "0.3"}})));
    let losses: Vec<f64> = column(&site, "worse", "validation_loss").iter().map(|l| l.parse().unwrap()).collect();
    let best = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    assert!(losses.len() == best + 3 && losses.len() < 40, "{losses:?}");
    assert!(run.logs("has not fallen for 2 epochs"), "{}", run.stdout);
}

#[test]
fn an_average_of_the_weights_is_kept_in_their_place() {
    let site = Site::with_a_signal();
    let settings = |decay: Option<&str>| {
        let mut settings = json!({"epochs": 2, "keep": "last", "optimizer": {"name": "sgd", "learningRate": "0.05"}});
        if let Some(decay) = decay {
            settings["emaDecay"] = decay.into();
        }
        settings
    };
    site.run("plain", tuned(settings(None)));
    site.run("slow", tuned(settings(Some("0.99"))));
    site.run("quick", tuned(settings(Some("1e-9"))));
    let start = weights::load(&site.path("weights.safetensors"), None).unwrap().tensors;
    let plain = site.model("plain");
    assert!(distance(&site.model("quick"), &plain) < 1e-6, "an average without memory is the weights themselves");
    assert!(distance(&site.model("slow"), &start) < 0.3 * distance(&plain, &start));
}

#[test]
fn a_run_with_everything_on_resumes_to_the_same_bits() {
    let site = Site::with_a_signal();
    let all = || {
        tuned(json!({
            "epochs": 10, "thawEveryEpochs": 2, "emaDecay": "0.9", "dropout": "0.2", "headFirst": true, "accumulate": 2,
            "optimizer": {"name": "adamw", "learningRate": "1e-3", "weightDecay": "0.01", "layerDecay": "0.8"},
            "schedule": {"name": "oneCycle"}, "augment": {"horizontalFlip": "0.5", "crop": "0.7"}, "mix": {"mixup": "0.2"},
        }))
    };
    site.run("calm", all());
    let mut child = common::command(&["run", &site.job("hurt", all()).to_string_lossy()]).spawn().unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut output, &mut line).unwrap() > 0, "it ended before its fifth checkpoint");
        if serde_json::from_str::<Value>(&line).unwrap()["checkpoint"]["epoch"].as_u64() >= Some(5) {
            break;
        }
    }
    common::signal(child.id(), "KILL");
    child.wait().unwrap();
    let again = site.run("hurt", all());
    assert!(again.logs("going on after epoch"), "{}", again.stdout);
    assert!(site.read("calm/model.safetensors") == site.read("hurt/model.safetensors"));
}

#[test]
fn a_diverging_loss_names_step_rate_and_samples() {
    let site = Site::with_a_signal();
    // The first epoch is sound, the second is not.
    let schedule = json!({"name": "step", "stepEpochs": 1, "gamma": "1e40"});
    let job = site.job("wild", tuned(json!({"epochs": 3, "optimizer": {"name": "sgd", "learningRate": "1e-2"}, "schedule": schedule})));
    let run = Run::of(graft(&["run", &job.to_string_lossy()]));
    assert_eq!(run.code, Some(64), "{}", run.stderr);
    for part in ["LossDiverged", "of epoch 2 at learning rate 1e38", "manifest.csv:", "learningRate"] {
        assert!(run.stderr.contains(part), "{part} is missing in {}", run.stderr);
    }
    assert_eq!(run.summary()["progress"]["checkpoint"]["epoch"], 1, "{}", run.stdout);
    assert!(!site.path("wild/manifest.json").exists());
}

#[test]
fn bfloat16_computes_where_the_processor_can_and_says_so_where_not() {
    let site = Site::with_a_signal();
    let settings = |precision: &str| tuned(json!({"epochs": 1, "precision": precision, "optimizer": {"name": "sgd", "learningRate": "0.01"}}));
    site.run("single", settings("fp32"));
    let run = site.run("half", settings("bf16"));
    #[cfg(target_arch = "x86_64")]
    let can = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let can = false;
    assert_eq!(run.logs("no bfloat16 instructions"), !can, "{}", run.stdout);
    let distance = distance(&site.model("single"), &site.model("half"));
    assert!(if can { distance > 0.0 && distance < 0.1 } else { distance == 0.0 }, "{distance}");
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let site = Site::with_a_signal();
    for (settings, field) in [
        (json!({"optimizer": {"learningRate": "0"}}), "learningRate"),
        (json!({"optimizer": {"layerDecay": "1.5"}}), "layerDecay"),
        (json!({"schedule": {"warmupEpochs": "2"}}), "warmupEpochs"),
        (json!({"loss": {"labelSmoothing": "1"}}), "labelSmoothing"),
        (json!({"clip": {}}), "clip"),
        (json!({"augment": {"crop": "0"}}), "crop"),
        (json!({"mix": {"mixup": "0"}}), "mixup"),
        (json!({"emaDecay": "1"}), "emaDecay"),
        (json!({"dropout": "-0.1"}), "dropout"),
    ] {
        let job = site.job("refused", tuned(settings));
        let run = Run::of(graft(&["validate", &job.to_string_lossy()]));
        assert_eq!(run.code, Some(64), "{field} is taken");
        assert!(run.stderr.contains("InvalidSpec") && run.stderr.contains(field), "{field}: {}", run.stderr);
    }
}
