//! A PyTorch state dict as `torch.save` writes it since 1.6: a zip archive with a pickle and one entry for each storage.
//! Offsets, strides and lengths are checked against the storages before anything of their size is allocated.

use super::pickle::{self, Element, Parsed, TensorRecord, Value};
use super::tensor;
use graft_torch::tch::{Kind, Tensor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use zip::ZipArchive;

const MAX_ENTRIES: usize = 100_000;
/// Numbers in all tensors for each byte of the file: tied weights may be read twice, not a thousand times.
const MAX_SHARING: usize = 4;

/// Under what training scripts keep the state dict among other things.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "model_state_dict"];

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("a zip archive that is damaged or cut short ({e}); fetch it again"))?;
    if archive.len() > MAX_ENTRIES {
        return Err(format!("an archive of {} entries, more than the {MAX_ENTRIES} of any state dict", archive.len()));
    }
    let root = root(&archive)?;
    let order = format!("{root}byteorder");
    if archive.index_for_name(&order).is_some() && entry(&mut archive, &order, bytes.len())? != b"little" {
        return Err("its numbers are big-endian, which is not read".into());
    }
    let program = entry(&mut archive, &format!("{root}data.pkl"), bytes.len())?;
    let state = pickle::parse(&program)?;
    tensors(&state, bytes.len(), |key| entry(&mut archive, &format!("{root}data/{key}"), bytes.len()).map(Cow::Owned))
}

/// The tensors of a state dict; `storage` gives the bytes of one by its key. `file_size` bounds what may be made of them.
pub(super) fn tensors<'a>(
    state: &Parsed,
    file_size: usize,
    mut storage: impl FnMut(&str) -> Result<Cow<'a, [u8]>, String>,
) -> Result<BTreeMap<String, Tensor>, String> {
    let mut storages = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    let mut total = 0usize;
    for (name, record) in state_dict(state)? {
        let key = record.key.to_string();
        if !storages.contains_key(&key) {
            storages.insert(key.clone(), storage(&key)?);
        }
        total = total.saturating_add(span(&record).map_or(0, |s| s.len()));
        if total > MAX_SHARING.saturating_mul(file_size) {
            return Err("its tensors overlap many times over; refused".into());
        }
        let built = storages.get(&key).ok_or_else(|| "its storage is gone".to_owned()).and_then(|data| build(&record, data));
        let built = built.map_err(|e| format!("tensor {name}: {e}"))?;
        if tensors.insert(name.clone(), built).is_some() {
            return Err(format!("tensor {name} is there twice"));
        }
    }
    Ok(tensors)
}

/// The folder inside the archive that everything lies in, with its slash.
fn root(archive: &Archive<'_>) -> Result<String, String> {
    let mut roots = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(|e| format!("an entry's name cannot be read: {e}"))?;
        if let Some(root) = name.strip_suffix("data.pkl") {
            roots.push(root.to_owned());
        }
    }
    match roots.as_slice() {
        [root] => Ok(root.clone()),
        [] => Err("a zip archive without data.pkl: not a file that torch.save wrote".into()),
        _ => Err("a zip archive with more than one data.pkl; refused".into()),
    }
}

/// An entry's bytes. torch.save compresses nothing, so an entry cannot be larger than the file.
fn entry(archive: &mut Archive<'_>, name: &str, file_size: usize) -> Result<Vec<u8>, String> {
    let mut entry = archive.by_name(name).map_err(|e| format!("entry {name}: {e}"))?;
    let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
    if size > file_size {
        return Err(format!("entry {name} says it has {size} bytes, more than the whole file; refused"));
    }
    let mut bytes = Vec::with_capacity(size);
    let limit = entry.size();
    (&mut entry).take(limit).read_to_end(&mut bytes).map_err(|e| format!("entry {name}: {e}"))?;
    if bytes.len() != size {
        return Err(format!("entry {name} has {} bytes of {size}", bytes.len()));
    }
    Ok(bytes)
}

/// The names and records in a state dict, out of the wrappers that training scripts put around one.
fn state_dict(state: &Parsed) -> Result<Vec<(String, TensorRecord)>, String> {
    let Value::Dict(outer) = state.value else {
        return Err("its content is not a dict; save the model's state_dict()".into());
    };
    let wrapped = state.entries(outer).find_map(|(key, value)| match (key, value) {
        (Value::Text(k), Value::Dict(inner)) if WRAPPERS.contains(&k.as_ref()) => Some(*inner),
        _ => None,
    });
    let mut found = Vec::new();
    for (key, value) in state.entries(wrapped.unwrap_or(outer)) {
        match (key, value) {
            (Value::Text(name), Value::Tensor(record)) => found.push((name.to_string(), record.as_ref().clone())),
            (Value::Text(name), _) => {
                return Err(format!("entry {name:?} is not a tensor; save the model's state_dict() alone"));
            }
            _ => return Err("a key of its dict is not a string".into()),
        }
    }
    if found.is_empty() {
        return Err("it holds no tensors".into());
    }
    // What torch's DataParallel and DistributedDataParallel put before each name.
    if found.iter().all(|(name, _)| name.starts_with("module.")) {
        for (name, _) in &mut found {
            name.drain(.."module.".len());
        }
    }
    Ok(found)
}

fn build(record: &TensorRecord, storage: &[u8]) -> Result<Tensor, String> {
    let kind = kind(record.element);
    let width = kind.elt_size_in_bytes();
    let length = usize::try_from(record.length).ok().filter(|l| l.checked_mul(width) == Some(storage.len()));
    let length = length.ok_or_else(|| format!("its storage says {} numbers of {width} bytes, but has {} bytes", record.length, storage.len()))?;
    let span = span(record).filter(|span| span.end <= length).ok_or_else(|| {
        format!("shape {:?}, strides {:?} and offset {} do not fit its storage of {length} numbers", record.shape, record.strides, record.offset)
    })?;
    let numbers = i64::try_from(span.len()).map_err(|e| e.to_string())?;
    let flat = tensor(&storage[span.start * width..span.end * width], &[numbers], kind)?;
    let strided = flat.f_as_strided(&record.shape, &record.strides, 0).and_then(|t| t.f_contiguous());
    strided.map_err(|e| graft_torch::Error::from_tch("lay out the numbers", &e).to_string())
}

/// The numbers of the storage from the first to the last that a tensor reads, or none if the record makes no sense:
/// negative numbers, overflow, or a tensor of more numbers than that, as an expanded one is.
fn span(record: &TensorRecord) -> Option<Range<usize>> {
    if record.shape.len() != record.strides.len() {
        return None;
    }
    if record.shape.iter().chain(&record.strides).any(|&n| n < 0) {
        return None;
    }
    let start = usize::try_from(record.offset).ok()?;
    let numbers = record.shape.iter().try_fold(1i64, |n, &d| n.checked_mul(d))?;
    if numbers == 0 {
        return Some(start..start);
    }
    let length = record
        .shape
        .iter()
        .zip(&record.strides)
        .try_fold(1i64, |length, (&size, &stride)| (size - 1).checked_mul(stride).and_then(|step| length.checked_add(step)))?;
    if numbers > length {
        return None;
    }
    Some(start..start.checked_add(usize::try_from(length).ok()?)?)
}

pub(super) fn kind(element: Element) -> Kind {
    match element {
        Element::F16 => Kind::Half,
        Element::BF16 => Kind::BFloat16,
        Element::F32 => Kind::Float,
        Element::F64 => Kind::Double,
        Element::I64 => Kind::Int64,
        Element::I32 => Kind::Int,
        Element::U8 => Kind::Uint8,
        Element::Bool => Kind::Bool,
    }
}
