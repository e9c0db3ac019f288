//! Scalars as TensorBoard reads them: a file of records (TFRecord: length, its checksum, data, its checksum), each an `Event`
//! message of TensorFlow's `event.proto`. Written here because the format is twenty lines and no kept crate has it.

/// One or more tagged numbers at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalars<'a> {
    /// Seconds since 1970.
    pub time: f64,
    /// The step or the epoch.
    pub step: u64,
    /// Tags, such as `fineTune/train_loss`, and their values.
    pub values: &'a [(String, f64)],
}

/// The first record of a file, which says its version.
#[must_use]
pub fn header(time: f64) -> Vec<u8> {
    let mut event = fixed64(1, time);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// A record of scalars; values are kept with single precision.
#[must_use]
pub fn scalars(scalars: &Scalars<'_>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars.values {
        let mut one = Vec::new();
        bytes(&mut one, 1, tag.as_bytes());
        one.push(2 << 3 | 5);
        one.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &one);
    }
    let mut event = fixed64(1, scalars.time);
    if scalars.step > 0 {
        event.push(2 << 3);
        varint(&mut event, scalars.step);
    }
    bytes(&mut event, 5, &summary);
    record(&event)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// TFRecord's checksum: CRC-32C, turned by 15 bits and moved by a constant.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

fn fixed64(field: u8, value: f64) -> Vec<u8> {
    [&[field << 3 | 1], &value.to_le_bytes()[..]].concat()
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_that_tensorboard_writes() {
        // tensorboard 2.21's RecordWriter and protobuf: wall_time 1.5, file_version; wall_time 2.5, step 300, a=0.25, b/c=-1.
        let file = [header(1.5), scalars(&Scalars { time: 2.5, step: 300, values: &[("a".into(), 0.25), ("b/c".into(), -1.0)] })].concat();
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c2400000000000000422b804d09000000000000044010ac022a160a080a0161150000803e0a0a0a03622f6315000080bf5b5272f3";
}
