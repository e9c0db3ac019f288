//! Any bytes as the pickle in a `.pth` file. The reader is compiled in from the trainer's source, which needs libtorch for everything else.
#![no_main]

#[path = "../../trainer/src/weights/pickle/mod.rs"]
#[allow(dead_code, reason = "the trainer uses the rest")]
mod pickle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drop(pickle::parse(data)));
