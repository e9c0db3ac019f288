//! What lies in a folder of decoded images, and what of it is given up: what only another version reads, what was not used for long, and
//! what is over the quota, the longest unused first. A folder goes as a whole; who still reads it has its files open.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use super::segment::{FOOTER, PARTIAL, ROW, WHOLE};
use super::{ABOUT, About, DECODER, remove_abandoned};

/// What another version decoded goes when it was not used for so long: that version may still be in use.
const OUTDATED: Duration = Duration::from_secs(24 * 3600);

/// The decoded images of one data set with one preprocessing.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Where they lie.
    pub folder: PathBuf,
    /// What they are; none where that cannot be read.
    pub about: Option<About>,
    /// How many.
    pub images: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When they were last used.
    pub used: SystemTime,
}

/// What is given up.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Bytes that may stay.
    pub quota: u64,
    /// What was not used for longer goes.
    pub older_than: Option<Duration>,
    /// Stays in any case.
    pub spare: Option<&'a Path>,
}

/// Why something is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another version decoded it, and has not used it for a day.
    Outdated,
    /// Not used for longer than the policy allows.
    Old,
    /// Over the quota.
    OverQuota,
}

impl Why {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Outdated => "another version decoded it",
            Self::Old => "not used for long",
            Self::OverQuota => "over the quota",
        }
    }
}

/// What lies below a folder of decoded images, the longest unused first; nothing where there is no such folder.
///
/// # Errors
/// It cannot be read.
pub fn list(root: &Path) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all: Vec<Kept> = entries.flatten().filter(|entry| is_ours(&entry.path())).filter_map(|entry| one(entry.path())).collect();
    all.sort_by(|a, b| a.used.cmp(&b.used).then(a.folder.cmp(&b.folder)));
    Ok(all)
}

/// Folders are named by sixteen hexadecimal digits. Nothing else is looked at, or ever removed.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_dir()
}

fn one(folder: PathBuf) -> Option<Kept> {
    let about: Option<About> = fs::read(folder.join(ABOUT)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let used = [folder.join(ABOUT), folder.clone()].iter().find_map(|path| fs::metadata(path).ok()?.modified().ok())?;
    let (mut images, mut bytes) = (0, 0);
    for entry in fs::read_dir(&folder).ok()?.flatten() {
        let length = entry.metadata().map_or(0, |file| file.len());
        bytes += length;
        if let (Some(about), true) = (&about, entry.path().extension().is_some_and(|kind| kind == WHOLE)) {
            images += length.saturating_sub(FOOTER as u64) / (about.geometry.bytes() + ROW) as u64;
        }
    }
    Some(Kept { folder, about, images, bytes, used })
}

/// Which of `all`, sorted from the longest unused, are given up.
#[must_use]
pub fn choose<'a>(all: &'a [Kept], policy: &Policy<'_>, now: SystemTime) -> Vec<(&'a Kept, Why)> {
    let mut left: u64 = all.iter().map(|kept| kept.bytes).sum();
    let mut given_up = Vec::new();
    let mut candidates: Vec<&Kept> = all.iter().filter(|kept| policy.spare != Some(&kept.folder)).collect();
    for why in [Why::Outdated, Why::Old, Why::OverQuota] {
        candidates.retain(|kept| {
            let age = now.duration_since(kept.used).unwrap_or_default();
            let goes = match why {
                Why::Outdated => age > OUTDATED && kept.about.as_ref().is_none_or(|about| about.decoder != DECODER),
                Why::Old => policy.older_than.is_some_and(|limit| age > limit),
                Why::OverQuota => left > policy.quota,
            };
            if goes {
                left -= kept.bytes;
                given_up.push((*kept, why));
            }
            !goes
        });
    }
    given_up
}

/// Gives up what the policy says; says what that was.
///
/// # Errors
/// A folder cannot be read or removed.
pub fn free(root: &Path, policy: &Policy<'_>, now: SystemTime) -> io::Result<Vec<(Kept, Why)>> {
    let all = list(root)?;
    let given_up: Vec<(Kept, Why)> = choose(&all, policy, now).into_iter().map(|(kept, why)| (kept.clone(), why)).collect();
    for (kept, _) in &given_up {
        remove(&kept.folder)?;
    }
    Ok(given_up)
}

/// Removes a folder's files, but what somebody is writing; then the folder, if it is empty.
fn remove(folder: &Path) -> io::Result<()> {
    remove_abandoned(folder)?;
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|kind| kind != PARTIAL) {
            // Another process may remove the same.
            fs::remove_file(&path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
    }
    let _ = fs::remove_dir(folder);
    Ok(())
}
