//! A PyTorch state dict in the format before 1.6: five pickles one after the other (a magic number, a version, facts about the
//! machine, the state dict, the keys of the storages), then each storage's length and bytes. Most weights published before
//! 2020 lie like this.

use super::pickle::{self, Value};
use super::pth;
use graft_torch::tch::Tensor;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The pickled magic number, 0x1950a86a20f9469cfc6c.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or("a pickle, but not one that torch.save wrote; refused")?;
    let mut next = || {
        let parsed = pickle::parse(rest)?;
        rest = &rest[parsed.end..];
        Ok::<_, String>(parsed)
    };
    if !matches!(next()?.value, Value::Int(1001)) {
        return Err("a version of the format before PyTorch 1.6 that is not read".into());
    }
    let machine = next()?;
    let Value::Dict(facts) = machine.value else {
        return Err("it has no facts about the machine that wrote it".into());
    };
    if machine.entries(facts).any(|entry| matches!(entry, (Value::Text(key), Value::Bool(false)) if key.as_ref() == "little_endian")) {
        return Err("its numbers are big-endian, which is not read".into());
    }
    let (state, keys) = (next()?, next()?);
    let Value::List(list) = keys.value else {
        return Err("it has no list of storages".into());
    };
    let mut storages = BTreeMap::new();
    for key in keys.list(list) {
        let Value::Text(key) = key else {
            return Err("a storage's key is not a string".into());
        };
        let (element, length) = state.storages.get(key).ok_or_else(|| format!("its storage {key} belongs to nothing"))?;
        let width = pth::kind(*element).elt_size_in_bytes();
        let cut = rest.split_first_chunk::<8>().filter(|(written, _)| i64::from_le_bytes(**written) == *length).and_then(|(_, data)| {
            let size = usize::try_from(*length).ok()?.checked_mul(width)?;
            data.split_at_checked(size)
        });
        let (data, behind) =
            cut.ok_or_else(|| format!("its storage {key} of {length} numbers is cut short or has another length; fetch it again"))?;
        storages.insert(key.to_string(), data);
        rest = behind;
    }
    let storage = |key: &str| storages.get(key).map(|data| Cow::Borrowed(*data)).ok_or_else(|| format!("its storage {key} is not there"));
    pth::tensors(&state, bytes.len(), storage)
}
