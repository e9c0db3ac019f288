//! The MD5 of MedMNIST's files, as their package publishes them (`medmnist/info.py`, versions 3.0.2 and 2.1.0; Yang et al. 2023): by name, also with the
//! size at its end, `pathmnist_64`. It tells a file that was cut off or exchanged; it is no defence against someone who makes one on purpose.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use md5::{Digest, Md5};

use super::refused;
use crate::digest::hex;
use crate::error::{DataError, Reason};
use crate::inspect::unreadable;

/// `file,md5,version`; a file that was published anew has a line for each.
const PUBLISHED: &str = include_str!("medmnist.csv");

/// The digests that are published for a file of this name, each with the version.
fn published(name: &str) -> Vec<(&'static str, &'static str)> {
    let line = |line: &'static str| {
        let mut parts = line.split(',');
        (parts.next() == Some(name)).then(|| Some((parts.next()?, parts.next()?))).flatten()
    };
    PUBLISHED.lines().skip(1).filter_map(line).collect()
}

/// What is to be said of a file that is named as one of MedMNIST's and is it; nothing of another name.
///
/// # Errors
/// It is not what they publish, or cannot be read.
pub(crate) fn check(file: &Path) -> Result<Option<String>, DataError> {
    let published = published(&file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase());
    if published.is_empty() {
        return Ok(None);
    }
    let found = md5(file).map_err(|error| unreadable(file, error))?;
    if let Some((_, version)) = published.iter().find(|(md5, _)| *md5 == found) {
        return Ok(Some(format!("its MD5 is the one that MedMNIST {version} publishes")));
    }
    let all: Vec<&str> = published.iter().map(|(md5, _)| *md5).collect();
    let what = format!("{} has the MD5 {found}, and MedMNIST publishes {} for that name", file.display(), all.join(" or "));
    Err(refused(Reason::DataUnreadable, what, "fetch it anew, or give arrays of your own another name"))
}

fn md5(file: &Path) -> io::Result<String> {
    struct Sum(Md5);
    impl Write for Sum {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sum = Sum(Md5::new());
    io::copy(&mut File::open(file)?, &mut sum)?;
    Ok(hex(&sum.0.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_digests_that_are_published() {
        assert_eq!(published("breastmnist"), [("750601b1f35ba3300ea97c75c52ff8f6", "3.0.2")]);
        assert_eq!(published("organamnist").len(), 2);
        assert_eq!((published("pathmnist_224").len(), published("lungs").len(), published("file").len()), (1, 0, 0));
        assert!(PUBLISHED.lines().skip(1).all(|line| line.split(',').nth(1).is_some_and(|md5| md5.len() == 32)));
    }

    #[test]
    fn a_digest_is_of_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        // printf 12345 | md5sum
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(md5(&file).unwrap(), "827ccb0eea8a706c4c34a16891f84e7b");
    }
}
