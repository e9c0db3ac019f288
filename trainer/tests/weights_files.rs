//! Weights files: what torch.save writes must be read to the last number, and what is damaged, crafted or meant for
//! another model must be refused with words that help. `tests/reference/reference.py` made the fixtures.

#![allow(clippy::unwrap_used)]

use graft_crds::Architecture;
use graft_crds::architectures::Padding;
use graft_torch::tch::{Device, Kind, Tensor};
use graft_trainer::models::{HeadForm, Model, build};
use graft_trainer::weights::{HEAD_FORM_KEY, HeadPolicy, Weights, WeightsError, apply, load, save_safetensors};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/fixtures").join(name)
}

fn refusal(name: &str) -> String {
    load(&fixture(name), None).unwrap_err().to_string()
}

#[test]
fn a_state_dict_is_read_to_the_last_number() {
    let weights = load(&fixture("small.pth"), None).unwrap();
    let text = std::fs::read_to_string(fixture("small.json")).unwrap();
    let expected: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(weights.tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in expected {
        let tensor = &weights.tensors[&name];
        assert_eq!(tensor.size(), serde_json::from_value::<Vec<i64>>(expected["shape"].clone()).unwrap(), "{name}");
        let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
        let got: Vec<f64> = Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view([-1])).unwrap();
        // The JSON reader is off by a last bit of 64; every number here has at most 32.
        let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<_>>();
        assert_eq!(narrow(&got), narrow(&values), "{name}");
        let integer = ["int32", "uint8", "bool", "1.num_batches_tracked"].contains(&name.as_str());
        assert_eq!(tensor.kind(), if integer { Kind::Int64 } else { Kind::Float }, "{name}");
    }
}

#[test]
fn wrappers_and_prefixes_are_taken_off() {
    let names: Vec<String> = load(&fixture("wrapped.pth"), None).unwrap().tensors.into_keys().collect();
    assert!(names.contains(&"0.weight".to_owned()) && names.contains(&"1.running_var".to_owned()), "{names:?}");
}

#[test]
fn crafted_files_are_refused() {
    let witness = Path::new("/tmp/graft-was-here");
    for (name, part) in [
        ("system.pth", "system"),
        ("whole-model.pth", "not part of a state dict"),
        ("outside.pth", "tensor w: shape [2]"),
        ("expanded.pth", "tensor w: shape"),
        ("negative.pth", "tensor w: shape"),
        ("not-only-tensors.pth", "\"epoch\" is not a tensor"),
        ("list.pth", "not a dict"),
    ] {
        let text = refusal(name);
        assert!(text.contains(part) && text.contains(name), "{name}: {text}");
    }
    assert!(!witness.exists());
}

#[test]
fn the_format_before_1_6_is_read_too() {
    let (legacy, wrapped) = (load(&fixture("legacy.pth"), None).unwrap(), load(&fixture("wrapped.pth"), None).unwrap());
    assert!(legacy.tensors.keys().eq(wrapped.tensors.keys()));
    assert!(legacy.tensors.iter().all(|(name, tensor)| tensor.equal(&wrapped.tensors[name])));
}

/// The files that mutations start from.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.safetensors");
    let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
    save_safetensors(&path, [("a.weight", &tensor)], &BTreeMap::from([("k".to_owned(), "v".to_owned())])).unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    vec![("zip", read(&fixture("small.pth"))), ("legacy", read(&fixture("legacy.pth"))), ("safetensors", read(&path))]
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    for (name, whole) in seeds() {
        for end in (0..whole.len()).step_by(whole.len() / 97) {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(matches!(load(&path, None), Err(WeightsError::Format { .. })), "{name} cut at {end}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Bytes exchanged, cut out, doubled: tensors or an error, never a crash, and never more numbers than four times the file.
    #[test]
    fn a_mutated_file_never_panics(
        seed in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>(), 1usize..40), 1..6),
    ) {
        let (_, mut bytes) = seeds().swap_remove(seed);
        for (index, kind, value, length) in changes {
            let at = index.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => drop(bytes.drain(at..end)),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
            prop_assume!(!bytes.is_empty());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutated");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(weights) = load(&path, None) {
            let numbers: usize = weights.tensors.values().map(Tensor::numel).sum();
            prop_assert!(numbers <= 4 * bytes.len());
        }
    }
}

#[test]
fn digests_are_checked_and_both_are_shown() {
    let found = load(&fixture("small.pth"), None).unwrap().digest;
    assert!(load(&fixture("small.pth"), Some(&found.to_uppercase())).is_ok());
    let wrong = "0".repeat(64);
    let text = load(&fixture("small.pth"), Some(&wrong)).unwrap_err().to_string();
    assert!(text.contains(&found) && text.contains(&wrong), "{text}");
    let absent = load(&fixture("absent.pth"), None).unwrap_err();
    assert!(matches!(absent, WeightsError::Io { .. }) && absent.to_string().contains("absent.pth"), "{absent}");
}

fn model(classes: i64) -> Model {
    build(Architecture::SqueezeNet11, classes, Padding::Symmetric, Device::Cpu, classes as u64).unwrap()
}

fn save(path: &Path, model: &Model, metadata: &BTreeMap<String, String>) {
    save_safetensors(path, model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor)), metadata).unwrap();
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "an older file").unwrap();
    let written = model(4);
    let metadata = BTreeMap::from([(HEAD_FORM_KEY.to_owned(), HeadForm::Pooled.name().to_owned())]);
    save(&path, &written, &metadata);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    let weights = load(&path, None).unwrap();
    assert_eq!(weights.metadata, metadata);
    let mut read = build(Architecture::SqueezeNet11, 4, Padding::Symmetric, Device::Cpu, 99).unwrap();
    let report = apply(&mut read, &weights, HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!(report.loaded, written.tensors().len());
    assert!(written.tensors().iter().zip(read.tensors()).all(|(a, b)| a.name == b.name && a.tensor.equal(&b.tensor)));
    assert_eq!(read.head_form(), HeadForm::Pooled);
    // The same file without the note is a published one.
    save(&path, &written, &BTreeMap::new());
    apply(&mut read, &load(&path, None).unwrap(), HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!(read.head_form(), HeadForm::PerPosition);
    // A file cut short, and one that never was.
    let whole = std::fs::read(&path).unwrap();
    for end in [0, 4, 8, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(load(&path, None), Err(WeightsError::Format { .. })), "cut at {end}");
    }
    let nowhere = folder.path().join("no/such/folder/model.safetensors");
    assert!(save_safetensors(&nowhere, [], &BTreeMap::new()).is_err());
}

fn weights_of(model: &Model) -> Weights {
    let tensors = model.tensors().iter().map(|t| (t.name.clone(), t.tensor.detach().copy())).collect();
    Weights { tensors, digest: String::new(), metadata: BTreeMap::new() }
}

#[test]
fn a_head_of_another_size_or_unwanted_stays_fresh() {
    let weights = weights_of(&model(7));
    for (mut target, policy) in [(model(3), HeadPolicy::KeepIfItFits), (model(7), HeadPolicy::Drop)] {
        let fresh: Vec<Tensor> = target.tensors().iter().map(|t| t.tensor.copy()).collect();
        target.parameters().for_each(|t| drop(t.tensor.set_requires_grad(true)));
        let report = apply(&mut target, &weights, policy).unwrap();
        assert_eq!(report.dropped_head, ["classifier.1.weight [7, 512, 1, 1]", "classifier.1.bias [7]"]);
        for (named, fresh) in target.tensors().iter().zip(&fresh) {
            let expected = if target.is_head(&named.name) { fresh } else { &weights.tensors[&named.name] };
            assert!(named.tensor.equal(expected), "{}", named.name);
        }
    }
}

#[test]
fn a_misfit_names_tensors_and_changes_nothing() {
    let mut weights = weights_of(&model(7));
    let mut target = model(3);
    let before = weights_of(&target);
    weights.tensors.remove("features.0.bias");
    weights.tensors.insert("features.3.squeeze.bias".into(), Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    weights.tensors.insert("extra".into(), Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    let text = apply(&mut target, &weights, HeadPolicy::KeepIfItFits).unwrap_err().to_string();
    for part in ["squeezenet1_1: features.0.bias is missing;", "features.3.squeeze.bias is [2] instead of [16]", "extra is not of this"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(target.tensors().iter().all(|t| t.tensor.equal(&before.tensors[&t.name])));
    let nothing = Weights { tensors: BTreeMap::new(), ..weights };
    let text = apply(&mut target, &nothing, HeadPolicy::KeepIfItFits).unwrap_err().to_string();
    assert!(text.ends_with("and 40 more"), "{text}");
}

#[test]
fn weights_of_another_architecture_are_recognised() {
    let mut target = build(Architecture::MobileNetV1x025, 2, Padding::Same, Device::Cpu, 1).unwrap();
    let text = apply(&mut target, &weights_of(&model(7)), HeadPolicy::Drop).unwrap_err().to_string();
    assert!(text.contains("00.conv.weight is missing") && text.matches(';').count() == 9, "{text}");
    assert!(text.ends_with("They are those of squeezenet1_1: name that in spec.backbone.architecture"), "{text}");
}

#[test]
fn a_checkpoint_of_one_channel_is_repeated_and_says_so() {
    let mut weights = weights_of(&model(3));
    let colour = &weights.tensors["features.0.weight"];
    let grey = colour.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    weights.tensors.insert("features.0.weight".into(), grey.shallow_clone());
    let mut target = model(3);
    let report = apply(&mut target, &weights, HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!(report.adapted, ["features.0.weight: 1 input channels repeated to 3, scaled by 1/3"]);
    let loaded = &target.tensors()[0].tensor;
    assert!(loaded.sum_dim_intlist([1i64].as_slice(), true, Kind::Float).allclose(&grey, 1e-5, 1e-6, false));
}

#[test]
fn weights_in_several_files_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors = weights_of(&model(2)).tensors;
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second): (Vec<_>, Vec<_>) = tensors.iter().map(|(name, t)| (name.as_str(), t)).partition(|(name, _)| name.starts_with("features.1"));
    save_safetensors(&at(names[0]), first.iter().copied(), &BTreeMap::new()).unwrap();
    save_safetensors(&at(names[1]), second.iter().copied(), &BTreeMap::new()).unwrap();
    let mut map: BTreeMap<&str, &str> = first.iter().map(|(name, _)| (*name, names[0])).collect();
    map.extend(second.iter().map(|(name, _)| (*name, names[1])));
    let index = at("model.safetensors.index.json");
    let write = |map: &BTreeMap<&str, &str>| std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    write(&map);
    let weights = load(&index, None).unwrap();
    assert!(weights.tensors.keys().eq(tensors.keys()) && tensors.iter().all(|(name, t)| t.equal(&weights.tensors[name])));
    assert!(load(&index, Some(&weights.digest)).is_ok());
    let tool = std::process::Command::new("sh").current_dir(folder.path()).args(["-c", "LC_ALL=C; sha256sum * | sha256sum"]).output().unwrap();
    assert!(String::from_utf8(tool.stdout).unwrap().starts_with(&weights.digest));
    for (tensor, file, part) in
        [("features.0.bias", names[0], "it does not"), ("features.0.bias", "../x.safetensors", "refused"), ("nothing", names[1], "nothing lies in")]
    {
        let mut wrong = map.clone();
        wrong.insert(tensor, file);
        write(&wrong);
        let text = load(&index, None).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    write(&map);
    std::fs::remove_file(at(names[1])).unwrap();
    assert!(load(&index, None).unwrap_err().to_string().contains(names[1]));
    std::fs::write(&index, "{}").unwrap();
    assert!(load(&index, None).unwrap_err().to_string().contains("no index"));
}
