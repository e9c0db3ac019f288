//! Any bytes as NIfTI, packed or not: what is no other picture.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: common::init(), |data: &[u8]| {
    common::guarded(|| drop(graft_data::decode(data, Some(0), &common::reading())));
});
