//! `graft validate`: everything that can be known before training. Labels, splits, patients, every image, and whether the
//! weights and the names of unfrozen layers fit the architecture; nothing is written, but decoded images and what comes from the network
//! are kept in the user's cache folder.

use std::collections::BTreeSet;
use std::path::PathBuf;

use graft_crds::TransferJobSpec;
use graft_crds::contract::{ExitReason, TrainerFailure};
use graft_crds::spec::BadInput;
use graft_data::doctor;
use graft_data::{DataError, Dataset, DecodeCache, Geometry, Loader, Reading, Reason, Split};
use graft_torch::tch::Device;
use graft_trainer::decoded;
use graft_trainer::event::Failure;
use graft_trainer::models;
use graft_trainer::rank::padding;
use graft_trainer::remote;
use graft_trainer::weights::{self, HeadPolicy};

/// A failure of the data, with every place of every finding.
pub fn data_failure(error: &DataError) -> TrainerFailure {
    // Here no termination message limits the text: every place of every finding.
    let text = |finding: &graft_data::Finding| {
        let places: Vec<String> = finding.places.iter().map(|p| format!("\n  {p}")).collect();
        format!("{}; {}{}", finding.what, finding.remedy, places.concat())
    };
    let message: Vec<String> = error.findings().iter().map(text).collect();
    TrainerFailure { exit: ExitReason::DataError, reason: error.reason().into(), message: message.join("\n"), rank: None }
}

/// Check data and weights and print what was found.
///
/// # Errors
/// The first group of problems, as the trainer would report it, but with every place.
pub fn run(spec: &TransferJobSpec) -> Result<(), TrainerFailure> {
    let seed = spec.fine_tune.as_ref().map_or(0, |f| u64::from(f.seed.unsigned_abs()));
    let data = remote::local(&spec.data, &cache("data"), "", |line| println!("{line}")).map_err(|failure| failure.of_rank(None))?;
    let dataset = Dataset::load(&data, &spec.task, seed).map_err(|e| data_failure(&e))?;
    let world = usize::try_from(spec.workers.world_size()).unwrap_or(1);
    dataset.check_world(world).map_err(|e| data_failure(&e))?;
    print_counts(&dataset);
    let geometry = Geometry::resolve(spec.backbone.architecture, spec.backbone.preprocessing.as_ref()).map_err(|e| data_failure(&e))?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let loader = loader(spec, &dataset, geometry, threads, |line| println!("{line}"));
    let examined = loader.examine(0..dataset.samples.len(), |news| println!("{news}"));
    loader.trouble().iter().for_each(|why| println!("{}", decoded::without(why)));
    if spec.data.on_bad_input == BadInput::Stop && examined.iter().any(Result::is_err) {
        loader.check(0..dataset.samples.len()).map_err(|e| data_failure(&e))?;
    }
    let bad: BTreeSet<usize> = examined.iter().enumerate().filter(|(_, print)| print.is_err()).map(|(index, _)| index).collect();
    println!("{} images decode", examined.len() - bad.len());
    for (sample, why) in dataset.samples.iter().zip(&examined).filter_map(|(sample, print)| Some((sample, print.as_ref().err()?))) {
        println!("left out: {}: {why}", sample.shown());
    }
    dataset.without(&bad, Reason::UndecodableInput).map_err(|e| data_failure(&e))?;
    let prints: Vec<_> = examined.into_iter().map(Result::ok).collect();
    let mut report = doctor::judge(&dataset, &prints, threads);
    let obeyed = report.obey(&dataset, spec.data.duplicates);
    println!("{}", report.line());
    let gone: BTreeSet<usize> = obeyed.map_err(|e| data_failure(&e))?.union(&bad).copied().collect();
    dataset.without(&gone, Reason::PictureInTwoSplits).map_err(|e| data_failure(&e))?;
    check_weights(spec, dataset.classes.len())
}

/// Reads a job's images, and keeps them decoded in the user's cache folder.
pub fn loader(spec: &TransferJobSpec, dataset: &Dataset, geometry: Geometry, threads: usize, say: impl Fn(String)) -> Loader {
    let reading = Reading::of(&spec.data);
    let disk = decoded::open(&cache("decoded"), &spec.data, geometry, &reading).unwrap_or_else(|why| {
        say(decoded::without(&why));
        None
    });
    Loader::new(dataset.samples.clone(), geometry, reading, threads, DecodeCache::new(0).before(disk))
}

fn print_counts(dataset: &Dataset) {
    let width = dataset.classes.iter().map(String::len).max().unwrap_or(0).max(5);
    println!("{:<width$} {:>10} {:>10} {:>10}", "class", "train", "validation", "test");
    for (index, class) in dataset.classes.iter().enumerate() {
        let counts = Split::ALL.map(|split| dataset.split(split).iter().filter(|s| s.shows(index) == Some(true)).count());
        println!("{class:<width$} {:>10} {:>10} {:>10}", counts[0], counts[1], counts[2]);
    }
    let counts = Split::ALL.map(|split| dataset.split(split).len());
    println!("{:<width$} {:>10} {:>10} {:>10}", "all", counts[0], counts[1], counts[2]);
}

/// Where downloads of a kind stay: the user's cache folder.
pub fn cache(kind: &str) -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache"))).unwrap_or_else(std::env::temp_dir);
    let folder = caches.join("graft").join(kind);
    std::path::absolute(&folder).unwrap_or(folder)
}

fn check_weights(spec: &TransferJobSpec, classes: usize) -> Result<(), TrainerFailure> {
    let (architecture, source) = (spec.backbone.architecture, &spec.backbone.weights);
    let failed = |failure: Failure| failure.of_rank(None);
    let classes = i64::try_from(classes).unwrap_or(i64::MAX);
    let mut model = models::build(architecture, classes, padding(&spec.backbone), Device::Cpu, 0).map_err(|e| failed(e.into()))?;
    let path = weights::locate(&source.uri, source.sha256.as_deref(), &cache("weights"), |line| println!("{line}")).map_err(|e| failed(e.into()))?;
    let loaded = weights::load(&path, source.sha256.as_deref()).map_err(|e| failed(e.into()))?;
    let report = weights::apply(&mut model, &loaded, HeadPolicy::Drop).map_err(|e| failed(e.into()))?;
    println!(
        "{} of the weights' tensors fit {}, {} are left out",
        report.loaded,
        architecture.name(),
        report.unexpected.len() + report.dropped_head.len()
    );
    report.adapted.iter().for_each(|how| println!("made to fit: {how}"));
    if let Some(fine_tune) = &spec.fine_tune {
        let summary = model.set_trainable(&fine_tune.unfreeze).map_err(|e| failed(e.into()))?;
        println!("fine-tuning trains {} of {} numbers: {}", summary.trained, summary.trained + summary.frozen, summary.groups.join(", "));
    }
    Ok(())
}
