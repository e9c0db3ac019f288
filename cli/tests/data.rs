//! The ways to lay data out: each snippet of docs/data.md on files that are laid out so; multi-label jobs, with findings in a list
//! or in a column each, some of them unknown, and regression jobs, through training, outputs and the check of a written model.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{Run, Site, command, graft};
use graft_tests::object_store::ObjectStore;
use serde_json::{Value, json};

/// Beside the phantom's manifest, the same images with two findings: `lists.csv` as ChestX-ray14 has them, `columns.csv` as CheXpert.
/// A lesion is what it was; every second patient has a device, and of every fifth image nobody said whether.
fn site() -> Site {
    let site = Site::with_a_signal();
    let (mut lists, mut columns) = ("image,found,split,patient\n".to_owned(), "image,lesion,device,split,patient\n".to_owned());
    for (index, row) in csv::Reader::from_path(site.path("phantom/manifest.csv")).unwrap().records().enumerate() {
        let row = row.unwrap();
        let device = row[3].trim_start_matches("phantom-").parse::<u32>().unwrap() / 2 % 2 == 1;
        let names = [(&row[1] == "lesion", "lesion"), (device, "device"), (index % 4 == 0, "Scar")];
        let shown: Vec<&str> = names.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        let list = if shown.is_empty() { "No Finding".to_owned() } else { shown.join("|") };
        lists.push_str(&format!("{},{list},{},{}\n", &row[0], &row[2], &row[3]));
        let unknown = [if device { "1.0" } else { "0.0" }, "-1.0", ""][if index % 5 == 0 { 1 + index % 2 } else { 0 }];
        columns.push_str(&format!("{},{},{unknown},{},{}\n", &row[0], if &row[1] == "lesion" { "1" } else { "0" }, &row[2], &row[3]));
    }
    fs::write(site.path("phantom/lists.csv"), lists).unwrap();
    fs::write(site.path("phantom/columns.csv"), columns).unwrap();
    site
}

fn findings(manifest: &str, settings: Value) -> impl FnOnce(&mut Value) {
    let manifest = manifest.to_owned();
    move |job| {
        let spec = &mut job["spec"];
        spec["task"] = json!({"type": "multiLabel", "classes": ["lesion", "device"]});
        spec["data"]["train"]["manifest"] = manifest.into();
        spec["data"]["columns"]["label"] = "found".into();
        spec["fineTune"].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    }
}

#[test]
fn each_finding_has_a_probability_of_its_own() {
    let site = site();
    for manifest in ["lists.csv", "columns.csv"] {
        let run = site.run("out", findings(manifest, json!({})));
        assert!(run.logs("60 images looked at"), "{}", run.stdout);
        let predictions = site.text("out/predictions.csv");
        let mut rows = csv::Reader::from_reader(predictions.as_bytes());
        assert_eq!(rows.headers().unwrap(), vec!["input", "patient", "label", "probability_lesion", "probability_device"]);
        let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
        let sums: Vec<f64> = rows.iter().map(|row| row.iter().skip(3).map(|p| p.parse::<f64>().unwrap()).sum()).collect();
        assert!(sums.iter().any(|sum| (sum - 1.0).abs() > 0.01), "{sums:?}");
        let labels: Vec<&str> = rows.iter().map(|row| &row[2]).collect();
        assert!(labels.iter().all(|label| ["", "lesion", "device", "lesion|device", "lesion|device?", "device?"].contains(label)), "{labels:?}");
        assert_eq!(labels.iter().any(|label| label.ends_with('?')), manifest == "columns.csv", "{labels:?}");

        let metrics: Value = serde_json::from_slice(&site.read("out/metrics.json")).unwrap();
        let own = metrics["test"]["findings"].as_array().unwrap();
        let aurocs: Vec<f64> = own.iter().map(|finding| finding["auroc"]["value"].as_f64().unwrap()).collect();
        assert!((metrics["test"]["auroc"]["value"].as_f64().unwrap() - (aurocs[0] + aurocs[1]) / 2.0).abs() < 1e-12);
        let known = |finding: &Value| finding["positives"].as_u64().unwrap() + finding["negatives"].as_u64().unwrap();
        assert_eq!((known(&own[0]), known(&own[1]) == 12), (12, manifest == "lists.csv"), "{metrics}");
        assert_eq!(metrics["positiveClass"], Value::Null);
        let description: Value = serde_json::from_slice(&site.read("out/model.json")).unwrap();
        assert_eq!(description["task"], "multiLabel");
        let verified = graft(&["verify", &site.path("out").to_string_lossy()]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        fs::remove_dir_all(site.path("out")).unwrap();
    }
}

#[test]
fn training_does_not_depend_on_the_ranks() {
    let site = site();
    let settings = json!({
        "epochs": 1, "globalBatchSize": 8, "optimizer": {"name": "sgd", "learningRate": "0.05"},
        "loss": {"name": "focal", "classWeights": "balanced", "labelSmoothing": "0.1"}, "mix": {"mixup": "0.4"},
    });
    for ranks in [1, 3] {
        site.run(&format!("ranks-{ranks}"), |job| {
            findings("columns.csv", settings.clone())(job);
            job["spec"]["workers"]["processes"] = ranks.into();
        });
    }
    let (alone, gang) = (site.model("ranks-1"), site.model("ranks-3"));
    let backbone = alone.iter().filter(|(name, _)| !name.starts_with("27."));
    let apart = backbone.map(|(name, t)| (t - &gang[name]).abs().max().double_value(&[])).fold(0.0, f64::max);
    assert!(apart <= 1e-5, "{apart}");
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let site = site();
    let refused = |change: &dyn Fn(&mut Value), code: i32, parts: &[&str]| {
        let job = site.job("refused", |job| {
            findings("lists.csv", json!({}))(job);
            change(job);
        });
        let run = Run::of(graft(&["validate", &job.to_string_lossy()]));
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
        }
    };
    refused(&|job| job["spec"]["task"]["classes"] = json!([]), 64, &["spec.task.classes"]);
    refused(&|job| job["spec"]["task"]["positiveClass"] = "lesion".into(), 64, &["positiveClass"]);
    refused(&|job| job["spec"]["task"]["classes"][1] = "devices".into(), 65, &["\"devices\"", "no training image"]);
    refused(&|job| job["spec"]["task"]["classes"][1] = "Device".into(), 65, &["lists.csv:", "\"device\"", "A|B"]);
    refused(&|job| job["spec"]["data"]["columns"]["label"] = "finding".into(), 65, &["no column \"finding\"", "\"lesion\"", "a column for each"]);
    refused(&|job| drop(job["spec"]["data"]["train"].as_object_mut().unwrap().remove("manifest")), 64, &["manifest"]);
    let text = site.text("phantom/columns.csv").replacen(",0.0,", ",maybe,", 1);
    fs::write(site.path("phantom/columns.csv"), text).unwrap();
    refused(&|job| job["spec"]["data"]["train"]["manifest"] = "columns.csv".into(), 65, &["columns.csv:", "\"maybe\"", "1, 0, and -1"]);
}

/// Beside the phantom's manifest, `volumes.csv` with a number for each image: about 40 with a lesion, about 10 without.
fn volumes(site: &Site) {
    let mut volumes = "image,volume_ml,split,patient\n".to_owned();
    for (index, row) in csv::Reader::from_path(site.path("phantom/manifest.csv")).unwrap().records().enumerate() {
        let row = row.unwrap();
        let volume = if &row[1] == "lesion" { 40.0 } else { 10.0 } + (index % 5) as f64 / 4.0;
        volumes.push_str(&format!("{},{volume:.2},{},{}\n", &row[0], &row[2], &row[3]));
    }
    fs::write(site.path("phantom/volumes.csv"), volumes).unwrap();
}

fn numbers(settings: Value) -> impl FnOnce(&mut Value) {
    move |job| {
        let spec = &mut job["spec"];
        spec["task"] = json!({"type": "regression"});
        spec["data"]["train"]["manifest"] = "volumes.csv".into();
        spec["data"]["columns"]["label"] = "volume_ml".into();
        spec["fineTune"].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    }
}

#[test]
fn numbers_are_predicted_in_their_own_unit() {
    let site = Site::with_a_signal();
    volumes(&site);
    // Who knows nothing is 15 off. Two epochs teach a head that is not trained alone just that, but in the right unit.
    for (settings, keep, worst) in
        [(json!({"loss": {"name": "mse"}, "headFirst": true}), false, 13.0), (json!({"loss": {"name": "huber"}}), true, 16.0)]
    {
        let run = site.run("out", |job| {
            numbers(settings)(job);
            job["spec"]["head"] = json!({"epochs": 60, "afterFineTune": if keep { "keep" } else { "retrain" }});
        });
        let judged = run.events().into_iter().rfind(|event| event["event"] == "progress").unwrap()["metrics"].clone();
        let predictions = site.text("out/predictions.csv");
        let mut rows = csv::Reader::from_reader(predictions.as_bytes());
        assert_eq!(rows.headers().unwrap(), vec!["input", "patient", "label", "predicted_volume_ml"]);
        let pairs: Vec<(f64, f64)> = rows.records().map(Result::unwrap).map(|row| (row[2].parse().unwrap(), row[3].parse().unwrap())).collect();
        let mae = pairs.iter().map(|(truth, predicted)| (truth - predicted).abs()).sum::<f64>() / pairs.len() as f64;
        let metrics: Value = serde_json::from_slice(&site.read("out/metrics.json")).unwrap();
        assert!((metrics["test"]["mae"].as_f64().unwrap() - mae).abs() < 1e-9, "{metrics}");
        assert!(metrics["test"]["limitsOfAgreement"][0].as_f64() < metrics["test"]["bias"].as_f64(), "{metrics}");
        assert_eq!((&judged["mae"], &judged["auroc"]), (&metrics["test"]["mae"], &Value::Null), "{judged}");
        let description: Value = serde_json::from_slice(&site.read("out/model.json")).unwrap();
        assert_eq!((&description["task"], &description["classes"]), (&json!("regression"), &json!(["volume_ml"])));
        let verified = graft(&["verify", &site.path("out").to_string_lossy()]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let history = site.text("out/history.csv");
        assert!(history.lines().skip(1).all(|line| line.split(',').nth(8).unwrap().parse::<f64>().unwrap() > 0.0), "{history}");
        fs::remove_dir_all(site.path("out")).unwrap();
        assert!(mae < worst, "{mae}\n{history}");
    }
}

#[test]
fn what_is_no_number_is_refused() {
    let site = Site::new();
    volumes(&site);
    let refused = |change: &dyn Fn(&mut Value), code: i32, parts: &[&str]| {
        let job = site.job("refused", |job| {
            numbers(json!({"loss": {"name": "l1"}}))(job);
            change(job);
        });
        let run = Run::of(graft(&["validate", &job.to_string_lossy()]));
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
        }
    };
    refused(&|job| job["spec"]["task"]["classes"] = json!(["volume"]), 64, &["a regression task has no classes"]);
    refused(&|job| drop(job["spec"]["fineTune"].as_object_mut().unwrap().remove("loss")), 64, &["mse, l1 or huber"]);
    refused(&|job| job["spec"]["fineTune"]["mix"] = json!({"mixup": "0.2"}), 64, &["nor mix"]);
    refused(&|job| job["spec"]["task"]["type"] = "classification".into(), 64, &["are for regression tasks"]);
    refused(&|job| drop(job["spec"]["data"]["train"].as_object_mut().unwrap().remove("manifest")), 64, &["manifest"]);
    refused(
        &|job| job["spec"]["data"]["columns"]["label"] = "split".into(),
        65,
        &["volumes.csv:2 (\"", "something else than a number", "with a point"],
    );
    let text = site.text("phantom/volumes.csv").replacen(",10.00,", ",\"10,0\",", 1).replacen(",11.00,", ",nan,", 1);
    fs::write(site.path("phantom/volumes.csv"), text).unwrap();
    refused(&|_| (), 65, &["2 rows", "\"10,0\"", "\"nan\""]);
    let same = site.text("phantom/manifest.csv").replace(",lesion,", ",1,").replace(",normal,", ",1,");
    fs::write(site.path("phantom/volumes.csv"), same.replacen("label", "volume_ml", 1)).unwrap();
    refused(&|_| (), 65, &["numbers that differ"]);
}

/// The snippets of a document in one language.
fn snippets(document: &str, language: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = fs::read_to_string(path).unwrap();
    text.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// `over` into `under`: what both have is taken from `over`.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            over.into_iter().for_each(|(key, value)| merge(under.entry(key).or_insert(Value::Null), value))
        }
        (under, over) => *under = over,
    }
}

#[test]
fn each_snippet_of_the_documentation_reads_what_is_laid_out_so() {
    let site = Site::new();
    let (mut covid, mut chest) = ("image,label,patient_id,split\n".to_owned(), "Image Index,Finding Labels,Patient ID,split\n".to_owned());
    let mut volumes = "image,volume_ml,patient,split\n".to_owned();
    for (index, row) in csv::Reader::from_path(site.path("phantom/manifest.csv")).unwrap().records().enumerate() {
        let row = row.unwrap();
        let name = row[0].trim_start_matches("images/");
        for place in [
            format!("data/lungs/{}/{}/{name}", &row[2], &row[1]),
            format!("data/covid-ct/{name}"),
            format!("data/chest-xray14/{name}"),
            format!("data/lesions/{name}"),
        ] {
            fs::create_dir_all(site.path(&place).parent().unwrap()).unwrap();
            fs::copy(site.path("phantom").join(&row[0]), site.path(&place)).unwrap();
        }
        covid.push_str(&format!("{name},{},{},{}\n", &row[1], &row[3], &row[2]));
        volumes.push_str(&format!("{name},{index}.5,{},{}\n", &row[3], &row[2]));
        chest.push_str(&format!("{name},{},{},{}\n", ["No Finding", "Mass|Effusion", "Nodule|Hernia", "Mass"][index / 3 % 4], &row[3], &row[2]));
    }
    fs::write(site.path("data/covid-ct/manifest.csv"), covid).unwrap();
    fs::write(site.path("data/chest-xray14/entries.csv"), chest).unwrap();
    fs::write(site.path("data/lesions/volumes.csv"), volumes).unwrap();
    let store = ObjectStore::start("scans").unwrap();
    store.put(&site.path("data/covid-ct"), "scans/covid-ct").unwrap();
    let snippets = snippets("data.md", "yaml");
    assert!(snippets.len() >= 4, "{}", snippets.len());
    let mount = format!("/data={}", site.path("data").display());
    for (number, snippet) in snippets.iter().enumerate() {
        let over: Value = serde_saphyr::from_str(snippet).unwrap();
        let whole = over["data"].get("train").is_some();
        let job = site.job(&format!("snippet-{number}"), |job| {
            if whole {
                job["spec"]["data"] = json!({});
                job["spec"].as_object_mut().unwrap().remove("task");
            }
            merge(&mut job["spec"], over);
        });
        let mut validate = command(&["validate", &job.to_string_lossy(), "--mount", &mount]);
        validate.envs(store.variables()).env("XDG_CACHE_HOME", site.path("cache"));
        let run = Run::of(validate.output().unwrap());
        assert_eq!(run.code, Some(0), "{snippet}\n{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains("60 images decode"), "{snippet}\n{}", run.stdout);
    }
}
