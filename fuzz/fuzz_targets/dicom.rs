//! Any bytes after the preamble that says DICOM, which a whole file has already.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: common::init(), |data: &[u8]| {
    let whole = data.get(128..132) == Some(b"DICM");
    let bytes = if whole { data.to_vec() } else { [&[0; 128], &b"DICM"[..], data].concat() };
    common::guarded(|| drop(graft_data::decode(&bytes, Some(0), &common::reading())));
    common::guarded(|| drop(graft_data::grey_values(&bytes)));
});
