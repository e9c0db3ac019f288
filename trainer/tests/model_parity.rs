//! The models against torchvision: names, shapes, features, logits, gradients and moved statistics, on weights and
//! images that both sides make from the same integer hash. `tests/reference/reference.py` made the files compared with.

#![allow(clippy::unwrap_used)]

use graft_crds::Architecture;
use graft_crds::architectures::{Family, Padding};
use graft_torch::device;
use graft_torch::tch::{Device, Kind, Tensor, no_grad};
use graft_trainer::models::{HeadForm, Mode, Model, build, facts};
use graft_trainer::weights::{HeadPolicy, Weights, apply, load};
use hashed::{uniform, values};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod hashed;

const CLASSES: i64 = 5;
/// Of single precision, in which Graft trains.
const TOLERANCE: f64 = 1e-4;
/// Of double precision. On hashed weights, networks are compared in it: rounding grows through dozens of layers that were never
/// trained, and a ReLU whose input is within rounding of 0 opens on one kind of CPU and not on another, so that in single precision
/// PyTorch's own gradients differ by a tenth.
const DOUBLE: f64 = 1e-6;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/goldens")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(goldens().join(format!("{name}.json"))).unwrap()).unwrap()
}

fn images(n: i64, side: i64, amplitude: f64) -> Tensor {
    let numbers: Vec<f32> = uniform("images", (n * 3 * side * side) as usize).map(|u| (4.0 * u - 2.0) as f32).collect();
    Tensor::from_slice(&numbers).view([n, 3, side, side]) * amplitude
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn numbers(tensor: &Tensor, count: usize) -> Vec<f64> {
    let all = tensor.detach().to_kind(Kind::Double).contiguous().view([-1]);
    Vec::try_from(all.narrow(0, 0, all.size()[0].min(count as i64))).unwrap()
}

/// In single precision, see [`assert_within`].
fn assert_close(what: &str, got: &[f64], expected: &[f64], scale: f64) {
    assert_within(TOLERANCE, what, got, expected, scale);
}

/// Within the tolerance of the largest magnitude, or of `scale` where that is larger.
fn assert_within(tolerance: f64, what: &str, got: &[f64], expected: &[f64], scale: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(scale, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * scale, "{what}[{i}]: {g} instead of {e}, scale {scale}");
    }
}

fn padding(golden: &Value) -> Padding {
    match golden["padding"].as_str().unwrap() {
        "same" => Padding::Same,
        _ => Padding::Symmetric,
    }
}

fn compare(name: &str, architecture: Architecture) {
    let golden = golden(name);
    assert_eq!(golden["architecture"], architecture.name());
    let mut model = build(architecture, CLASSES, padding(&golden), Device::Cpu, 1).unwrap();
    let layout: Vec<_> = model.tensors().iter().map(|t| (t.name.clone(), t.tensor.size())).collect();
    if let Some(digest) = golden["state_dict_sha256"].as_str() {
        let text: String = layout.iter().map(|(name, shape)| format!("{name} {shape:?}\n")).collect();
        assert_eq!(graft_trainer_core::artefact::sha256_hex(text.as_bytes()), digest, "{name}: names, shapes and order:\n{text}");
    } else {
        let expected: Vec<(String, Vec<i64>)> = serde_json::from_value(golden["state_dict"].clone()).unwrap();
        assert_eq!(layout, expected, "{name}: names, shapes and order");
    }
    let tensors: BTreeMap<_, _> = layout.iter().map(|(n, shape)| (n.clone(), values(n, shape))).collect();
    let weights = Weights { tensors, digest: String::new(), metadata: BTreeMap::new() };
    let report = apply(&mut model, &weights, HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!((report.loaded, report.missing.len(), report.unexpected.len()), (layout.len(), 0, 0));
    assert_eq!(model.head_form() == HeadForm::PerPosition, architecture.family() == Family::SqueezeNet);
    drop(weights);
    let x = images(4, golden["side"].as_i64().unwrap(), 1.0).to_kind(Kind::Double);
    widen(&model);
    evaluated(name, &model, &x, &golden);
    trained(name, &model, &x, &golden);
}

fn evaluated(name: &str, model: &Model, x: &Tensor, golden: &Value) {
    no_grad(|| {
        let features = model.features(x, Mode::Evaluate).unwrap();
        let norm = features.to_kind(Kind::Double).norm().double_value(&[]);
        assert_within(DOUBLE, &format!("{name} feature norm"), &[norm], &[golden["feature_norm"].as_f64().unwrap()], 0.0);
        for (i, row) in golden["features"].as_array().unwrap().iter().enumerate() {
            let scale = norm / (features.numel() as f64).sqrt();
            assert_within(DOUBLE, &format!("{name} features {i}"), &numbers(&features.get(i as i64), 8), &floats(row), scale);
        }
        let logits = numbers(&model.forward(x, Mode::Evaluate).unwrap(), 20);
        assert_within(DOUBLE, &format!("{name} logits"), &logits, &floats(&golden["logits"]), 0.0);
    });
}

/// The model's tensors in double precision. Its layers hold the same handles.
fn widen(model: &Model) {
    no_grad(|| {
        for named in model.tensors().iter().filter(|t| t.tensor.kind() == Kind::Float) {
            named.tensor.shallow_clone().set_data(&named.tensor.to_kind(Kind::Double));
        }
    });
}

fn trained(name: &str, model: &Model, x: &Tensor, golden: &Value) {
    // torch draws dropout and stochastic depth from the same generator in both languages.
    device::manual_seed(7);
    let logits = model.forward(x, Mode::Train).unwrap();
    let close = |what: &str, got: &[f64], expected: &[f64], scale| assert_within(DOUBLE, &format!("{name} {what}"), got, expected, scale);
    close("training logits", &numbers(&logits, 20), &floats(&golden["train_logits"]), 0.0);
    let loss = logits.cross_entropy_for_logits(&Tensor::arange(4, (Kind::Int64, Device::Cpu)));
    close("loss", &[loss.double_value(&[])], &[golden["loss"].as_f64().unwrap()], 0.0);
    device::backward(&loss).unwrap();
    let gradients = golden["gradients"].as_object().unwrap();
    assert_eq!(gradients.len(), model.parameters().count());
    let largest = gradients.values().map(|g| g[0].as_f64().unwrap()).fold(0.0, f64::max);
    for named in model.parameters() {
        let gradient = named.tensor.grad();
        let norm = gradient.norm().double_value(&[]);
        let expected = floats(&gradients[&named.name]);
        // Rounding in a whole pass is relative to what flows through it, so a vanishing gradient (of an offset before
        // batch normalisation, say) is compared on the scale of the others.
        let scale = 1e-2 * largest;
        close(&format!("gradient norm of {}", named.name), &[norm], &expected[..1], scale);
        let scale = norm.max(scale) / (named.tensor.numel() as f64).sqrt();
        close(&format!("gradient of {}", named.name), &numbers(&gradient, expected.len() - 1), &expected[1..], scale);
    }
    let buffers = golden["buffers"].as_object().unwrap();
    for named in model.tensors().iter().filter(|t| buffers.contains_key(&t.name)) {
        close(&named.name, &numbers(&named.tensor, 4), &floats(&buffers[&named.name]), 0.1);
    }
    let moved = model.tensors().iter().filter(|t| t.name.ends_with("num_batches_tracked"));
    assert!(moved.into_iter().all(|t| t.tensor.int64_value(&[]) == 1));
}

fn family(wanted: Family) {
    for &architecture in Architecture::ALL.iter().filter(|a| a.family() == wanted) {
        compare(architecture.name(), architecture);
    }
}

#[test]
fn resnets_are_torchvisions() {
    family(Family::ResNet);
}

/// One test, one after the other: each takes more than a gigabyte.
#[test]
fn vggs_are_torchvisions() {
    family(Family::Vgg);
}

#[test]
fn densenets_are_torchvisions() {
    family(Family::DenseNet);
}

#[test]
fn mobilenets_v3_are_torchvisions() {
    family(Family::MobileNetV3);
}

#[test]
fn efficientnets_are_torchvisions() {
    family(Family::EfficientNet);
}

#[test]
fn convnexts_are_torchvisions() {
    family(Family::ConvNeXt);
}

#[test]
fn vits_are_timms_and_torchvisions() {
    family(Family::Vit);
}

/// What torchvision and timm publish of their weights is what the table and the walk over the layers say.
#[test]
fn parameters_and_costs_are_the_published_ones() {
    for (name, published) in golden("published").as_object().unwrap() {
        let architecture: Architecture = serde_json::from_value(name.as_str().into()).unwrap();
        let facts = facts(architecture, architecture.input_size()).unwrap();
        let width = architecture.feature_width();
        assert_eq!(facts.parameters + 1000 * (width + 1), published["parameters"].as_u64().unwrap() as usize, "{name}");
        // SqueezeNet's published classifier works at each of 13 × 13 positions.
        let positions = if architecture.family() == Family::SqueezeNet { 169 } else { 1 };
        let gmacs = (facts.macs + (positions * 1000 * width) as i64) as f64 / 1e9;
        if let Some(expected) = published["gmacs"].as_f64() {
            assert!((gmacs - expected).abs() < 0.01 * expected + 0.0006, "{name}: {gmacs} instead of {expected}");
        }
    }
}

#[test]
fn mobilenets_v1_are_the_reference_s() {
    family(Family::MobileNetV1);
}

#[test]
fn mobilenet_v2_is_torchvisions_and_pads_as_tensorflow_does() {
    compare("mobilenet_v2", Architecture::MobileNetV2);
    compare("mobilenet_v2-same", Architecture::MobileNetV2);
}

#[test]
fn squeezenet_is_torchvisions() {
    family(Family::SqueezeNet);
}

fn data() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("GRAFT_DATA").map_or_else(default, PathBuf::from);
    folder.is_dir().then_some(folder)
}

#[test]
fn published_weights_give_the_reference_s_features() {
    let Some(data) = data() else {
        eprintln!("skipped published_weights_give_the_reference_s_features: no GRAFT_DATA");
        return;
    };
    let sums = std::fs::read_to_string(data.join("weights/SHA256SUMS")).unwrap();
    for (file, golden) in golden("real-weights").as_object().unwrap() {
        let sum = sums.lines().find(|l| l.ends_with(&format!("  {file}.safetensors"))).unwrap();
        let weights = load(&data.join(format!("weights/{file}.safetensors")), sum.split(' ').next()).unwrap();
        assert!(weights.metadata.contains_key("source"));
        let architecture: Architecture = serde_json::from_value(golden["architecture"].clone()).unwrap();
        let classes = golden["classes"].as_i64().unwrap();
        let mut model = build(architecture, if classes > 0 { classes } else { 2 }, padding(golden), Device::Cpu, 1).unwrap();
        let report = apply(&mut model, &weights, HeadPolicy::KeepIfItFits).unwrap();
        assert!(report.unexpected.is_empty() && report.dropped_head.is_empty(), "{file}: {report:?}");
        let x = images(2, 128, 0.5);
        no_grad(|| {
            let features = model.features(&x, Mode::Evaluate).unwrap();
            let norm = features.to_kind(Kind::Double).norm().double_value(&[]);
            assert_close(&format!("{file} feature norm"), &[norm], &[golden["feature_norm"].as_f64().unwrap()], 0.0);
            for (i, row) in golden["features"].as_array().unwrap().iter().enumerate() {
                assert_close(&format!("{file} features {i}"), &numbers(&features.get(i as i64), 64), &floats(row), 0.0);
            }
            if classes > 0 {
                let logits = model.forward(&x, Mode::Evaluate).unwrap();
                for (i, row) in golden["logits"].as_array().unwrap().iter().enumerate() {
                    assert_close(&format!("{file} logits {i}"), &numbers(&logits.get(i as i64), 32), &floats(row), 0.0);
                }
                assert_eq!(
                    Vec::<i64>::try_from(logits.argmax(1, false)).unwrap(),
                    floats(&golden["argmax"]).iter().map(|v| *v as i64).collect::<Vec<_>>()
                );
            }
        });
        // The same weights under a head of another size.
        let mut model = build(architecture, 3, padding(golden), Device::Cpu, 1).unwrap();
        let report = apply(&mut model, &weights, HeadPolicy::KeepIfItFits).unwrap();
        assert_eq!(report.dropped_head.len(), if classes > 0 { 2 } else { 0 }, "{file}: {report:?}");
        assert_eq!(model.head_form(), HeadForm::Pooled);
    }
}
