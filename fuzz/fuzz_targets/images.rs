//! Any bytes as PNG, JPEG, BMP, TIFF or WebP.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: common::init(), |data: &[u8]| {
    common::guarded(|| drop(graft_data::decode(data, None, &common::reading())));
});
