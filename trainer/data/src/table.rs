//! Tables as the text of CSV, whatever they are stored as: CSV, also gzipped, or Parquet, whose columns of plain values are taken. The content
//! decides, not the name. The header is row 1 in messages whatever the file is.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use parquet::basic::{Compression, Repetition};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};

use crate::decode::guarded;

/// A table that unpacks to more is no table of images.
const LIMIT: u64 = 1 << 30;
/// More rows than this are not read.
const ROWS: i64 = 100_000_000;
/// A column packed by gzip, which says nowhere how large it becomes and can grow by a thousand, has at most so many bytes in a group of rows.
const GZIP_LIMIT: i64 = 2 << 20;

/// Whether a file is a table by its name.
#[must_use]
pub fn named_as_table(name: &str) -> bool {
    let name = name.to_lowercase();
    [".csv", ".csv.gz", ".parquet"].iter().any(|end| name.ends_with(end))
}

/// The table as text of CSV, with its header.
///
/// # Errors
/// The file cannot be read, or is too large, or broken.
pub(crate) fn text(path: &Path) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(words)?;
    let (mut magic, mut own) = ([0; 4], 0);
    while own < magic.len() {
        match file.read(&mut magic[own..]).map_err(words)? {
            0 => break,
            n => own += n,
        }
    }
    file.rewind().map_err(words)?;
    if &magic == b"PAR1" {
        let crashed = |_| Err("it is broken, and the reader of Parquet gave up; write it anew".into());
        return guarded(|| Ok(parquet(file))).unwrap_or_else(crashed);
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
        return Err("it is no Parquet file, for it does not begin with PAR1; write it anew".into());
    }
    let mut text = Vec::new();
    let source: Box<dyn Read> = if magic[..2] == [0x1F, 0x8B] { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    source.take(LIMIT + 1).read_to_end(&mut text).map_err(words)?;
    if text.len() as u64 > LIMIT { Err(too_large()) } else { Ok(text) }
}

fn too_large() -> String {
    format!("it has more than {} MiB of text; leave columns out that a job does not need", LIMIT >> 20)
}

fn parquet(file: File) -> Result<Vec<u8>, String> {
    let broken = |error: parquet::errors::ParquetError| format!("it is broken: {error}; write it anew");
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let plain = |column: &&TypePtr| column.is_primitive() && column.get_basic_info().repetition() != Repetition::REPEATED;
    let columns: Vec<TypePtr> = schema.get_fields().iter().filter(plain).cloned().collect();
    if columns.is_empty() {
        return Err("it has no column of plain values".into());
    }
    let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
    check_sizes(&reader, &names)?;
    let wanted = Type::group_type_builder(schema.name()).with_fields(columns).build().map_err(broken)?;
    let odd = |error: csv::Error| error.to_string();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&names).map_err(odd)?;
    let mut record = csv::StringRecord::new();
    for (number, row) in reader.get_row_iter(Some(wanted)).map_err(broken)?.enumerate() {
        let row = row.map_err(|error| format!("row {}: {}", number + 2, broken(error)))?;
        record.clear();
        for (name, value) in row.get_column_iter() {
            record.push_field(&shown(value).ok_or_else(|| format!("row {}: column {name:?} holds bytes that are no text", number + 2))?);
        }
        writer.write_record(&record).map_err(odd)?;
        if writer.get_ref().len() as u64 > LIMIT {
            return Err(too_large());
        }
    }
    writer.into_inner().map_err(|error| error.to_string())
}

/// What the file says of itself, before any of it is unpacked.
fn check_sizes(reader: &SerializedFileReader<File>, names: &[String]) -> Result<(), String> {
    let meta = reader.metadata();
    if !(0..=ROWS).contains(&meta.file_metadata().num_rows()) {
        return Err(format!("it says that it has {} rows; at most {ROWS} are read", meta.file_metadata().num_rows()));
    }
    let mut bytes = 0u64;
    for column in meta.row_groups().iter().flat_map(|group| group.columns()) {
        let [name] = column.column_path().parts() else { continue };
        if !names.contains(name) {
            continue;
        }
        bytes = bytes.saturating_add(u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
        if matches!(column.compression(), Compression::GZIP(_)) && column.compressed_size() > GZIP_LIMIT {
            let limit = GZIP_LIMIT >> 20;
            return Err(format!("column {name:?} is packed by gzip and has more than {limit} MiB in a group of rows; write it with snappy or zstd"));
        }
    }
    if bytes > LIMIT { Err(too_large()) } else { Ok(()) }
}

/// A value as CSV has it; nothing for nulls and for what is no number.
fn shown(value: &Field) -> Option<String> {
    Some(match value {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.to_owned(),
        Field::Float(number) if number.is_nan() => String::new(),
        Field::Double(number) if number.is_nan() => String::new(),
        // As Rust writes numbers: the shortest that is read as the same.
        Field::Float(number) => number.to_string(),
        Field::Double(number) => number.to_string(),
        other => other.to_string(),
    })
}
