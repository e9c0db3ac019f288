//! Reads labelled images for training: sources, splits by patient, decoding, resizing and what is kept of it, and
//! generates phantom data where there is none. It knows no torch; an image leaves it as unsigned bytes `[3, S, S]`.
//! Patient ids never appear in its messages.

mod checks;
mod codecs;
mod dataset;
mod decode;
pub mod decoded;
mod dicom;
mod digest;
pub mod doctor;
mod error;
mod grey;
mod holdout;
pub mod inspect;
mod jpeg;
mod labels;
mod loader;
pub mod manifest;
mod nifti;
mod palette;
mod parallel;
mod patients;
pub mod phantom;
mod phi;
mod plausible;
mod problems;
mod resample;
pub mod series;
mod source;
mod spectrogram;
pub mod split;
mod table;

pub use dataset::{Dataset, Sample, Split};
pub use decode::{DecodeError, Geometry, Limits, Reading, decode, fit};
pub use dicom::grey_values;
pub use digest::data_digest;
pub use error::{DataError, Finding, Reason, nearest, pseudonym};
pub use loader::{DecodeCache, FileDigest, Loader};
pub use phi::shows_person;
pub use source::{EXTENSIONS, local_path, locate, named, named_as_image, sliced};
pub use table::named_as_table;
