//! Data in an object store: a real S3 server on loopback, and the same jobs as on files of the disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use common::{Run, Site, command, documented, without_sizes};
use graft_tests::object_store::{ObjectStore, PUBLIC, SECRET_KEY};
use serde_json::Value;

struct Place {
    site: Site,
    store: ObjectStore,
}

impl Place {
    fn new() -> Self {
        let (site, store) = (Site::new(), ObjectStore::start("scans").unwrap());
        store.put(&site.path("phantom"), "scans/lung/phantom").unwrap();
        Self { site, store }
    }

    /// `graft TASK` of a job whose data lies in the store, with what this changes in the environment.
    fn graft(&self, task: &str, job: &Path, more: &[(&str, &str)]) -> Run {
        let mut command = command(&[task, &job.to_string_lossy()]);
        command.envs(self.store.variables()).env("XDG_CACHE_HOME", self.site.path("cache")).envs(more.iter().copied());
        let run = Run::of(command.output().unwrap());
        for text in [&run.stdout, &run.stderr] {
            assert!(!text.contains(SECRET_KEY) && !text.contains("Signature"), "{text}");
        }
        run
    }

    fn job(&self, name: &str, uri: &str) -> PathBuf {
        self.site.job(name, |job| job["spec"]["data"]["train"]["uri"] = uri.into())
    }

    /// Objects that were read since this was last asked.
    fn read(&self) -> Vec<String> {
        let mut read: Vec<String> = self.store.asked().into_iter().filter_map(|line| Some(line.strip_prefix("GetObject ")?.to_owned())).collect();
        read.sort();
        read
    }
}

#[test]
fn a_job_is_the_same_whether_its_data_is_a_folder_or_a_prefix() {
    let place = Place::new();
    let images = fs::read_to_string(place.site.path("phantom/manifest.csv")).unwrap().lines().count() - 1;
    // What no row names stays where it is, and is more than a list holds.
    fs::create_dir(place.store.folder().join("scans/lung/phantom/archive")).unwrap();
    for n in 0..1100 {
        fs::write(place.store.folder().join(format!("scans/lung/phantom/archive/{n}.zip")), b"not asked for").unwrap();
    }
    let job = place.job("remote", "s3://scans/lung/phantom");
    let remote = place.graft("validate", &job, &[]);
    assert_eq!(remote.code, Some(0), "{}\n{}", remote.stdout, remote.stderr);
    let local = Run::of(common::graft(&["validate", &place.site.job("local", |_| ()).to_string_lossy()]));
    let own: Vec<&str> = remote.stdout.lines().filter(|line| !line.starts_with("data: ")).collect();
    assert_eq!(own, local.stdout.lines().collect::<Vec<_>>());
    assert!(remote.stdout.contains(&format!("data: fetching {images} of {images} objects")), "{}", remote.stdout);
    assert_eq!(place.read().len(), images + 1, "the manifest and each image, once");

    let again = place.graft("validate", &job, &[]);
    assert_eq!((again.code, place.read()), (Some(0), vec![]), "{}", again.stdout);

    // One object is another, one is gone.
    let folder = place.store.folder().join("scans/lung/phantom");
    let rows: Vec<String> =
        fs::read_to_string(folder.join("manifest.csv")).unwrap().lines().map(|row| row.split(',').next().unwrap().to_owned()).collect();
    fs::copy(folder.join(&rows[2]), folder.join(&rows[1])).unwrap();
    fs::remove_file(folder.join(&rows[3])).unwrap();
    let changed = place.graft("validate", &job, &[]);
    assert_eq!(changed.code, Some(65), "{}\n{}", changed.stdout, changed.stderr);
    let said = format!("{}{}", changed.stdout, changed.stderr);
    assert!(said.contains("1 image files do not exist") && said.contains(&rows[3]), "{said}");
    assert_eq!(place.read(), [format!("/scans/lung/phantom/{}", rows[1])]);
}

#[test]
fn a_prefix_is_inspected_by_its_names_and_tables() {
    let place = Place::new();
    let inspect = |uri: &str| {
        let mut command = command(&["data", "inspect", uri]);
        command.envs(place.store.variables()).env("XDG_CACHE_HOME", place.site.path("cache"));
        Run::of(command.output().unwrap())
    };
    let local = without_sizes(&inspect(&place.site.path("phantom").to_string_lossy()).stdout);
    let run = inspect("s3://scans/lung/phantom");
    assert_eq!(run.stdout, local.replace(&place.site.uri("phantom"), "s3://scans/lung/phantom"), "{}", run.stderr);
    assert!(run.stdout.contains("uri: s3://scans/lung/phantom\n"), "{}", run.stdout);
    assert_eq!(place.read(), ["/scans/lung/phantom/manifest.csv"], "no image");
    assert_eq!(inspect("s3://scans/lung/phantom/manifest.csv").stdout, run.stdout);
    place.store.put(&place.site.path("phantom"), "scans/covid-ct").unwrap();
    let documented = documented("graft data inspect s3://").pop().unwrap();
    assert_eq!(inspect(&documented).stdout, run.stdout.replace("s3://scans/lung/phantom", &documented));
    let run = inspect("s3://scans/nothing");
    assert!(run.code == Some(65) && run.stderr.contains("s3://scans/nothing: holds no object"), "{}", run.stderr);
}

#[test]
fn ranks_train_on_class_folders_of_a_store() {
    let place = Place::new();
    let mut rows = csv::Reader::from_path(place.site.path("phantom/manifest.csv")).unwrap();
    for row in rows.records().map(Result::unwrap) {
        let split = if &row[2] == "test" { "test" } else { "train" };
        let target = place.store.folder().join("scans/folders").join(split).join(&row[1]).join(row[0].replace('/', "-"));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(place.site.path("phantom").join(&row[0]), target).unwrap();
    }
    let job = place.site.job("trained", |job| {
        job["spec"]["data"] = serde_json::json!({
            "train": {"uri": "s3://scans/folders/train/"}, "test": {"uri": "s3://scans/folders/test"}, "patientFrom": "file"
        });
        job["spec"]["fineTune"]["epochs"] = 1.into();
        job["spec"]["head"]["epochs"] = 2.into();
    });
    let run = place.graft("run", &job, &[]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let read = place.read();
    assert_eq!(read.len(), 60, "once for both ranks");
    let index = fs::read_dir(place.site.path("trained/.graft/data")).unwrap().map(|entry| entry.unwrap().path().join("index.csv"));
    let rows: Vec<String> = index.flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(rows.len() == 60 && rows.iter().all(|row| row.rsplit(',').next().is_some_and(|digest| digest.len() == 64)), "{rows:?}");
    let summary: Value = run.summary();
    assert!(summary["output"]["uri"].as_str().is_some_and(|uri| uri.ends_with("/trained")), "{summary}");
}

#[test]
fn what_cannot_be_had_is_said_plainly() {
    let place = Place::new();
    let said = |uri: &str, more: &[(&str, &str)]| {
        let run = place.graft("validate", &place.job("wrong", uri), more);
        (run.code, format!("{}{}", run.stdout, run.stderr))
    };
    let (code, text) = said("s3://scans/lung/nothing", &[]);
    assert!(code == Some(65) && text.contains("spec.data.train: s3://scans/lung/nothing: holds no object"), "{text}");
    let (code, text) = said("s3://scans/lung", &[]);
    assert!(code == Some(65) && text.contains("there is no \"manifest.csv\""), "{text}");
    let (code, text) = said("s3://scans/lung/phantom", &[("AWS_SECRET_ACCESS_KEY", "wrong")]);
    assert!(code == Some(65) && text.contains("HTTP 403") && text.contains("spec.env"), "{text}");
    let (code, text) = said("s3://elsewhere/lung", &[]);
    assert!(code == Some(65) && text.contains("spec.data.train: s3://elsewhere/lung: "), "{text}");
    let (code, text) = said("s3://scans/lung/phantom", &[("AWS_ENDPOINT_URL_S3", "http://169.254.169.254")]);
    assert!(code == Some(65) && text.contains("metadata service"), "{text}");
    let (code, text) = said("s3:///phantom", &[]);
    assert!(code == Some(64) && text.contains("spec.data.train.uri"), "{text}");
}

#[test]
fn weights_come_from_a_store_once() {
    let place = Place::new();
    fs::copy(place.site.path("weights.safetensors"), place.store.folder().join("scans/lung/weights.safetensors")).unwrap();
    let sha256 = graft_trainer_core::artefact::sha256_hex(&fs::read(place.site.path("weights.safetensors")).unwrap());
    let job = |name: &str, key: &str| {
        place.site.job(name, |job| {
            job["spec"]["backbone"]["weights"] = serde_json::json!({"uri": format!("s3://scans/lung/{key}"), "sha256": sha256});
            job["spec"]["fineTune"]["epochs"] = 1.into();
            job["spec"]["head"]["epochs"] = 2.into();
        })
    };
    for _ in 0..2 {
        let run = place.graft("run", &job("weights", "weights.safetensors"), &[]);
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    }
    assert_eq!(place.read(), ["/scans/lung/weights.safetensors"], "once for two ranks and two runs");
    let run = place.graft("run", &job("nothing", "nothing.safetensors"), &[]);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(run.code == Some(64) && said.contains("s3://scans/lung/nothing.safetensors: HTTP 404"), "{said}");
    let run = place.graft("run", &job("refused", "weights.safetensors"), &[("AWS_SECRET_ACCESS_KEY", "wrong")]);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("HTTP 403") && said.contains("AWS_SECRET_ACCESS_KEY"), "{said}");
}

/// The same server, asked as Google's store is by its interface with XML.
#[test]
fn google_cloud_storage_is_read_without_a_key_where_everybody_may() {
    let place = Place::new();
    place.store.put(&place.site.path("phantom"), &format!("{PUBLIC}/lung")).unwrap();
    let validate = |uri: &str| {
        let mut command = command(&["validate", &place.job("google", uri).to_string_lossy()]);
        command.envs(place.store.of_google()).env("XDG_CACHE_HOME", place.site.path("google-cache"));
        let run = Run::of(command.output().unwrap());
        (run.code, format!("{}{}", run.stdout, run.stderr))
    };
    let (code, said) = validate(&format!("gs://{PUBLIC}/lung"));
    assert!(code == Some(0) && said.contains("data: fetching"), "{said}");
    let (code, said) = validate("gs://scans/lung/phantom");
    assert!(code == Some(65) && said.contains("HTTP 403") && said.contains("GOOGLE_SERVICE_ACCOUNT_KEY"), "{said}");
}

/// No server of Azure's can be had here: what one would answer is written down from its documentation ("List Blobs", "Get Blob").
#[test]
fn azure_is_asked_with_the_shared_signature() {
    let place = Place::new();
    let server = Azure::start(place.site.path("phantom"));
    let validate = |token: &str| {
        let mut command = command(&["validate", &place.job("azure", "az://scans/lung").to_string_lossy()]);
        command.env("AZURE_STORAGE_ACCOUNT", "hospital").env("AZURE_STORAGE_ENDPOINT", &server).env("AZURE_STORAGE_SAS_TOKEN", token);
        command.env("XDG_CACHE_HOME", place.site.path("azure-cache"));
        let run = Run::of(command.output().unwrap());
        (run.code, format!("{}{}", run.stdout, run.stderr))
    };
    let (code, said) = validate("sv=2024-08-04&sig=wr0ng");
    assert!(code == Some(65) && said.contains("HTTP 403") && said.contains("AZURE_STORAGE_SAS_TOKEN") && !said.contains("wr0ng"), "{said}");
    let (code, said) = validate("sv=2024-08-04&sig=s3cret");
    assert!(code == Some(0) && said.contains("data: fetching") && !said.contains("s3cret"), "{said}");
}

struct Azure;

impl Azure {
    /// Serves a folder as `scans/lung`; gives the address.
    fn start(folder: PathBuf) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let folder = folder.clone();
                std::thread::spawn(move || Self::answer(connection.unwrap(), &folder));
            }
        });
        address
    }

    fn answer(mut connection: TcpStream, folder: &Path) {
        let mut head = String::new();
        let mut lines = BufReader::new(connection.try_clone().unwrap());
        while lines.read_line(&mut head).unwrap_or(0) > 2 {}
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (status, body) = if !query.contains("sig=s3cret") {
            ("403 Forbidden", Vec::new())
        } else if query.contains("comp=list") {
            assert!(path.ends_with("/scans") && query.contains("prefix=lung%2F"), "{target}");
            ("200 OK", Self::list(folder).into_bytes())
        } else {
            ("200 OK", fs::read(folder.join(path.split_once("/scans/lung/").unwrap().1)).unwrap())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Sat, 28 Nov 2026 10:00:00 GMT\r\nETag: \"0x8DC\"\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&body));
    }

    fn list(folder: &Path) -> String {
        let rows = fs::read_to_string(folder.join("manifest.csv")).unwrap();
        let names = rows.lines().skip(1).map(|row| row.split(',').next().unwrap()).chain(["manifest.csv"]);
        let blobs: String = names
            .map(|name| {
                let bytes = fs::metadata(folder.join(name)).unwrap().len();
                format!(
                    "<Blob><Name>lung/{name}</Name><Properties><Last-Modified>Sat, 28 Nov 2026 10:00:00 GMT</Last-Modified><Content-Length>{bytes}</Content-Length><Content-Type>image/png</Content-Type><Etag>0x8DC</Etag></Properties></Blob>"
                )
            })
            .collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"scans\"><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
        )
    }
}
