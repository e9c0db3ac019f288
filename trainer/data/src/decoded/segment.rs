//! A file of decoded images, which is written once and appears under its name only when it is whole. All images first, one after the
//! other, then a row for each (slice, checksum of the pixels, fingerprint), then a footer with the checksum of the rows. Nothing is
//! flushed to the disk: what a power loss leaves of it fails a checksum, and is decoded anew.
//!
//! Images are read with `pread`, straight into the batch: that is one copy out of the page cache, which all processes of a node share, as
//! with a memory map, but a file that somebody cuts off is an error and not the death of the process (and a map is `unsafe`).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use tempfile::NamedTempFile;

use crate::doctor::Fingerprint;
use crate::loader::FileDigest;

/// What segments are called at the end, and before.
pub(super) const WHOLE: &str = "pixels";
pub(super) const PARTIAL: &str = "partial";

const MAGIC: [u8; 8] = *b"graftpx1";
/// Slice, checksum, fingerprint.
pub(super) const ROW: usize = 8 + 4 + Fingerprint::BYTES;
/// Magic, number of images, bytes of each, checksum of the rows, checksum of what stands before it.
pub(super) const FOOTER: usize = 8 + 8 + 8 + 4 + 4;

/// By what an image is found: the digest of its file, and which of the file's slices it is.
pub(super) type Name = (FileDigest, Option<u32>);

/// A whole segment. A file that is removed meanwhile can still be read.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    /// Bytes of an image.
    image: usize,
    /// Checksums of the images.
    checksums: Vec<u32>,
}

impl Segment {
    /// A segment of images of this many bytes, and what is in it.
    ///
    /// # Errors
    /// It cannot be read, or is not whole (`InvalidData`).
    pub(super) fn open(path: &Path, image: usize) -> io::Result<(Self, Vec<Name>)> {
        let damaged = || io::Error::from(ErrorKind::InvalidData);
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut footer = [0; FOOTER];
        let end = length.checked_sub(FOOTER as u64).ok_or_else(damaged)?;
        file.read_exact_at(&mut footer, end)?;
        let count = u64::from_le_bytes(field(&footer, 8)) as usize;
        let sum = u32::from_le_bytes(field(&footer, 24));
        let whole = footer[..8] == MAGIC
            && u64::from_le_bytes(field(&footer, 16)) == image as u64
            && u32::from_le_bytes(field(&footer, 28)) == crc32c::crc32c(&footer[..28])
            && count.checked_mul(image + ROW).is_some_and(|bytes| bytes as u64 == end);
        if !whole {
            return Err(damaged());
        }
        let mut rows = vec![0; count * ROW];
        file.read_exact_at(&mut rows, (count * image) as u64)?;
        if crc32c::crc32c(&rows) != sum {
            return Err(damaged());
        }
        let checksums = rows.chunks_exact(ROW).map(|row| u32::from_le_bytes(field(row, 8))).collect();
        let names = rows.chunks_exact(ROW).map(|row| (field(row, 12), u64::from_le_bytes(field(row, 0)).checked_sub(1).map(|slice| slice as u32)));
        let names = names.collect();
        Ok((Self { file, path: path.to_owned(), image, checksums }, names))
    }

    /// Reads the pixels of an image.
    ///
    /// # Errors
    /// They cannot be read, or are not those that were written (`InvalidData`).
    pub(super) fn pixels(&self, number: usize, to: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(to, (number * self.image) as u64)?;
        if crc32c::crc32c(to) == self.checksums[number] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// The fingerprint of an image.
    pub(super) fn print(&self, number: usize) -> Option<Fingerprint> {
        let mut print = [0; Fingerprint::BYTES];
        let at = self.checksums.len() * self.image + number * ROW + (ROW - Fingerprint::BYTES);
        self.file.read_exact_at(&mut print, at as u64).ok()?;
        Fingerprint::from_bytes(&print)
    }

    /// Has the system read an image from the disk, and does not wait for it.
    pub(super) fn prefetch(&self, number: usize) {
        // Advice: nothing depends on it.
        let _ = fadvise(&self.file, (number * self.image) as u64, std::num::NonZeroU64::new(self.image as u64), Advice::WillNeed);
    }

    /// Removes the file: something in it is damaged.
    pub(super) fn discard(&self) {
        // If it cannot be removed, it is found damaged again next time.
        let _ = fs::remove_file(&self.path);
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// A segment in the making. Its file is locked, so that others see that somebody still writes it; dropped, it goes.
#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    rows: Vec<u8>,
    names: HashSet<Name>,
    /// Bytes of images so far.
    pub(super) bytes: usize,
}

impl Draft {
    /// An empty one.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix("").rand_bytes(16).suffix(&format!(".{PARTIAL}")).tempfile_in(folder)?;
        file.as_file().lock()?;
        Ok(Self { file, rows: Vec::new(), names: HashSet::new(), bytes: 0 })
    }

    /// One more image, unless it is in it already.
    ///
    /// # Errors
    /// It cannot be written; the draft is of no use any more.
    pub(super) fn add(&mut self, print: &Fingerprint, slice: Option<u32>, pixels: &[u8]) -> io::Result<()> {
        if !self.names.insert((print.file(), slice)) {
            return Ok(());
        }
        self.file.write_all(pixels)?;
        self.bytes += pixels.len();
        self.rows.extend(slice.map_or(0, |slice| u64::from(slice) + 1).to_le_bytes());
        self.rows.extend(crc32c::crc32c(pixels).to_le_bytes());
        self.rows.extend(print.to_bytes());
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let count = self.rows.len() / ROW;
        let mut footer = MAGIC.to_vec();
        footer.extend((count as u64).to_le_bytes());
        footer.extend((self.bytes.checked_div(count).unwrap_or(0) as u64).to_le_bytes());
        footer.extend(crc32c::crc32c(&self.rows).to_le_bytes());
        footer.extend(crc32c::crc32c(&footer).to_le_bytes());
        self.file.write_all(&self.rows)?;
        self.file.write_all(&footer)?;
        let path = self.file.path().with_extension(WHOLE);
        self.file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}
