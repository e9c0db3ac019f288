//! Manifests of Parquet, written here by the crate's own writer: read as the same table of CSV is, and refused when broken.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use graft_crds::spec::Task;
use graft_data::inspect::{Layout, inspect};
use graft_data::{DataError, Dataset, named};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

/// A column; a null is none.
enum Column {
    Text(Vec<Option<&'static str>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Whole(Vec<Option<i64>>),
    Number(Vec<Option<f64>>),
    Flag(Vec<Option<bool>>),
}

/// Values and which of them are there.
fn levels<T: Clone>(values: &[Option<T>]) -> (Vec<T>, Vec<i16>) {
    (values.iter().flatten().cloned().collect(), values.iter().map(|value| i16::from(value.is_some())).collect())
}

fn write(path: &Path, compression: Compression, columns: &[(&str, Column)]) {
    let kind = |column: &Column| match column {
        Column::Text(_) => ("binary", " (UTF8)"),
        Column::Bytes(_) => ("binary", ""),
        Column::Whole(_) => ("int64", ""),
        Column::Number(_) => ("double", ""),
        Column::Flag(_) => ("boolean", ""),
    };
    let fields: Vec<String> = columns.iter().map(|(name, column)| format!("optional {} {name}{};", kind(column).0, kind(column).1)).collect();
    let schema = Arc::new(parse_message_type(&format!("message table {{ {} }}", fields.concat())).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, column) in columns {
        let mut own = group.next_column().unwrap().unwrap();
        match column {
            Column::Text(values) => {
                let (values, there) = levels(values);
                let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                own.typed::<ByteArrayType>().write_batch(&values, Some(&there), None).unwrap();
            }
            Column::Bytes(values) => {
                let (values, there) = levels(values);
                let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                own.typed::<ByteArrayType>().write_batch(&values, Some(&there), None).unwrap();
            }
            Column::Whole(values) => {
                let (values, there) = levels(values);
                own.typed::<Int64Type>().write_batch(&values, Some(&there), None).unwrap();
            }
            Column::Number(values) => {
                let (values, there) = levels(values);
                own.typed::<DoubleType>().write_batch(&values, Some(&there), None).unwrap();
            }
            Column::Flag(values) => {
                let (values, there) = levels(values);
                own.typed::<BoolType>().write_batch(&values, Some(&there), None).unwrap();
            }
        }
        own.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

/// Images of six patients, of whom `change` makes something else.
fn columns(change: impl FnOnce(&mut Vec<(&'static str, Column)>)) -> Vec<(&'static str, Column)> {
    let mut columns = vec![
        ("image", Column::Text(["a", "b", "c", "d", "e", "f"].map(Some).to_vec())),
        ("grade", Column::Whole([1, 2, 1, 2, 1, 2].map(Some).to_vec())),
        ("volume", Column::Number(vec![Some(0.5), None, Some(1e-7), Some(f64::NAN), Some(3.0), Some(2.25)])),
        ("mass", Column::Flag(vec![Some(true), Some(false), None, Some(true), Some(false), Some(true)])),
        ("patient", Column::Whole([7, 7, 8, 9, 10, 11].map(Some).to_vec())),
        ("split", Column::Text(["train", "train", "train", "val", "test", "test"].map(Some).to_vec())),
    ];
    change(&mut columns);
    columns
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        ["a", "b", "c", "d", "e", "f"].iter().for_each(|name| fs::write(folder.path().join(name), b"").unwrap());
        Self(folder)
    }

    fn load(&self, manifest: &str, label: &str, task: &Value) -> Result<Dataset, DataError> {
        let data = json!({
            "train": {"uri": format!("file://{}", self.0.path().display()), "manifest": manifest},
            "columns": {"label": label, "patient": "patient", "split": "split"}
        });
        Dataset::load(&serde_json::from_value(data).unwrap(), &serde_json::from_value::<Task>(task.clone()).unwrap(), 0)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn it_is_read_as_the_same_table_of_csv() {
    let place = Place::new();
    let text = "image,grade,volume,mass,patient,split\na,1,0.5,true,7,train\nb,2,,false,7,train\nc,1,0.0000001,,8,train\nd,2,,true,9,val\n\
                e,1,3,false,10,test\nf,2,2.25,true,11,test\n";
    fs::write(place.path("m.csv"), text).unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, Compression::GZIP(GzipLevel::default())] {
        write(&place.path("m.parquet"), compression, &columns(|_| ()));
        assert_eq!(named(&place.path("m.parquet"), "image"), named(&place.path("m.csv"), "image"));
        for (label, task) in [("grade", json!({})), ("none", json!({"type": "multiLabel", "classes": ["mass"]}))] {
            let (own, other) = (place.load("m.parquet", label, &task).unwrap(), place.load("m.csv", label, &task).unwrap());
            assert_eq!(
                own.samples.iter().map(|s| (&s.key, s.row, &s.findings)).collect::<Vec<_>>(),
                other.samples.iter().map(|s| (&s.key, s.row, &s.findings)).collect::<Vec<_>>()
            );
            assert_eq!(own.classes, other.classes);
        }
        // What is null, and what is no number, is empty: it has no label.
        let [own, other] = ["m.parquet", "m.csv"].map(|name| place.load(name, "volume", &json!({"type": "regression"})).unwrap_err().to_string());
        assert_eq!(own, other.replace("m.csv", "m.parquet"));
        assert!(own.contains("m.parquet:3") && own.contains("m.parquet:5"), "{own}");
        let [mut own, other] = ["m.parquet", "m.csv"].map(|name| inspect(&place.path(name)).unwrap_err().to_string());
        own = own.replace("m.parquet", "m.csv");
        assert_eq!(own, other, "neither has a column that is called label");
    }
    write(&place.path("m.parquet"), zstd, &columns(|columns| columns[1].0 = "label"));
    fs::remove_file(place.path("m.csv")).unwrap();
    for path in [place.path("m.parquet"), place.0.path().to_owned()] {
        let seen = inspect(&path).unwrap();
        assert_eq!((seen.layout, seen.images, seen.patients, seen.counts["1"]["train"]), (Layout::Manifest, 6, Some(5), 2));
        assert!(seen.snippet.unwrap().contains("manifest: m.parquet\n"));
    }
}

#[test]
fn what_is_broken_is_one_error_that_names_the_file() {
    let place = Place::new();
    let path = place.path("m.parquet");
    let refused = |what: &str| {
        let error = place.load("m.parquet", "grade", &json!({})).unwrap_err();
        assert!(error.findings().len() == 1 && error.reason() == "DataUnreadable", "{error}");
        assert!(error.to_string().contains("m.parquet") && error.to_string().contains(what), "{error}");
    };
    write(&path, Compression::SNAPPY, &columns(|_| ()));
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused("it is broken");
    fs::write(&path, b"image,grade\na,1\n").unwrap();
    refused("does not begin with PAR1");
    fs::write(&path, [b"PAR1".as_slice(), &[0xFF; 40], &0x7FFF_FFFFu32.to_le_bytes(), b"PAR1"].concat()).unwrap();
    refused("it is broken");
    write(&path, Compression::SNAPPY, &columns(|columns| columns[0].1 = Column::Bytes(vec![Some(vec![0xFF, 0xFE]); 6])));
    refused("row 2: column \"image\" holds bytes that are no text");

    // Any byte may be another: an error or a table, and neither a crash nor a great deal of memory.
    let mut broken = 0;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, bytes).unwrap();
        broken += usize::from(place.load("m.parquet", "grade", &json!({})).is_err());
    }
    assert!(broken > good.len() / 4, "{broken} of {} changes are found out", good.len());
}
