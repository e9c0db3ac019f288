//! Weights from a server of this machine: whole, in pieces, with a token, behind a redirect, and what is refused.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use graft_trainer::weights::{WeightsError, locate};
use sha2::{Digest, Sha256};

/// A request as the server saw it.
#[derive(Clone, Debug, Default)]
struct Seen {
    path: String,
    range: Option<u64>,
    token: Option<String>,
}

/// What the server has, and how it behaves.
#[derive(Clone)]
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn body() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: format!("http://{}", listener.local_addr().unwrap()), seen: Arc::default() };
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || own.answer(stream));
            }
        });
        server
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        let mut seen = Seen { path: first.split(' ').nth(1).unwrap().to_owned(), ..Seen::default() };
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            match name.to_lowercase().as_str() {
                "range" => seen.range = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
                "authorization" => seen.token = Some(value.to_owned()),
                _ => {}
            }
        }
        let before = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let bytes = body();
        let from = usize::try_from(seen.range.unwrap_or(0)).unwrap();
        let head =
            |status: &str, length: usize, more: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
        let _ = match seen.path.rsplit('/').next().unwrap() {
            "absent.pth" => stream.write_all(head("404 Not Found", 0, "").as_bytes()),
            "gated.pth" if seen.token.as_deref() != Some("Bearer t0ken") => stream.write_all(head("401 Unauthorized", 0, "").as_bytes()),
            "moved.pth" => {
                // As the hub does: the content lies on another host, which must not see the token.
                let elsewhere = self.address.replace("127.0.0.1", "localhost");
                stream.write_all(head("302 Found", 0, &format!("Location: {elsewhere}/cdn/whole.pth\r\n")).as_bytes())
            }
            "busy.pth" if before == 0 => stream.write_all(head("503 Service Unavailable", 0, "").as_bytes()),
            // The first answer breaks off in the middle.
            "cut.pth" if before == 0 => {
                stream.write_all(head("200 OK", bytes.len(), "").as_bytes()).and_then(|()| stream.write_all(&bytes[..500_000]))
            }
            _ if seen.range.is_some() && from >= bytes.len() => stream.write_all(head("416 Range Not Satisfiable", 0, "").as_bytes()),
            _ => {
                let status = if seen.range.is_some() { "206 Partial Content" } else { "200 OK" };
                stream.write_all(head(status, bytes.len() - from, "").as_bytes()).and_then(|()| stream.write_all(&bytes[from..]))
            }
        };
    }

    fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Environment variables belong to the process, so each case runs in a process of its own: this same test, told to be it.
fn fetch(server: &Server, folder: &std::path::Path, file: &str, sha256: &str, token: Option<&str>) -> String {
    let token = token.map(|token| ("HF_TOKEN", token));
    let variables: Vec<(&str, &str)> = [("HF_ENDPOINT", server.address.as_str())].into_iter().chain(token).collect();
    fetch_with(&format!("hf://org/repo@v1/{file}"), folder, sha256, &variables)
}

fn fetch_with(uri: &str, folder: &std::path::Path, sha256: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture", "--ignored"]);
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"] {
        child.env_remove(name);
    }
    child.env("CHILD", format!("{uri} {sha256} {}", folder.display())).envs(variables.iter().copied());
    let output = child.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("t0ken") && !text.contains("Signature"), "{text}");
    text
}

#[test]
#[ignore = "a part of the other tests, which run it as a process"]
fn child() {
    let asked = std::env::var("CHILD").unwrap();
    let [uri, sha256, folder] = asked.split(' ').collect::<Vec<_>>()[..] else { panic!("{asked}") };
    let result = locate(uri, Some(sha256), folder.as_ref(), |line| println!("log: {line}"));
    match result {
        Ok(path) => println!("path: {}", path.display()),
        Err(error) => println!("error: {error} permanent={}", matches!(error, WeightsError::Unreachable { permanent: true, .. })),
    }
}

#[test]
fn a_file_comes_once_and_is_kept_under_its_digest() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let sha256 = digest(&body());
    let path = folder.path().join(&sha256);
    // Four processes at once, as the ranks of a node.
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| fetch(&server, folder.path(), "whole.pth", &sha256, None))).collect();
        for one in all {
            let text = one.join().unwrap();
            assert!(text.contains(&format!("path: {}", path.display())), "{text}");
        }
    });
    assert_eq!(std::fs::read(&path).unwrap(), body());
    let requests = server.requests();
    assert_eq!((requests.len(), requests[0].path.as_str()), (1, "/org/repo/resolve/v1/whole.pth"));
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let sha256 = digest(&body());
    let text = fetch(&server, folder.path(), "cut.pth", &sha256, None);
    assert!(text.contains("path: "), "{text}");
    assert_eq!(std::fs::read(folder.path().join(&sha256)).unwrap(), body());
    let ranges: Vec<_> = server.requests().iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some(500_000)]);

    // What an earlier process left behind counts too, also when it is all.
    for left in [1_000, body().len()] {
        std::fs::remove_file(folder.path().join(&sha256)).unwrap();
        std::fs::write(folder.path().join(format!("{sha256}.part")), &body()[..left]).unwrap();
        let text = fetch(&server, folder.path(), "whole.pth", &sha256, None);
        assert!(text.contains("path: "), "{text}");
        assert_eq!(server.requests().last().unwrap().range, Some(left as u64));
    }
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let sha256 = digest(&body());
    let text = fetch(&server, folder.path(), "gated.pth", &sha256, None);
    assert!(text.contains("HF_TOKEN") && text.contains("permanent=true"), "{text}");
    let text = fetch(&server, folder.path(), "moved.pth", &sha256, Some("t0ken"));
    assert!(text.contains("path: "), "{text}");
    let tokens: Vec<_> = server.requests().iter().map(|seen| (seen.path.clone(), seen.token.is_some())).collect();
    let wanted = [("/org/repo/resolve/v1/gated.pth", false), ("/org/repo/resolve/v1/moved.pth", true), ("/cdn/whole.pth", false)];
    assert_eq!(tokens, wanted.map(|(path, token)| (path.to_owned(), token)));
}

#[test]
fn what_cannot_be_had_is_said_plainly() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let sha256 = digest(&body());
    let text = fetch(&server, folder.path(), "absent.pth", &sha256, None);
    assert!(text.contains("hf://org/repo@v1/absent.pth: HTTP 404") && text.contains("permanent=true"), "{text}");
    let text = fetch(&server, folder.path(), "whole.pth", &digest(b"other"), None);
    assert!(text.contains("was asked for") && text.contains(&sha256), "{text}");
    assert!(!folder.path().join(digest(b"other")).exists(), "a wrong file is not kept");

    let busy = Server::start();
    let text = fetch(&busy, folder.path(), "busy.pth", &sha256, None);
    assert!(text.contains("path: ") && busy.requests().len() == 2, "{text}");

    let error = locate("https://a.example/x.pth", None, folder.path(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("spec.backbone.weights.sha256"), "{error}");
    let error = locate("https://169.254.169.254/latest/meta-data", Some(&digest(b"none")), folder.path(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("metadata service") && matches!(error, WeightsError::Unreachable { permanent: true, .. }), "{error}");
    let error = locate("ftp://host/x.pth", Some(&sha256), folder.path(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("hf://ORG/REPO@REVISION/FILE"), "{error}");
    let error = locate("gs://bucket/", Some(&sha256), folder.path(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("gs://bucket/: names no object"), "{error}");
}
