//! Training against PyTorch: one step on two ranks is the reference's step on the joint batch, and the founding article's
//! recipe runs on the weights that torchvision's initialiser makes. `tests/reference/training.py` made the files compared with.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Site, graft};
use graft_crds::Architecture;
use graft_torch::tch::{Device, Kind, Tensor};
use graft_trainer::{models, weights};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/goldens").join(format!("{name}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn beginning(tensor: &Tensor, count: usize) -> Vec<f64> {
    let all = tensor.to_kind(Kind::Double).contiguous().view([-1]);
    Vec::try_from(all.narrow(0, 0, all.size()[0].min(count as i64))).unwrap()
}

fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= tolerance, "{what}: {g} instead of {e}");
    }
}

#[test]
fn one_step_on_two_ranks_is_pytorchs_step_on_the_joint_batch() {
    let site = Site::new();
    let begin = site.hashed_weights("hashed.safetensors", 3);
    let golden = golden("one-step");
    site.run("step", |job| {
        let spec = &mut job["spec"];
        spec["backbone"]["weights"]["uri"] = site.uri("hashed.safetensors").into();
        spec["backbone"]["preprocessing"] = json!({"size": 128, "fit": "stretch"});
        spec["fineTune"] =
            json!({"unfreeze": ["*"], "epochs": 1, "globalBatchSize": golden["images"], "optimizer": {"name": "sgd", "learningRate": "0.1"}});
    });
    let loss: f64 = site.text("step/history.csv").lines().nth(1).unwrap().split(',').nth(4).unwrap().parse().unwrap();
    close("loss", &[loss], &[golden["loss"].as_f64().unwrap()], 1e-5);
    let after = site.model("step");
    for (name, expected) in golden["parameters"].as_object().unwrap() {
        let expected = numbers(expected);
        let moved = (&after[name] - &begin[name]).to_kind(Kind::Double).norm().double_value(&[]);
        close(&format!("{name}: length of the step"), &[moved], &expected[..1], 1e-5);
        close(name, &beginning(&after[name], 6), &expected[1..], 1e-5);
    }
}

/// torchvision's `resnet18(weights=None)` after `torch.manual_seed(0)`: each convolution draws its default values when it
/// is made and Kaiming's normal ones afterwards, from torch's own generator.
fn torchvisions_resnet18() -> BTreeMap<String, Tensor> {
    let model = models::build(Architecture::ResNet18, 1000, Architecture::ResNet18.padding(), Device::Cpu, 0).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = model.tensors().iter().map(|t| (t.name.clone(), t.tensor.detach().copy())).collect();
    let in_order: Vec<String> = model.tensors().iter().map(|t| t.name.clone()).filter(|n| tensors[n].dim() == 4).collect();
    // A block's shortcut is made before the block itself.
    let mut made = in_order.clone();
    made.sort_by_key(|name| {
        let block = name.split('.').take(2).collect::<Vec<_>>().join(".");
        (in_order.iter().position(|n| n.starts_with(&block)), !name.contains("downsample"))
    });
    graft_torch::device::manual_seed(0);
    let mut draw = |name: &str, fill: &dyn Fn(&mut Tensor)| fill(tensors.get_mut(name).unwrap());
    let fan_in = |t: &Tensor| t.size().iter().skip(1).product::<i64>() as f64;
    // kaiming_uniform_ with a = sqrt(5): bound 1 / sqrt(fan in).
    let default = |t: &mut Tensor| drop(t.uniform_(-1.0 / fan_in(t).sqrt(), 1.0 / fan_in(t).sqrt()));
    made.iter().for_each(|name| draw(name, &default));
    draw("fc.weight", &default);
    draw("fc.bias", &|t| drop(t.uniform_(-1.0 / 512f64.sqrt(), 1.0 / 512f64.sqrt())));
    for name in &in_order {
        draw(name, &|t| {
            let size = t.size();
            drop(t.normal_(0.0, (2.0 / (size[0] * size[2] * size[3]) as f64).sqrt()));
        });
    }
    tensors
}

#[test]
fn the_founding_recipe_runs_on_torchvisions_own_initial_weights() {
    let tensors = torchvisions_resnet18();
    let golden = golden("torchvision-resnet18");
    assert_eq!(golden.as_object().unwrap().len(), tensors.len());
    for (name, expected) in golden.as_object().unwrap() {
        let (expected, tensor) = (numbers(expected), &tensors[name]);
        let norm = tensor.to_kind(Kind::Double).norm().double_value(&[]);
        close(name, &[norm], &expected[..1], 1e-5 * norm.max(1.0));
        close(name, &beginning(tensor, 4), &expected[1..], 1e-6);
    }
    let Some(data) = std::env::var_os("GRAFT_DATA").map(PathBuf::from) else {
        println!("skipped the_founding_recipe: there is no GRAFT_DATA");
        return;
    };
    let site = Site::new();
    fs::create_dir(site.path("weights")).unwrap();
    weights::save_safetensors(&site.path("weights/resnet18.safetensors"), tensors.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    // The recipe as it stands, on smaller images and for one epoch, so that it takes seconds.
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/resnet18-layer4.yaml")).unwrap();
    let mut job: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(job["spec"]["fineTune"]["unfreeze"], json!(["layer4"]));
    job["spec"]["backbone"]["weights"]["uri"] = "file:///weights/resnet18.safetensors".into();
    job["spec"]["backbone"]["preprocessing"] = json!({"size": 64});
    job["spec"]["fineTune"]["epochs"] = 1.into();
    fs::write(site.path("job.json"), job.to_string()).unwrap();
    let mount = |inside: &str, outside: &Path| format!("{inside}={}", outside.display());
    let mounts = [mount("/data", &data), mount("/weights", &site.path("weights")), mount("/models", &site.path("models"))];
    let job = site.path("job.json").to_string_lossy().into_owned();
    let run = Run::of(graft(&["run", &job, "--mount", &mounts[0], "--mount", &mounts[1], "--mount", &mounts[2]]));
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let model = weights::load(&site.path("models/resnet18-layer4/model.safetensors"), None).unwrap().tensors;
    for (name, tensor) in model.iter().filter(|(name, _)| !name.starts_with("fc.")) {
        assert_eq!(!tensor.equal(&tensors[name]), name.starts_with("layer4."), "{name}");
    }
}
