//! Everything that can be wrong is found here, before the first training step: labels and splits first, then weights and
//! layer names, then every image is decoded once, each rank its share, and the doctor judges what was seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use graft_crds::contract::ExitReason;
use graft_crds::spec::{BadInput, Data};
use graft_data::decoded::Decoded;
use graft_data::doctor::{self, Fingerprint, Report};
use graft_data::{Dataset, DecodeCache, Geometry, Loader, Reading, Reason, Split, data_digest};
use graft_torch::tch::{Device, Kind, Tensor};
use graft_trainer_core::sampler;

use super::checkpoint::to_json;
use super::fine_tune::sum;
use super::inputs::Unit;
use super::{Normaliser, Rank, Recipe, inputs, say};
use crate::event::{Event, Failure};
use crate::weights::{self, HeadPolicy};
use crate::{decoded, models, output, remote};

/// Bytes of decoded images that each rank keeps in memory, of those that are not kept on the disk.
const CACHE: usize = 1 << 30;

pub(super) fn prepare(rank: &mut Rank) -> Result<Recipe, Failure> {
    rank.report();
    let backbone = rank.config.backbone.clone();
    let seed = rank.config.fine_tune.as_ref().map_or(0, |f| u64::try_from(f.seed).unwrap_or(0));
    let normaliser = Normaliser::resolve(&backbone)?;
    let geometry = Geometry::resolve(backbone.architecture, backbone.preprocessing.as_ref())?;
    let reading = Reading::of(&rank.config.data);
    let kept = decoded::open(&rank.output.join(".graft/decoded"), &rank.config.data, geometry, &reading);
    rank.config.data = local_data(rank)?;
    let mut dataset = Dataset::load(&rank.config.data, &rank.config.task, seed)?;
    dataset.check_world(rank.world)?;

    let (source, folder) = (&backbone.weights, rank.output.join(".graft/weights"));
    let path = weights::locate(&source.uri, source.sha256.as_deref(), &folder, |line| rank.log(line))?;
    let weights = weights::load(&path, source.sha256.as_deref())?;
    let padding = inputs::padding(&backbone);
    let mut model = models::build(backbone.architecture, dataset.classes.len() as i64, padding, rank.device, seed)?;
    let report = weights::apply(&mut model, &weights, HeadPolicy::Drop)?;
    if inputs::channels_last(backbone.architecture) {
        model.set_channels_last()?;
    }
    rank.log(format!(
        "{}: {} tensors loaded from {}; fresh head for {} outputs, left out: {}; not in the model: {}; not in the file: {}; made to fit: {}",
        backbone.architecture.name(),
        report.loaded,
        path.display(),
        dataset.classes.len(),
        list(&report.dropped_head),
        list(&report.unexpected),
        list(&report.missing),
        list(&report.adapted),
    ));
    let unfreeze = rank.config.fine_tune.as_ref().map_or_else(Vec::new, |f| f.unfreeze.clone());
    let summary = model.set_trainable(&unfreeze)?;
    rank.log(format!("{} numbers are trained ({}), {} stay frozen", summary.trained, list(&summary.groups), summary.frozen));

    let threads = rank.config.gang.threads as usize;
    let disk = kept.as_ref().ok().cloned().flatten();
    let cache = || DecodeCache::new(CACHE).before(disk.clone());
    let open = |dataset: &Dataset| Loader::new(dataset.samples.clone(), geometry, reading.clone(), threads, cache());
    let mut loader = open(&dataset);
    let prints = check_images(rank, &dataset, &loader)?;
    tell_kept(rank, &loader, &kept)?;
    let Judged { report, sheet, repeats } = examine(rank, &dataset, &prints, &reading)?;
    let bad: BTreeSet<usize> = prints.iter().enumerate().filter(|(_, print)| print.is_none()).map(|(index, _)| index).collect();
    if !bad.is_empty() {
        tell_skipped(rank, &dataset, &loader, &bad);
    }
    let gone: BTreeSet<usize> = bad.union(&repeats).copied().collect();
    if !gone.is_empty() {
        dataset.without(&bad, Reason::UndecodableInput)?;
        dataset = dataset.without(&gone, Reason::PictureInTwoSplits)?;
        dataset.check_world(rank.world)?;
        loader = open(&dataset);
    }
    let prints: Vec<Fingerprint> = prints.into_iter().enumerate().filter(|(index, _)| !gone.contains(index)).filter_map(|(_, print)| print).collect();
    let lost = || Failure::new(ExitReason::Bug, "FingerprintsLost", format!("{} fingerprints for {} images", prints.len(), dataset.samples.len()));
    let data_digest = data_digest(&dataset, &prints).ok_or_else(lost)?;
    loader.settle(&prints);
    let counts: Vec<String> = Split::ALL.iter().map(|s| format!("{} {}", dataset.range(*s).len(), s.name())).collect();
    rank.log(format!("{} images in {} classes; all decode; data digest {data_digest}", counts.join(", "), dataset.classes.len()));
    let unit = Unit::of(&dataset);
    Ok(Recipe { model, dataset, loader, report, sheet, geometry, normaliser, padding, unit, weights_digest: weights.digest, data_digest, seed })
}

/// The job's data; what lies in an object store is fetched into the output first.
fn local_data(rank: &Rank) -> Result<Data, Failure> {
    let data = &rank.config.data;
    if !remote::is_remote(data) {
        return Ok(data.clone());
    }
    // A number of rank 0's, by which all ranks know the copy that one of them makes.
    let number = getrandom::u64().unwrap_or_else(|_| std::process::id().into()).cast_signed();
    let numbers = rank.gather(&Tensor::from_slice(&[number]).f_to_device(rank.device)?, rank.world)?;
    let attempt = format!("{:016x}", numbers.f_int64_value(&[0])?);
    remote::local(data, &rank.output.join(".graft/data"), &attempt, |message| say(&Event::Log { message }))
}

/// What the doctor says; the report and its contact sheet are rank 0's.
struct Judged {
    report: Option<Report>,
    sheet: Option<Vec<u8>>,
    /// Images that are left out, on all ranks.
    repeats: BTreeSet<usize>,
}

/// The doctor judges all images, on rank 0 alone. What it refuses, all ranks refuse in its words, and leave out what it leaves out.
fn examine(rank: &mut Rank, dataset: &Dataset, prints: &[Option<Fingerprint>], reading: &Reading) -> Result<Judged, Failure> {
    let (mut obeyed, mut report, mut sheet) = (Ok(BTreeSet::new()), None, None);
    if rank.rank == 0 {
        let threads = rank.config.gang.threads as usize;
        let mut judged = doctor::judge(dataset, prints, threads);
        obeyed = judged.obey(dataset, rank.config.data.duplicates).map_err(Failure::from);
        rank.log(judged.line());
        rank.found(judged.findings());
        sheet = doctor::sheet(&judged, dataset, reading, threads);
        if let Err(failure) = &mut obeyed {
            // No model will come, beside which the sheet would lie.
            output::write_sheet(&rank.output, sheet.as_deref())?;
            failure.message.push_str(&sheet.as_ref().map_or_else(String::new, |_| format!("; {} in the output shows them", output::SHEET)));
        }
        report = Some(judged);
    }
    let said: Result<BTreeSet<usize>, (String, String)> = obeyed.map_err(|failure| (failure.reason, failure.message));
    let bug = |error: serde_json::Error| Failure::new(ExitReason::Bug, "NoVerdict", error.to_string());
    let said: Result<BTreeSet<usize>, (String, String)> = serde_json::from_slice(&of_rank_0(rank, to_json(&said)?)?).map_err(bug)?;
    let repeats = said.map_err(|(reason, message)| Failure::new(ExitReason::DataError, &reason, message))?;
    Ok(Judged { report, sheet, repeats })
}

/// Rank 0's bytes, on all ranks.
fn of_rank_0(rank: &Rank, mut own: Vec<u8>) -> Result<Vec<u8>, Failure> {
    own.resize(sum(rank, if rank.rank == 0 { own.len() as f64 } else { 0.0 })? as usize, 0);
    let bytes = Tensor::from_slice(&own).f_to_device(rank.device)?;
    rank.group.broadcast_coalesced(&[bytes.shallow_clone()], 0)?;
    Ok(Vec::<u8>::try_from(bytes.f_to_device(Device::Cpu)?)?)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Look at every image once, each rank its share; gives the fingerprints of all, none for those that are left out. Unless they
/// may be, and if any rank finds a bad one, all look at everything, so that the error names every bad file.
fn check_images(rank: &Rank, dataset: &Dataset, loader: &Loader) -> Result<Vec<Option<Fingerprint>>, Failure> {
    let n = dataset.samples.len();
    let first = rank.rank == 0;
    let news = |message: String| {
        if first {
            say(&Event::Log { message: format!("this rank's share: {message}") });
        }
    };
    let mine = loader.examine(sampler::shard(n, rank.rank, rank.world), news);
    if rank.config.data.on_bad_input == BadInput::Stop {
        let sound = if mine.iter().all(Result::is_ok) { Ok(()) } else { Err(()) };
        if rank.any(sound)? {
            loader.check(0..n)?;
        }
    }
    // A fingerprint and whether there is one.
    const ROW: usize = Fingerprint::BYTES + 1;
    let row = |print: &Result<Fingerprint, String>| print.as_ref().map_or_else(|_| vec![0; ROW], |print| [&[1], &print.to_bytes()[..]].concat());
    let mine: Vec<u8> = mine.iter().flat_map(row).collect();
    let local = Tensor::f_from_data_size(&mine, &[(mine.len() / ROW) as i64, ROW as i64], Kind::Uint8)?.f_to_device(rank.device)?;
    let all = rank.gather(&local, n)?.f_flatten(0, 1)?;
    let bytes = Vec::<u8>::try_from(all.f_to_device(Device::Cpu)?)?;
    Ok(bytes.chunks_exact(ROW).map(|row| (row[0] == 1).then(|| Fingerprint::from_bytes(&row[1..])).flatten()).collect())
}

/// Say what was decoded already, and what cannot be kept.
fn tell_kept(rank: &Rank, loader: &Loader, kept: &Result<Option<Arc<Decoded>>, String>) -> Result<(), Failure> {
    let found = sum(rank, loader.found() as f64)?;
    let trouble = kept.as_ref().err().cloned().or_else(|| loader.trouble());
    if let Ok(Some(disk)) = kept {
        rank.log(format!("{found} of {} images were decoded already; decoded images lie in {}", loader.samples().len(), disk.folder().display()));
    }
    if rank.any(trouble.as_ref().map_or(Ok(()), |_| Err(())))? {
        rank.log(decoded::without(trouble.as_deref().unwrap_or("another rank cannot write them")));
    }
    Ok(())
}

/// Name what is left out, and why.
fn tell_skipped(rank: &Rank, dataset: &Dataset, loader: &Loader, bad: &BTreeSet<usize>) {
    if rank.rank > 0 {
        return;
    }
    for &index in bad {
        let why = loader.examine(index..index + 1, |_| ()).pop().and_then(Result::err).unwrap_or_default();
        rank.log(format!("left out: {}: {why}", dataset.samples[index].shown()));
    }
}
