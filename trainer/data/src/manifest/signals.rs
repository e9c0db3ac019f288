//! Recordings of one-dimensional signals, such as ECG or vibration: each window of one becomes the picture of its spectrogram, which a
//! network that was trained on images takes.

use std::fs;
use std::io::Read;
use std::path::Path;

use image::{GrayImage, RgbImage};

use super::arrays::Array;
use super::rows::{Row, Rows};
use super::{Options, Written, refused, unwritable, vacant};
use crate::decode::Limits;
use crate::error::{DataError, Finding, Reason};
use crate::inspect::{LABEL, PATIENT, column, read_table};
use crate::spectrogram::Spectrogram;

/// Files that hold a recording.
const EXTENSIONS: [&str; 4] = ["npy", "npz", "csv", "txt"];
/// Channels of a picture: each is one of the signal's.
const CHANNELS: usize = 3;

/// The columns of a table of recordings: the file, the label, the patient, the split.
pub(crate) struct Columns {
    pub(crate) file: usize,
    pub(crate) label: usize,
    pub(crate) patient: Option<usize>,
    split: Option<usize>,
}

/// Those of a table whose rows name recordings.
pub(crate) fn columns(header: &[String], rows: &[csv::StringRecord]) -> Option<Columns> {
    let column = |names: &[&str]| column(header, names);
    let file = column(&["signal", "recording", "waveform", "record", "file", "filename", "path"])?;
    let recording = |row: &csv::StringRecord| row.get(file).is_some_and(|name| EXTENSIONS.iter().any(|e| extension(name).eq_ignore_ascii_case(e)));
    let label = column(&LABEL)?;
    let patient = column(&PATIENT);
    (!rows.is_empty() && rows.iter().all(recording)).then(|| Columns { file, label, patient, split: column(&["split", "set", "partition"]) })
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Writes the spectrograms of all windows of the recordings that the table names, and a manifest with the table's other columns. A recording is a
/// patient where no column names one, so that its windows stay in one split.
pub(super) fn signals(root: &Path, table: &Path, options: &Options) -> Result<Written, DataError> {
    let (header, entries) = read_table(table)?;
    let Some(columns) = columns(&header, &entries) else {
        return Err(refused(Reason::ColumnNotFound, format!("{}: its rows name no recordings", table.display()), "name a table of recordings"));
    };
    let out = options.out.clone().unwrap_or_else(|| root.join("spectrograms"));
    vacant(&out)?;
    let known = [Some(columns.file), Some(columns.label), columns.patient, columns.split];
    let others: Vec<usize> = (0..header.len()).filter(|index| !known.contains(&Some(*index))).collect();
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    let spectrogram = Spectrogram::new(options.window);
    for (number, entry) in entries.iter().enumerate() {
        let at = |index: usize| entry.get(index).unwrap_or_default().trim().to_owned();
        let name = at(columns.file);
        if !crate::source::inside(root, &name) {
            bad.push(format!("{}:{}: leads out of the table's folder", table.display(), number + 2));
            continue;
        }
        let windows = match read(&root.join(&name)).and_then(|signal| pictures(&signal, &spectrogram)) {
            Ok(windows) => windows,
            Err(why) => {
                bad.push(format!("{}:{}: {why}", table.display(), number + 2));
                continue;
            }
        };
        let stem = name.strip_suffix(extension(&name)).unwrap_or(&name).trim_end_matches('.').to_owned();
        for (index, picture) in windows.into_iter().enumerate() {
            let image = format!("{stem}/{index:04}.png");
            save(&out.join(&image), picture).map_err(|error| unwritable(&out.join(&image), error))?;
            rows.push(Row {
                image,
                patient: columns.patient.map_or_else(|| stem.clone(), at),
                labels: vec![at(columns.label)],
                split: columns.split.map(at),
                more: others.iter().map(|index| at(*index)).collect(),
            });
        }
    }
    if !bad.is_empty() {
        let what = format!("{} recordings cannot be used", bad.len());
        return Err(DataError::one(Finding::new(Reason::UndecodableInput, what, bad, "replace the files or remove their rows")));
    }
    let who = if columns.patient.is_some() { "" } else { "; no column names the patient, so each recording is one" };
    let notes = vec![format!("{} windows of {} samples, without overlap, from {} recordings{who}", rows.len(), options.window, entries.len())];
    Rows { findings: vec![], more: others.iter().map(|index| header[*index].as_str()).collect(), rows, notes }.write(&out, options)
}

/// A recording: its channels, of equal length.
type Signal = Vec<Vec<f32>>;

/// A picture of rows, columns, and one or three channels.
type Picture = (u32, u32, Vec<Vec<u8>>);

fn save(path: &Path, (height, width, channels): Picture) -> Result<(), String> {
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(|error| error.to_string())?;
    let saved = match &channels[..] {
        [grey] => GrayImage::from_raw(width, height, grey.clone()).map(|image| image.save(path)),
        [red, green, blue] => {
            let pixels = red.iter().zip(green).zip(blue).flat_map(|((red, green), blue)| [*red, *green, *blue]).collect();
            RgbImage::from_raw(width, height, pixels).map(|image| image.save(path))
        }
        _ => None,
    };
    saved.ok_or("no picture of one or three channels")?.map_err(|error| error.to_string())
}

fn pictures(signal: &Signal, spectrogram: &Spectrogram) -> Result<Vec<Picture>, String> {
    let (window, length) = (spectrogram.window(), signal[0].len());
    if length < window {
        return Err(format!("holds {length} samples, fewer than one window of {window}: see --window"));
    }
    let (height, width) = spectrogram.size();
    let window_at = |start: usize| signal.iter().map(|channel| spectrogram.of(&channel[start..start + window])).collect();
    Ok((0..length / window).map(|index| (height as u32, width as u32, window_at(index * window))).collect())
}

/// Reads a recording: NumPy's array `[L]`, `[L, C]` or `[C, L]` of one or three channels, alone in its archive or called `signal`; or a CSV
/// file with a column for each channel, perhaps below a header.
fn read(path: &Path) -> Result<Signal, String> {
    let limit = Limits::default().file;
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > limit {
        return Err(format!("has {bytes} bytes, more than the limit of {limit}"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let signal = match extension(&path.to_string_lossy()).to_lowercase().as_str() {
        "npy" => array(&bytes)?,
        "npz" => array(&member(&bytes, limit)?)?,
        _ => table(&bytes)?,
    };
    if signal.iter().flatten().any(|sample| !sample.is_finite()) {
        return Err("holds numbers that are not finite: fill the gaps, or cut the recording there".into());
    }
    if ![1, CHANNELS].contains(&signal.len()) {
        return Err(format!("has {} channels, and a picture takes one or three: keep those", signal.len()));
    }
    Ok(signal)
}

fn member(bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|error| format!("is no .npz archive: {error}"))?;
    let names: Vec<String> = archive.file_names().flatten().map(std::borrow::Cow::into_owned).collect();
    let chosen = match &names[..] {
        [only] => only,
        several => {
            several.iter().find(|name| *name == "signal.npy").ok_or_else(|| format!("holds {} arrays, and none is called signal", names.len()))?
        }
    };
    let member = archive.by_name(chosen).map_err(|error| error.to_string())?;
    if member.size() > limit {
        return Err(format!("{chosen} has {} bytes, more than the limit of {limit}", member.size()));
    }
    let mut unpacked = Vec::new();
    member.take(limit).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked)
}

fn array(bytes: &[u8]) -> Result<Signal, String> {
    let Array { shape, numbers } = Array::parse(bytes, super::arrays::real_of)?;
    match shape[..] {
        [length] if length > 0 => Ok(vec![numbers]),
        [channels, length] if channels > 0 && channels <= CHANNELS && channels < length => {
            Ok(numbers.chunks_exact(length).map(<[f32]>::to_vec).collect())
        }
        [length, channels] if length > 0 && channels > 0 => {
            Ok((0..channels).map(|channel| numbers.iter().skip(channel).step_by(channels).copied().collect()).collect())
        }
        ref other => Err(format!("has the shape {other:?}, which is no signal")),
    }
}

fn table(bytes: &[u8]) -> Result<Signal, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(bytes);
    let mut signal: Signal = Vec::new();
    for (number, row) in reader.records().enumerate() {
        let row = row.map_err(|error| error.to_string())?;
        let samples: Result<Vec<f32>, _> = row.iter().map(str::parse).collect();
        match samples {
            Ok(samples) => {
                signal.resize(samples.len(), Vec::new());
                signal.iter_mut().zip(samples).for_each(|(channel, sample)| channel.push(sample));
            }
            Err(_) if number == 0 => {}
            Err(_) => return Err(format!("line {}: {:?} is no row of numbers", number + 1, row.iter().collect::<Vec<_>>().join(","))),
        }
    }
    if signal.is_empty() { Err("holds no numbers".into()) } else { Ok(signal) }
}
