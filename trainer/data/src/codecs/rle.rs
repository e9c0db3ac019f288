//! DICOM's run lengths (PS3.5, annex G) for samples of any whole number of bytes; dicom-rs knows those of one and of two.

const BROKEN: &str = "its run lengths are malformed";

/// Samples of `bytes` bytes each, little endian, interleaved by pixel.
///
/// # Errors
/// Anything but `pixels` whole samples of each of `components`.
pub(super) fn decode(data: &[u8], pixels: usize, components: usize, bytes: usize) -> Result<Vec<u8>, &'static str> {
    let word = |index: usize| data.get(4 * index..4 * index + 4).and_then(|four| Some(u32::from_le_bytes(four.try_into().ok()?) as usize));
    if word(0) != Some(components * bytes) || components * bytes > 15 {
        return Err(BROKEN);
    }
    let mut samples = vec![0; pixels * components * bytes];
    for segment in 0..components * bytes {
        let from = word(1 + segment).ok_or(BROKEN)?;
        let plane = unpack(data.get(from..).ok_or(BROKEN)?, pixels)?;
        // The most significant byte comes first, and each component's bytes stand together.
        let place = segment / bytes * bytes + bytes - 1 - segment % bytes;
        samples.iter_mut().skip(place).step_by(components * bytes).zip(plane).for_each(|(sample, byte)| *sample = byte);
    }
    Ok(samples)
}

/// PackBits, until there are `length` bytes.
fn unpack(mut rest: &[u8], length: usize) -> Result<Vec<u8>, &'static str> {
    let mut plane = Vec::new();
    while plane.len() < length {
        let (&code, after) = rest.split_first().ok_or(BROKEN)?;
        rest = match code {
            0..=127 => {
                let (literal, after) = after.split_at_checked(usize::from(code) + 1).ok_or(BROKEN)?;
                plane.extend_from_slice(literal);
                after
            }
            128 => after,
            129.. => {
                let (byte, after) = after.split_first().ok_or(BROKEN)?;
                plane.extend(std::iter::repeat_n(*byte, 257 - usize::from(code)));
                after
            }
        };
    }
    plane.truncate(length);
    Ok(plane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_runs_become_samples_of_four_bytes() {
        let mut data = vec![0; 64];
        let segments: [&[u8]; 4] = [&[254, 0], &[254, 1], &[2, 7, 8, 9], &[128, 0, 5, 255, 6]];
        data[0] = 4;
        for (index, segment) in segments.iter().enumerate() {
            data[4 + 4 * index] = u8::try_from(data.len()).unwrap();
            data.extend_from_slice(segment);
        }
        assert_eq!(decode(&data, 3, 1, 4).unwrap(), [5, 7, 1, 0, 6, 8, 1, 0, 6, 9, 1, 0]);
        assert_eq!(decode(&data, 4, 1, 4), Err(BROKEN));
        assert_eq!(decode(&data, 3, 1, 2), Err(BROKEN));
        assert_eq!(decode(&data[..70], 3, 1, 4), Err(BROKEN));
    }
}
