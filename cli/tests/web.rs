//! Data of a web server with TLS, and of a hub that answers as Hugging Face's: the same jobs as on files of the disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Site, command, documented, without_sizes};
use graft_tests::web::{HUB_TOKEN, Web};
use serde_json::json;

/// `graft` with the caches of a site and these variables.
fn graft(site: &Site, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = command(arguments);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY", "HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE"] {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", site.path("cache")).envs(variables.iter().copied());
    let run = Run::of(command.output().unwrap());
    assert!(!format!("{}{}", run.stdout, run.stderr).contains(HUB_TOKEN));
    run
}

fn validate(site: &Site, job: &Path, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let run = graft(site, &["validate", &job.to_string_lossy()], variables);
    (run.code, format!("{}{}", run.stdout, run.stderr))
}

fn job(site: &Site, name: &str, uri: &str) -> PathBuf {
    site.job(name, |job| job["spec"]["data"]["train"]["uri"] = uri.into())
}

/// Of what was asked for, the paths of this method.
fn of(asked: &[String], method: &str) -> Vec<String> {
    asked.iter().filter_map(|line| Some(line.strip_prefix(method)?.trim().to_owned())).collect()
}

/// The folder of the cache that holds what was fetched.
fn mirror(site: &Site) -> PathBuf {
    let mut folders = fs::read_dir(site.path("cache/graft/data")).unwrap().map(|entry| entry.unwrap().path());
    (folders.next().unwrap(), assert!(folders.next().is_none())).0
}

#[test]
fn a_web_server_is_asked_for_what_the_manifest_names() {
    let site = Site::new();
    let pem = site.path("server.pem");
    let server = Web::with_tls(&site.path("phantom"), &pem).unwrap();
    fs::write(site.path("phantom/more.png"), b"not asked for").unwrap();
    let trusted = [("SSL_CERT_FILE", pem.to_str().unwrap())];
    let job = job(&site, "web", &server.url());
    let (code, said) = validate(&site, &job, &trusted);
    assert!(code == Some(0) && said.contains("data: fetching 60 of 60 objects"), "{said}");
    let asked = server.asked();
    assert_eq!((of(&asked, "HEAD").len(), of(&asked, "GET").len()), (61, 61), "the manifest and each image, once: {asked:?}");
    let rows = fs::read_to_string(mirror(&site).join("index.csv")).unwrap();
    assert!(rows.lines().count() == 61 && rows.lines().all(|row| row.rsplit(',').next().unwrap().len() == 64), "{rows}");

    // Nothing is fetched that is there; what is another, is; a download that broke off goes on, if the file is still that one.
    let (code, said) = validate(&site, &job, &trusted);
    let names: Vec<String> =
        fs::read_to_string(site.path("phantom/manifest.csv")).unwrap().lines().skip(1).map(|row| row.split(',').next().unwrap().to_owned()).collect();
    assert!(code == Some(0) && of(&server.asked(), "GET").is_empty(), "{said}");
    let bytes = fs::read(site.path("phantom").join(&names[1])).unwrap();
    fs::write(site.path("phantom").join(&names[0]), &bytes).unwrap();
    fs::remove_file(site.path("phantom").join(&names[2])).unwrap();
    let (code, said) = validate(&site, &job, &trusted);
    assert!(code == Some(65) && said.contains("1 image files do not exist") && said.contains(&names[2]), "{said}");
    assert_eq!(of(&server.asked(), "GET"), [format!("/{}", names[0])]);

    // Whose certificate nobody vouches for, is not asked; nor what only the node should reach.
    let (code, said) = validate(&site, &job, &[]);
    assert!(code != Some(0) && said.contains("certificate"), "{said}");
    for (inside, wanted) in [("https://169.254.169.254/latest", "metadata service"), ("https://127.0.0.1:1/x", "this machine itself")] {
        let (code, said) = validate(&site, &self::job(&site, "inside", inside), &trusted);
        assert!(code == Some(65) && said.contains(wanted), "{said}");
    }
    for wrong in ["https://me:secret@data.example/x", "https://data.example/x?sig=1", "http://data.example/x"] {
        let (code, said) = validate(&site, &self::job(&site, "wrong", wrong), &trusted);
        assert!(code == Some(64) && said.contains("spec.data.train.uri"), "{said}");
    }
    let unlisted = site.job("unlisted", |job| job["spec"]["data"] = json!({"train": {"uri": server.url()}, "test": {"uri": server.url()}}));
    let (code, said) = validate(&site, &unlisted, &trusted);
    assert!(code == Some(64) && said.contains("name its manifest"), "{said}");
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let site = Site::new();
    let pem = site.path("server.pem");
    let server = Web::with_tls(&site.path("phantom"), &pem).unwrap();
    let trusted = [("SSL_CERT_FILE", pem.to_str().unwrap())];
    let job = job(&site, "web", &server.url());
    assert_eq!(validate(&site, &job, &trusted).0, Some(0));
    let index = mirror(&site).join("index.csv");
    let rows = fs::read_to_string(&index).unwrap();
    let row: Vec<&str> = rows.lines().find(|row| row.contains(".png")).unwrap().split(',').collect();
    // As if it had been cut off: a part under the name that belongs to its key and version, and no line in the index.
    let (key, version) = (row[0], format!("\"{}\"", row[1].trim_matches('"')));
    let whole = fs::read(site.path("phantom").join(key)).unwrap();
    let part = mirror(&site).join("parts").join(&graft_trainer_core::artefact::sha256_hex(format!("{key}\n{version}").as_bytes())[..16]);
    fs::write(&part, &whole[..100]).unwrap();
    fs::write(&index, rows.lines().filter(|row| !row.starts_with(key)).map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let _ = server.asked();
    let (code, said) = validate(&site, &job, &trusted);
    assert!(code == Some(0) && said.contains("data: fetching 1 of 60 objects"), "{said}");
    assert_eq!(of(&server.asked(), "GET"), [format!("/{key} from 100")]);
    assert_eq!(fs::read(mirror(&site).join("files").join(key)).unwrap(), whole);
}

#[test]
fn a_data_set_of_the_hub_is_listed_at_one_commit() {
    let site = Site::new();
    let hub = Web::hub(&site.path("")).unwrap();
    let url = hub.url();
    let variables = [("HF_ENDPOINT", url.as_str()), ("HF_TOKEN", HUB_TOKEN)];
    let first = job(&site, "hub", "hf://datasets/hospital/lungs@v1/phantom");
    let (code, said) = validate(&site, &first, &variables);
    assert!(code == Some(0) && said.contains("data: fetching 60 of 60 objects"), "{said}");
    let asked = of(&hub.asked(), "GET");
    assert_eq!(asked.len(), 1 + 2 + 61, "the commit, two pages, the manifest and each image: {asked:?}");
    assert!(asked.iter().all(|path| path.contains("/revision/v1") || path.contains("4f1d0c0ffee")), "{asked:?}");
    let (code, said) = validate(&site, &first, &variables);
    assert!(code == Some(0) && of(&hub.asked(), "GET").len() == 3, "{said}");

    let said = |uri: &str, variables: &[(&str, &str)]| validate(&site, &job(&site, "wrong", uri), variables);
    let (code, text) = said("hf://datasets/hospital/lungs@v1/phantom", &variables[..1]);
    assert!(code == Some(65) && text.contains("HTTP 401") && text.contains("HF_TOKEN"), "{text}");
    for absent in ["hf://datasets/hospital/lungs@v9/phantom", "hf://datasets/hospital/lungs@v1/nothing"] {
        let (code, text) = said(absent, &variables);
        assert!(code == Some(65) && text.contains("no such data set, revision or folder"), "{text}");
    }
    let (code, text) = said("hf://hospital/lungs@v1/phantom", &variables);
    assert!(code == Some(64) && text.contains("spec.data.train.uri"), "{text}");
}

#[test]
fn class_folders_of_the_hub_train_two_ranks() {
    let site = Site::new();
    let mut rows = csv::Reader::from_path(site.path("phantom/manifest.csv")).unwrap();
    for row in rows.records().map(Result::unwrap) {
        let split = if &row[2] == "test" { "test" } else { "train" };
        let target = site.path("hub").join(split).join(&row[1]).join(row[0].replace('/', "-"));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(site.path("phantom").join(&row[0]), target).unwrap();
    }
    let hub = Web::hub(&site.path("hub")).unwrap();
    let job = site.job("trained", |job| {
        job["spec"]["data"] = json!({
            "train": {"uri": "hf://datasets/a/b/train"}, "test": {"uri": "hf://datasets/a/b/test"}, "patientFrom": "file"
        });
        job["spec"]["fineTune"]["epochs"] = 1.into();
        job["spec"]["head"]["epochs"] = 2.into();
    });
    let run = graft(&site, &["run", &job.to_string_lossy()], &[("HF_ENDPOINT", hub.url().as_str()), ("HF_TOKEN", HUB_TOKEN)]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert_eq!(of(&hub.asked(), "GET").iter().filter(|path| path.starts_with("/datasets/")).count(), 60, "once for both ranks");
}

#[test]
fn what_lies_elsewhere_is_inspected_by_its_names() {
    let site = Site::new();
    let local = without_sizes(&graft(&site, &["data", "inspect", &site.path("phantom").to_string_lossy()], &[]).stdout);
    let pem = site.path("server.pem");
    let server = Web::with_tls(&site.path("phantom"), &pem).unwrap();
    let uri = documented("graft data inspect https://").pop().unwrap().replace("https://data.example/lungs", &server.url());
    let run = graft(&site, &["data", "inspect", &uri], &[("SSL_CERT_FILE", pem.to_str().unwrap())]);
    assert_eq!(run.stdout, local.replace(&site.uri("phantom"), &server.url()), "{}", run.stderr);
    assert_eq!(of(&server.asked(), "GET"), ["/manifest.csv"]);
    let run = graft(&site, &["data", "inspect", &server.url()], &[("SSL_CERT_FILE", pem.to_str().unwrap())]);
    assert!(run.code == Some(65) && run.stderr.contains("name a table in it"), "{}", run.stderr);

    std::os::unix::fs::symlink(site.path("phantom"), site.path("ct")).unwrap();
    let hub = Web::hub(&site.path("")).unwrap();
    let (url, uri) = (hub.url(), documented("graft data inspect hf://").pop().unwrap());
    let uri = uri.as_str();
    let variables = [("HF_ENDPOINT", url.as_str()), ("HF_TOKEN", HUB_TOKEN)];
    let run = graft(&site, &["data", "inspect", uri], &variables);
    assert_eq!(run.stdout, local.replace(&site.uri("phantom"), uri), "{}", run.stderr);
    let read = of(&hub.asked(), "GET");
    assert_eq!(read.iter().filter(|path| path.starts_with("/datasets/")).count(), 1, "{read:?}");
    // What the snippet says is what a job can say.
    let run = graft(&site, &["data", "doctor", uri], &variables);
    assert!(run.code == Some(64) && run.stderr.contains("spec.data of a job"), "{}", run.stderr);
}
