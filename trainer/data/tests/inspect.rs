//! Layouts made here and real ones: what is recognised, counted and said.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::real;
use graft_crds::spec::DataColumns;
use graft_data::inspect::{Inspection, Layout, inspect};
use graft_data::manifest::{self, Options};
use graft_data::{Dataset, Split};

fn into(out: PathBuf) -> Options {
    Options { out: Some(out), ..Options::default() }
}

fn touch(root: &Path, paths: &[impl AsRef<Path>]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
}

fn count(seen: &Inspection, class: &str, split: &str) -> usize {
    seen.counts.get(class).and_then(|counts| counts.get(split)).copied().unwrap_or(0)
}

#[test]
fn class_folders_with_and_without_splits() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["train/a/1.png", "train/a/2.png", "train/b/1.jpg", "val/a/3.png", "test/b/4.png", "notes.txt"]);
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::SplitClassFolders, 5));
    assert_eq!((count(&seen, "a", "train"), count(&seen, "a", "validation"), count(&seen, "b", "test")), (2, 1, 1));
    let snippet = seen.snippet.unwrap();
    assert!(snippet.contains("/train\n") && snippet.contains("  validation:\n    uri: ") && snippet.ends_with("/test\n"), "{snippet}");
    let seen = inspect(&root.path().join("train")).unwrap();
    assert_eq!((seen.layout, count(&seen, "a", "all"), seen.snippet), (Layout::ClassFolders, 2, None));
    assert_eq!(inspect(&root.path().join("nowhere")).unwrap_err().reason(), "DataNotFound");
    assert_eq!(inspect(&root.path().join("train/a")).unwrap_err().reason(), "DataUnreadable");
}

#[test]
fn covid_ct_name_lists_find_their_files() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["Images-processed/CT_COVID/a_1.png", "Images-processed/CT_NonCOVID/71%0.jpg"]);
    for class in ["COVID", "NonCOVID"] {
        for (split, name) in [("train", "a%1.png"), ("val", ""), ("test", "71_0.jpg")] {
            let path = root.path().join(format!("Data-split/{class}/{split}CT_{class}.txt"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{name}\n")).unwrap();
        }
    }
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, count(&seen, "covid", "train"), count(&seen, "noncovid", "test")), (Layout::CovidCt, 4, 1, 1));
    assert!(seen.notes[0].starts_with("2 names of the lists have no file"), "{:?}", seen.notes);
}

#[test]
fn chexpert_counts_present_absent_uncertain_and_blank() {
    let root = tempfile::tempdir().unwrap();
    let rows = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\nC/train/patient00001/study1/view1.jpg,Female,68,Frontal,AP,1.0,\n\
                C/train/patient00001/study2/view1.jpg,Female,68,Frontal,AP,,-1.0\nC/train/patient00002/study1/view1.jpg,Male,50,Frontal,AP,,0.0\n";
    fs::write(root.path().join("train.csv"), rows).unwrap();
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::CheXpert, 3, Some(2)));
    assert_eq!(["positive", "negative", "uncertain", "blank"].map(|value| count(&seen, "Edema", value)), [0, 1, 1, 1]);
    assert_eq!(count(&seen, "No Finding", "positive"), 1);
}

/// The folder as it is handed out: both tables beside the folders of patients.
#[test]
fn a_root_of_chexpert_is_told_by_its_tables_and_never_by_its_patients() {
    let root = tempfile::tempdir().unwrap();
    let header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\n";
    let row = |path: &str, values: &str| format!("CheXpert-v1.0-small/{path},Female,68,Frontal,AP,{values}\n");
    let image = |split: &str, patient: u32, study: u32| format!("{split}/patient{patient:05}/study{study}/view1_frontal.jpg");
    let train = [row(&image("train", 1, 1), "1.0,"), row(&image("train", 1, 2), ",-1.0"), row(&image("train", 2, 1), ",1.0")].concat();
    fs::write(root.path().join("train.csv"), header.to_owned() + &train).unwrap();
    fs::write(root.path().join("valid.csv"), header.to_owned() + &row(&image("valid", 64541, 1), "0.0,1.0")).unwrap();
    touch(root.path(), &[image("train", 1, 1), image("train", 1, 2), image("valid", 64541, 1)]);
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients, seen.snippet.as_ref()), (Layout::CheXpert, 4, Some(3), None));
    assert_eq!(seen.counts.keys().collect::<Vec<_>>(), ["Edema", "No Finding"]);
    let edema = ["train positive", "train uncertain", "train blank", "test positive"].map(|split| count(&seen, "Edema", split));
    assert_eq!((edema, count(&seen, "No Finding", "test negative")), ([1, 1, 1, 1], 1));
    assert!(seen.notes.contains(&"1 of 4 images are not there".to_owned()), "{:?}", seen.notes);
    assert!(!serde_json::to_string(&seen).unwrap().contains("patient0"), "{seen:?}");
    // Two tables of these names that are not CheXpert's say nothing.
    let other = tempfile::tempdir().unwrap();
    touch(other.path(), &["train/a/1.png", "valid/a/2.png", "test/b/3.png"]);
    for name in ["train.csv", "valid.csv"] {
        fs::write(other.path().join(name), "x,y\n1,2\n").unwrap();
    }
    assert_eq!(inspect(other.path()).unwrap().layout, Layout::SplitClassFolders);
}

/// The folder as it is handed out: the table, that of boxes, the official lists, and images in folders by number.
#[test]
fn a_root_of_chest_xray14_is_told_by_its_table_and_lists() {
    for packed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            if packed {
                let mut out =
                    flate2::write::GzEncoder::new(fs::File::create(root.path().join(format!("{name}.gz"))).unwrap(), flate2::Compression::fast());
                std::io::Write::write_all(&mut out, text.as_bytes()).unwrap();
                out.finish().unwrap();
            } else {
                fs::write(root.path().join(name), text).unwrap();
            }
        };
        let rows = "00000001_000.png,Mass|Effusion,0,1,58,M,PA\n00000001_001.png,No Finding,1,1,58,M,PA\n00000002_000.png,Mass,0,2,61,F,PA\n\
                    00000003_000.png,Hernia,0,3,70,F,PA\n";
        put("Data_Entry_2017_v2020.csv", &format!("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position\n{rows}"));
        put("BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000002_000.png,Mass,225.0,547.0,86.7,79.1\n");
        touch(root.path(), &["images_001/images/00000001_000.png", "images_001/images/00000001_001.png", "images_002/images/00000002_000.png"]);
        let seen = inspect(root.path()).unwrap();
        assert_eq!((seen.layout, seen.images, seen.patients), (Layout::ChestXray14, 4, Some(3)), "packed {packed}");
        assert_eq!((count(&seen, "Mass", "all"), seen.counts.contains_key("images_001")), (2, false));
        let notes = seen.notes.join("\n");
        assert!(
            notes.contains("train_val_list.txt and test_list.txt are not both there") && notes.contains("1 of 4 images are not there"),
            "{notes}"
        );

        fs::write(root.path().join("train_val_list.txt"), "00000001_000.png\n00000002_000.png\n").unwrap();
        fs::write(root.path().join("test_list.txt"), "00000001_001.png\n").unwrap();
        let seen = inspect(root.path()).unwrap();
        let told = [("Mass", "train"), ("Effusion", "train"), ("No Finding", "test"), ("Hernia", "unlisted"), ("Mass", "all")];
        assert_eq!(told.map(|(class, split)| count(&seen, class, split)), [2, 1, 1, 1, 0]);
        assert!(seen.notes.contains(&"1 patients are in two of the splits".to_owned()), "{:?}", seen.notes);
    }
}

/// Other tables beside the one that says what the images show do not hide it.
#[test]
fn tables_that_are_known_are_found_among_others_and_a_manifest_goes_first() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("ADNIMERGE.csv"), "RID,PTID,VISCODE,EXAMDATE,DX\n1,002_S_0001,bl,2006-04-18,CN\n").unwrap();
    fs::write(root.path().join("MRILIST.csv"), "SUBJECT,VISIT\n002_S_0001,bl\n").unwrap();
    touch(root.path(), &["ADNI/002_S_0001/scan.png"]);
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::Adni, 1));
    fs::write(root.path().join("manifest.csv"), "image,label,patient,split\nADNI/002_S_0001/scan.png,CN,1,train\n").unwrap();
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.snippet.is_some()), (Layout::Manifest, true));
}

#[test]
fn folders_of_images_and_masks_are_no_classes() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["images/a.png", "images/b.png", "images/c.png", "masks/a_mask.png", "masks/b.png", "masks/d.png", "masks/e.png"]);
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, seen.snippet.as_ref()), (Layout::Masks, 3, None));
    let told = ["image with mask", "image without mask", "mask without image"].map(|what| count(&seen, what, "all"));
    assert_eq!((told, seen.counts.len()), ([2, 1, 2], 3), "{:?}", seen.counts);
    let notes = seen.notes.join("\n");
    assert!(notes.contains("1 files of images have no partner in masks: c.png"), "{notes}");
    assert!(notes.contains("2 files of masks have no partner in images: d.png, e.png") && notes.contains("a mask is no class"), "{notes}");
    let error = manifest::write(root.path(), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("images and masks (images and masks)") && !root.path().join("manifest.csv").exists(), "{error}");

    // By split, above or below, and by names with the split in them.
    for files in [
        ["train/images/a.png", "train/masks/a.png", "test/images/b.png", "test/masks/b.png"],
        ["images/train/a.png", "masks/train/a.png", "images/test/b.png", "masks/test/b.png"],
        ["train_images/a.png", "train_masks/a.png", "test_images/b.png", "test_masks/b.png"],
        ["imagesTr/a.png", "labelsTr/a.png", "imagesTs/b.png", "labelsTs/b.png"],
    ] {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &files);
        let seen = inspect(root.path()).unwrap();
        assert_eq!(
            (seen.layout, count(&seen, "image with mask", "train"), count(&seen, "image with mask", "test")),
            (Layout::Masks, 1, 1),
            "{files:?}"
        );
    }
    // Classes may be called anything else, and a table that says classes goes before the masks.
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["images/a.png", "others/a.png"]);
    assert_eq!(inspect(root.path()).unwrap().layout, Layout::ClassFolders);
    touch(root.path(), &["masks/a.png"]);
    fs::write(root.path().join("diagnoses.csv"), "image,label\nimages/a.png,naevus\n").unwrap();
    assert_eq!(inspect(root.path()).unwrap().layout, Layout::Manifest);
}

#[test]
fn a_label_that_is_a_file_is_a_mask() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["x/1.png", "x/2.png", "x/3.png", "y/1.png", "y/4.png"]);
    let path = root.path().join("manifest.csv");
    fs::write(&path, "image,label,split\nx/1.png,y/1.png,train\nx/2.png,y/2.png,train\nx/9.png,y/4.png,test\n").unwrap();
    for place in [root.path(), &path] {
        let seen = inspect(place).unwrap();
        assert_eq!((seen.layout, seen.images, seen.snippet.as_ref()), (Layout::Masks, 3, None));
        let told = [("image with mask", "train"), ("image without mask", "train"), ("mask without image", "test")];
        assert_eq!(told.map(|(what, split)| count(&seen, what, split)), [1, 1, 1]);
        assert!(seen.notes[0].contains("1 files of x are in no row as image: 3.png"), "{:?}", seen.notes);
        assert!(seen.notes.iter().any(|note| note.starts_with("column \"label\" names mask files")), "{:?}", seen.notes);
    }
    // A point in a class's name makes no file of it.
    fs::write(&path, "image,label\nx/1.png,grade 2.5\nx/2.png,grade 3\n").unwrap();
    assert_eq!(inspect(&path).unwrap().layout, Layout::Manifest);
}

#[test]
fn nn_unet_pairs_by_case() {
    let root = tempfile::tempdir().unwrap();
    touch(
        root.path(),
        &["dataset.json", "imagesTr/h_001_0000.nii.gz", "imagesTr/h_002_0000.nii.gz", "labelsTr/h_001.nii.gz", "imagesTs/h_009_0000.nii.gz"],
    );
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, count(&seen, "volumes", "train"), count(&seen, "volumes", "test")), (Layout::NnUnet, 2, 1));
    assert!(seen.notes[0].starts_with("1 files of imagesTr and labelsTr have no partner"), "{:?}", seen.notes);
}

#[test]
fn the_real_manifest_gives_a_snippet_that_a_job_reads() {
    let Some(root) = real("the_real_manifest_gives_a_snippet_that_a_job_reads", "covid-ct") else { return };
    let seen = inspect(&root).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Manifest, 746, Some(384)));
    assert_eq!(["train", "val", "test"].map(|split| count(&seen, "covid", split)), [191, 60, 98]);
    let snippet = seen.snippet.unwrap();
    let columns: DataColumns =
        serde_json::from_value(serde_json::json!({"input": "image", "label": "label", "patient": "patient_id", "split": "split"})).unwrap();
    assert!(snippet.contains(&format!("    patient: {}\n", columns.patient.unwrap())), "{snippet}");
}

#[test]
fn chest_xray14_says_what_a_random_split_would_leak() {
    let Some(table) = real("chest_xray14_says_what_a_random_split_would_leak", "tables/Data_Entry_2017_v2020.csv.gz") else { return };
    let seen = inspect(&table).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::ChestXray14, 112_120, Some(30_805)));
    assert_eq!((count(&seen, "No Finding", "all"), count(&seen, "Hernia", "all")), (60_361, 227));
    let leak: f64 = seen.notes[0].split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!((leak - 82.5).abs() <= 0.5, "{leak} % of test images with their patient in train");
}

#[test]
fn the_real_boxes_are_counted_by_list() {
    let Some(root) = real("the_real_boxes_are_counted_by_list", "bccd") else { return };
    let seen = inspect(&root).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::Voc, 364));
    assert_eq!(seen.counts.keys().collect::<Vec<_>>(), ["Platelets", "RBC", "WBC"]);
    assert!(seen.notes.iter().all(|note| !note.contains("two of the lists")), "{:?}", seen.notes);
}

/// What a job would read that the snippet says.
fn load(snippet: &str) -> Dataset {
    let job: serde_json::Value = serde_saphyr::from_str(snippet).unwrap();
    let task = serde_json::from_value(job.get("task").cloned().unwrap_or_else(|| serde_json::json!({}))).unwrap();
    Dataset::load(&serde_json::from_value(job["data"].clone()).unwrap(), &task, 0).unwrap()
}

#[test]
fn a_manifest_of_covid_ct_is_what_its_lists_say() {
    let root = tempfile::tempdir().unwrap();
    for class in ["COVID", "NonCOVID"] {
        for (split, count) in [("train", 2), ("val", 1), ("test", 1)] {
            let names: Vec<String> = (0..count).map(|i| format!("{class}%{split}_{i}.png")).collect();
            let path = root.path().join(format!("Data-split/{class}/{split}CT_{class}.txt"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, names.join("\n") + "\n").unwrap();
            touch(root.path(), &names.iter().map(|name| format!("Images-processed/CT_{class}/{}", name.replace('%', "_"))).collect::<Vec<_>>());
        }
    }
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    let read = load(&written.snippet);
    assert_eq!((written.rows, Split::ALL.map(|split| read.split(split).len())), (8, [4, 2, 2]));
    assert_eq!(read.classes, ["covid", "noncovid"]);
    assert!(manifest::write(root.path(), &Options::default()).unwrap_err().to_string().contains("is there already"));
}

#[test]
fn a_manifest_of_chest_xray14_has_the_official_split() {
    let root = tempfile::tempdir().unwrap();
    // Twelve patients, two of them with two images; the last image is in no list.
    let names: Vec<String> = (0..14).map(|i| format!("{:08}_{:03}.png", i * 6 / 7 + 1, if i % 7 == 0 { 0 } else { i % 2 })).collect();
    let findings = |i: usize| if i == 13 { "Hernia" } else { ["Mass|Effusion", "No Finding", "Effusion", "Mass"][i % 4] };
    let rows = names.iter().enumerate().map(|(i, name)| format!("{name},{},0,{},058Y,M,PA\n", findings(i), &name[..8]));
    let header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position\n";
    fs::write(root.path().join("Data_Entry_2017_v2020.csv"), header.to_owned() + &rows.collect::<String>()).unwrap();
    fs::write(root.path().join("train_val_list.txt"), names[..11].join("\n")).unwrap();
    fs::write(root.path().join("test_list.txt"), names[11..13].join("\n")).unwrap();
    touch(root.path(), &names.iter().map(|name| format!("images_00{}/images/{name}", &name[7..8])).collect::<Vec<_>>());
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    assert_eq!(written.rows, 13);
    assert!(written.notes[0].starts_with("1 images are in none or in both"), "{:?}", written.notes);
    assert!(written.snippet.contains("classes: [Effusion, Mass]"), "{}", written.snippet);
    let read = load(&written.snippet);
    let [train, validation, test] = Split::ALL.map(|split| read.split(split).len());
    assert!(train + validation == 11 && validation >= 1 && test == 2, "{train} {validation} {test}");
    assert_eq!(read.told(&read.split(Split::Test)[0]), "Mass");
}

#[test]
fn a_manifest_of_chexpert_has_patients_and_unknowns() {
    let root = tempfile::tempdir().unwrap();
    let header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pneumonia\n";
    let row = |path: &str, values: &str| format!("CheXpert-v1.0-small/{path},Female,68,Frontal,AP,{values}\n");
    let path = |split: &str, patient: u32| format!("{split}/patient{patient:05}/study1/view1_frontal.jpg");
    let train = [
        row(&path("train", 1), "1.0,,"),
        row(&path("train", 2), ",1.0,-1.0"),
        row(&path("train", 3), ",0.0,1.0"),
        row(&path("train", 4), ",1.0,0.0"),
    ];
    fs::write(root.path().join("train.csv"), header.to_owned() + &train.concat()).unwrap();
    fs::write(root.path().join("valid.csv"), header.to_owned() + &row(&path("valid", 9), "0.0,1.0,0.0")).unwrap();
    touch(root.path(), &[path("train", 1), path("train", 2), path("train", 3), path("valid", 9)]);
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    assert!(written.rows == 4 && written.notes[1].starts_with("1 images of the tables"), "{written:?}");
    let text = fs::read_to_string(&written.manifest).unwrap();
    assert!(text.starts_with("image,patient,split,Edema,Pneumonia\n") && text.contains("view1_frontal.jpg,patient00002,train,1.0,-1.0\n"), "{text}");
    assert!(written.snippet.contains("classes: [Edema, Pneumonia]") && !written.snippet.contains("label:"), "{}", written.snippet);
}

/// A file as NumPy writes it.
fn npy(kind: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &u16::try_from(header.len()).unwrap().to_le_bytes()[..], header.as_bytes(), bytes].concat()
}

fn npz(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        archive
            .start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated))
            .unwrap();
        std::io::Write::write_all(&mut archive, bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn sizes_are_told_by_headers_and_nothing_of_files_that_are_empty() {
    let root = tempfile::tempdir().unwrap();
    let save = |name: &str, width, height| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::new(width, height).save(path).unwrap();
    };
    save("a/1.png", 4, 3);
    save("a/2.png", 40, 30);
    save("b/3.bmp", 8, 9);
    let told = |path: &Path| inspect(path).unwrap().notes.into_iter().find(|note| note.starts_with("width × height"));
    assert_eq!(told(root.path()).unwrap(), "width × height of all 3 pictures: 4 × 3 the smallest, 8 × 9 the median, 40 × 30 the largest");
    // What is broken, or an outline of what lies elsewhere, is not counted.
    touch(root.path(), &["b/4.png"]);
    fs::write(root.path().join("b/5.png"), b"no picture").unwrap();
    assert!(told(root.path()).unwrap().starts_with("width × height of 3 of 5 pictures"));
    fs::write(root.path().join("list.csv"), "image,label\na/1.png,a\n").unwrap();
    assert_eq!(told(&root.path().join("list.csv")).unwrap(), "width × height of all 1 pictures: 4 × 3");
    let empty = tempfile::tempdir().unwrap();
    touch(empty.path(), &["a/1.png", "b/2.png", "b/3.nii.gz"]);
    assert_eq!(inspect(empty.path()).unwrap().notes.iter().filter(|note| note.contains(" × ")).count(), 0);
    let Some(data) = real("sizes_are_told_by_headers_and_nothing_of_files_that_are_empty", "hippocampus") else { return };
    let notes = inspect(&data).unwrap().notes;
    let voxels = notes.iter().find(|note| note.starts_with("voxels of 256 of 260 volumes: ")).unwrap();
    assert!(voxels.ends_with("; 1.000 × 1.000 × 1.000 mm apart; stored axes RAS"), "{voxels}");
}

#[test]
fn arrays_are_told_with_their_classes_by_split() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("lungs.npz");
    let member = |name: &str, kind: &str, shape: &str, bytes: Vec<u8>| (name.to_owned(), npy(kind, shape, &bytes));
    let both = |split: &str, n: usize, labels: Vec<u8>| {
        [
            member(&format!("{split}_images"), "|u1", &format!("({n}, 2, 3)"), vec![7; n * 6]),
            member(&format!("{split}_labels"), "|u1", &format!("({n}, 1)"), labels),
        ]
    };
    let without_val = [both("train", 4, vec![0, 1, 1, 1]), both("test", 2, vec![1, 0])].concat();
    npz(&file, &without_val);
    let seen = inspect(&file).unwrap();
    assert_eq!((seen.layout, seen.images, seen.snippet.as_ref()), (Layout::Arrays, 6, None));
    assert_eq!([("0", "train"), ("1", "train"), ("1", "test"), ("1", "val")].map(|(class, split)| count(&seen, class, split)), [1, 3, 1, 0]);
    let notes = seen.notes.join("\n");
    assert!(notes.contains("array \"train_images\": [4, 2, 3] of uint8") && notes.contains("there is no array val_images"), "{notes}");
    // What is said holds: the manifest has no rows of val, and a job holds some out of train.
    let written = manifest::write(&file, &Options::default()).unwrap();
    assert!(written.rows == 6 && written.notes.iter().any(|note| note.starts_with("there is no array val_images")), "{written:?}");

    npz(&file, &[both("train", 2, vec![0, 1]), both("val", 1, vec![1]), both("test", 1, vec![0])].concat());
    let seen = inspect(&file).unwrap();
    assert_eq!((seen.images, count(&seen, "1", "val"), seen.notes.iter().any(|note| note.contains("no array val"))), (4, 1, false));
    // Answers to several questions, as ChestMNIST has them.
    let several = |split: &str| {
        [
            member(&format!("{split}_images"), "|u1", "(2, 1, 1, 3)", vec![7; 6]),
            member(&format!("{split}_labels"), "<i8", "(2, 2)", [1i64, 0, 1, 1].map(i64::to_le_bytes).concat()),
        ]
    };
    npz(&file, &["train", "val", "test"].map(several).concat());
    let seen = inspect(&file).unwrap();
    assert_eq!((count(&seen, "finding-0", "val"), count(&seen, "finding-1", "val")), (2, 1));
    // Other arrays are told, and why they become no manifest.
    npz(&file, &[member("signal", "<f4", "(3,)", vec![0; 12])]);
    let seen = inspect(&file).unwrap();
    assert_eq!((seen.images, seen.counts.len(), seen.notes[0].as_str()), (0, 0, "array \"signal\": [3] of float32"));
    assert!(seen.notes[1].starts_with("`graft data manifest` refuses it:"), "{:?}", seen.notes);
    // Under a name of MedMNIST's it is not what they publish.
    let theirs = root.path().join("breastmnist.npz");
    npz(&theirs, &without_val);
    assert!(inspect(&theirs).unwrap().notes.last().unwrap().contains("has the MD5"));
    fs::write(&file, b"PK\x03\x04 and no more").unwrap();
    assert!(inspect(&file).unwrap_err().to_string().contains("no .npz archive"));
    let mut archive = zip::ZipWriter::new(fs::File::create(&file).unwrap());
    archive.start_file("a/1.png", zip::write::SimpleFileOptions::default()).unwrap();
    archive.finish().unwrap();
    assert!(inspect(&file).unwrap_err().to_string().contains("unpack it, and name the folder"));
}

#[test]
fn what_is_no_layout_says_what_to_name_instead() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["lungs.npz"]);
    assert!(inspect(root.path()).unwrap_err().to_string().contains("name one of its .npz files, such as"));
    touch(root.path(), &["only/1.png"]);
    let notes = inspect(root.path()).unwrap().notes;
    assert!(notes.iter().any(|note| note.starts_with("one folder of images is no class among others")), "{notes:?}");
    let error = manifest::write(root.path(), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("has one folder of images only"), "{error}");
}

#[test]
fn the_real_digits_are_told() {
    let Some(data) = real("the_real_digits_are_told", "digits") else { return };
    let seen = inspect(&data.join("usps.npz")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.counts.len()), (Layout::Arrays, 9298, 10));
    let of = |split: &str| (0..10).map(|class| count(&seen, &class.to_string(), split)).sum::<usize>();
    // Counted with Python from the file's own bytes.
    assert_eq!((of("train"), of("test"), count(&seen, "0", "train")), (7291, 2007, 1194));
    assert!(seen.notes.contains(&"array \"train_images\": [7291, 16, 16] of uint8".to_owned()), "{:?}", seen.notes);
}

#[test]
fn one_file_is_told_for_what_it_is() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["a.png"]);
    assert!(inspect(&root.path().join("a.png")).unwrap_err().to_string().contains("is one picture"));
    let Some(data) = real("one_file_is_told_for_what_it_is", "") else { return };
    let seen = inspect(&data.join("nifti/nibabel/anatomical.nii")).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::Volumes, 1));
    assert!(seen.notes[0].starts_with("voxels of all 1 volumes: 33 × 41 × 25; "), "{:?}", seen.notes);
    let seen = inspect(&data.join("nifti/nibabel/example4d.nii.gz")).unwrap();
    assert!(seen.notes[0].starts_with("one file of 2 volumes") && seen.notes[2].starts_with("48 axial slices"), "{:?}", seen.notes);
    let pair = inspect(&data.join("nifti/nibabel/nifti1.hdr")).unwrap_err().to_string();
    assert!(pair.contains("convert it to one .nii.gz"), "{pair}");
    let slice = fs::read_dir(data.join("ct-series/p001")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let seen = inspect(&slice).unwrap();
    assert_eq!((seen.layout, seen.images, seen.series.len(), seen.series[0].size), (Layout::DicomSeries, 1, 1, [512, 512]));
    assert!(seen.notes.last().unwrap().contains("name its folder"), "{:?}", seen.notes);
}

#[test]
fn arrays_of_medmnist_become_files() {
    let root = tempfile::tempdir().unwrap();
    let members = |labels: &dyn Fn(usize) -> Vec<u8>| {
        let sizes = [("train", 8u8), ("val", 2), ("test", 2)];
        let images = sizes.map(|(split, n)| (format!("{split}_images"), npy("|u1", &format!("({n}, 2, 3)"), &(0..n * 6).collect::<Vec<u8>>())));
        let own = sizes.map(|(split, n)| {
            let bytes = labels(usize::from(n));
            let width = bytes.len() / usize::from(n);
            (format!("{split}_labels"), npy("|u1", &format!("({n}, {width})"), &bytes))
        });
        images.into_iter().chain(own).collect::<Vec<_>>()
    };
    let file = root.path().join("lungs.npz");
    npz(&file, &members(&|n| (0..n).map(|i| (i % 2) as u8).collect()));
    let written = manifest::write(&file, &Options::default()).unwrap();
    let read = load(&written.snippet);
    assert_eq!((Split::ALL.map(|split| read.split(split).len()), read.classes.as_slice()), ([8, 2, 2], ["0".to_owned(), "1".to_owned()].as_slice()));
    let image = image::open(root.path().join("lungs/images/val/000001.png")).unwrap().into_luma8();
    assert_eq!((image.dimensions(), image.as_raw().as_slice()), ((3, 2), [6u8, 7, 8, 9, 10, 11].as_slice()));
    assert!(manifest::write(&file, &Options::default()).unwrap_err().to_string().contains("is there already"));
    // Under a name of MedMNIST's it is not what they publish.
    let theirs = root.path().join("pneumoniamnist.npz");
    fs::copy(&file, &theirs).unwrap();
    let error = manifest::write(&theirs, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("pneumoniamnist.npz has the MD5 ") && error.contains("28209eda62fecd6e6a2d98b1501bb15f"), "{error}");
    assert!(error.contains("fetch it anew") && !root.path().join("pneumoniamnist").exists(), "{error}");

    npz(&file, &members(&|n| (0..n).flat_map(|i| [(i % 2) as u8, 1 - (i % 2) as u8, 1]).collect()));
    let read = load(&manifest::write(&file, &into(root.path().join("out"))).unwrap().snippet);
    assert_eq!(read.told(&read.split(Split::Test)[1]), "finding-0|finding-2");

    let mut odd = members(&|n| vec![0; n]);
    odd[0].1 = npy("|u1", "(800, 2000, 3000)", &[0; 12]);
    npz(&file, &odd);
    let error = manifest::write(&file, &into(root.path().join("odd"))).unwrap_err().to_string();
    assert!(error.contains("train_images") && error.contains("bytes for"), "{error}");
    odd[0].1 = npy("<f4", "(8, 1, 1)", &[0; 32]);
    npz(&file, &odd);
    assert!(manifest::write(&file, &into(root.path().join("odd"))).unwrap_err().to_string().contains("<f4"));
    fs::write(&file, b"PK\x03\x04 and no more").unwrap();
    assert!(manifest::write(&file, &into(root.path().join("odd"))).unwrap_err().to_string().contains("no .npz archive"));
}
