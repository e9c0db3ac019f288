//! The safetensors format, read and written. The crate of that name checks header and offsets against the file's size;
//! here kinds become torch's, and a file is written so that it is whole or not there.

use super::{WeightsError, tensor};
use graft_torch::tch::{Device, Kind, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

type Read = (BTreeMap<String, Tensor>, BTreeMap<String, String>);

pub(super) fn read(bytes: &[u8]) -> Result<Read, String> {
    let wrong = |e| format!("not a safetensors file, or a damaged one: {e}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let kind = kind(view.dtype()).ok_or_else(|| format!("tensor {name} has the kind {:?}, which is not read", view.dtype()))?;
        let shape = view.shape().iter().map(|&d| i64::try_from(d)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| format!("tensor {name} has a dimension that is too large"))?;
        tensors.insert(name.to_owned(), tensor(view.data(), &shape, kind).map_err(|e| format!("tensor {name}: {e}"))?);
    }
    Ok((tensors, metadata))
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::I32 => Some(Kind::Int),
        Dtype::I16 => Some(Kind::Int16),
        Dtype::I8 => Some(Kind::Int8),
        Dtype::U8 => Some(Kind::Uint8),
        Dtype::BOOL => Some(Kind::Bool),
        _ => None,
    }
}

/// Writes tensors (32-bit floating point or 64-bit integers, on any device) and metadata as safetensors. The file
/// appears under its name only when it is whole and on disk; one that was there is replaced.
pub fn save_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    let mut data: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors {
        let (dtype, bytes) = bytes_of(tensor).map_err(|e| format(format!("tensor {name}: {e}")))?;
        let shape = tensor.size().into_iter().filter_map(|d| usize::try_from(d).ok()).collect();
        data.push((name, dtype, shape, bytes));
    }
    let mut views = Vec::with_capacity(data.len());
    for (name, dtype, shape, bytes) in &data {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        views.push((*name, view.map_err(|e| format(format!("tensor {name}: {e}")))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| format(e.to_string()))?;
    let bytes = with_metadata(&bytes, metadata).ok_or_else(|| format("the header just written cannot be read".to_owned()))?;
    write_whole(path, &bytes).map_err(|source| WeightsError::Io { path: path.to_owned(), source })
}

/// Puts metadata into a file's header in sorted order. The crate would take it as a map in random order, and the same model
/// would be another file each time.
fn with_metadata(file: &[u8], metadata: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let tensors = std::str::from_utf8(header).ok()?.trim_end().strip_prefix('{')?;
    let comma = if tensors == "}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{}{comma}{tensors}", serde_json::to_string(metadata).ok()?);
    // Tensors begin at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    Some([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat())
}

fn bytes_of(tensor: &Tensor) -> Result<(Dtype, Vec<u8>), String> {
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Int64 => Dtype::I64,
        other => return Err(format!("kind {other:?} is not written, only 32-bit floats and 64-bit integers")),
    };
    let copy = || {
        let flat = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0u8; flat.numel() * flat.kind().elt_size_in_bytes()];
        flat.f_copy_data_u8(&mut bytes, flat.numel())?;
        Ok(bytes)
    };
    copy().map(|bytes| (dtype, bytes)).map_err(|e| graft_torch::Error::from_tch("copy it to the host", &e).to_string())
}

/// Temporary file beside the target, data on disk, rename, directory on disk.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path names no file"))?;
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one to report; a leftover temporary file is harmless.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed?;
    File::open(folder)?.sync_all()
}
