//! Any bytes as the compressed frame of a small DICOM file: JPEG-LS, JPEG of 12 bits and of RGB, JPEG 2000, run lengths of 32 bits. The first byte chooses
//! the header, so that nothing is lost on the structure of DICOM.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

/// Syntax, colours, samples, allocated bits, rows and columns.
const KINDS: [(&str, &str, u8, u8, u8, u8); 8] = [
    ("1.2.840.10008.1.2.4.80", "MONOCHROME2", 1, 16, 29, 37),
    ("1.2.840.10008.1.2.4.81", "MONOCHROME2", 1, 8, 29, 37),
    ("1.2.840.10008.1.2.4.80", "RGB", 3, 8, 29, 37),
    ("1.2.840.10008.1.2.4.51", "MONOCHROME2", 1, 16, 31, 45),
    ("1.2.840.10008.1.2.4.50", "RGB", 3, 8, 31, 45),
    ("1.2.840.10008.1.2.5", "MONOCHROME2", 1, 32, 10, 10),
    ("1.2.840.10008.1.2.4.90", "MONOCHROME2", 1, 16, 64, 64),
    ("1.2.840.10008.1.2.4.91", "RGB", 3, 8, 100, 100),
];

fn element(group: u16, number: u16, kind: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if kind == b"UI" { 0 } else { b' ' });
    }
    [&group.to_le_bytes()[..], &number.to_le_bytes(), kind, &(value.len() as u16).to_le_bytes(), &value].concat()
}

fuzz_target!(init: common::init(), |data: &[u8]| {
    let Some((&first, frame)) = data.split_first() else { return };
    let (syntax, colours, samples, bits, rows, columns) = KINDS[usize::from(first) % KINDS.len()];
    let meta = [element(2, 2, b"UI", b"1.2"), element(2, 3, b"UI", b"1.2.3"), element(2, 0x10, b"UI", syntax.as_bytes()), element(2, 0x12, b"UI", b"1.2")].concat();
    let mut file = [&[0; 128], &b"DICM"[..], &element(2, 0, b"UL", &(meta.len() as u32).to_le_bytes()), &meta].concat();
    let number = |value: u8| [value, 0];
    file.extend(element(0x28, 2, b"US", &number(samples)));
    file.extend(element(0x28, 4, b"CS", colours.as_bytes()));
    for (tag, value) in [(0x10, rows), (0x11, columns), (0x100, bits), (0x101, bits), (0x102, bits - 1), (0x103, 0)] {
        file.extend(element(0x28, tag, b"US", &number(value)));
    }
    file.extend([0xE0, 0x7F, 0x10, 0, b'O', b'B', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0, 0xE0]);
    let length = frame.len() + frame.len() % 2;
    file.extend((length as u32).to_le_bytes());
    file.extend(frame);
    file.resize(file.len() + frame.len() % 2, 0);
    file.extend([0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]);
    common::guarded(|| drop(graft_data::decode(&file, None, &common::reading())));
});
