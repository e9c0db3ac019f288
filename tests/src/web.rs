//! Web servers for tests, with a folder of this machine behind them: a plain one with TLS that lists nothing, and one that answers as the
//! Hugging Face Hub does of data sets ("Hub API Endpoints"). They know `HEAD`, ranges and versions.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

/// The token that opens the hub.
pub const HUB_TOKEN: &str = "hf_t0ken";
/// What the hub calls the newest state of a data set.
const COMMIT: &str = "4f1d0c0ffee";
/// So many files stand on a page of its list.
const PAGE: usize = 40;

/// A server; it ends with the process.
#[derive(Clone)]
pub struct Web {
    address: SocketAddr,
    folder: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    kind: Kind,
    tls: Option<Arc<ServerConfig>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Hub,
}

/// A request.
struct Asked {
    method: String,
    path: String,
    token: Option<String>,
    range: Option<u64>,
    if_range: Option<String>,
}

impl Web {
    /// `https://` on an address of this machine that is not of loopback, from where nothing is fetched; writes the certificate that
    /// makes it trusted into a file.
    ///
    /// # Errors
    /// The machine has no such address, or the certificate cannot be made.
    pub fn with_tls(folder: &Path, certificate: &Path) -> Result<Self> {
        // No packet is sent: this is only asked which address would be used.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9").or_else(|_| socket.connect("10.255.255.1:9")).context("this machine has no network")?;
        let own = socket.local_addr()?.ip();
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![SanType::IpAddress(own)];
        let signed = parameters.self_signed(&key)?;
        fs::write(certificate, signed.pem())?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)?;
        Self::start(own, folder, Kind::Plain, Some(Arc::new(tls)))
    }

    /// A hub on loopback that has the folder as each data set.
    ///
    /// # Errors
    /// There is no port.
    pub fn hub(folder: &Path) -> Result<Self> {
        Self::start(IpAddr::from([127, 0, 0, 1]), folder, Kind::Hub, None)
    }

    fn start(own: IpAddr, folder: &Path, kind: Kind, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind((own, 0))?;
        let web = Self { address: listener.local_addr()?, folder: folder.to_owned(), asked: Arc::default(), kind, tls };
        let server = web.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || match &server.tls {
                    Some(tls) => {
                        let Ok(connection) = ServerConnection::new(tls.clone()) else { return };
                        server.serve(StreamOwned::new(connection, socket));
                    }
                    None => server.serve(socket),
                });
            }
        });
        Ok(web)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// What has been asked for since this was last called, sorted: method, path, and from which byte on.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
        asked.sort();
        asked
    }

    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read(&mut stream) {
            let from = asked.range.map_or_else(String::new, |from| format!(" from {from}"));
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {}{from}", asked.method, asked.path));
            let (head, body) = self.answer(&asked);
            let body = if asked.method == "HEAD" { &[] } else { body.as_slice() };
            let stream = stream.get_mut();
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, asked: &Asked) -> (String, Vec<u8>) {
        let head = |status: &str, length: usize, more: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n");
        let nothing = |status: &str| (head(status, 0, ""), Vec::new());
        let file = match self.kind {
            Kind::Plain => asked.path.trim_start_matches('/').to_owned(),
            Kind::Hub if asked.token.as_deref() != Some(&format!("Bearer {HUB_TOKEN}")) => return nothing("401 Unauthorized"),
            Kind::Hub => match self.of_hub(&asked.path) {
                Hub::Text(text, more) => return (head("200 OK", text.len(), &more), text.into_bytes()),
                Hub::File(file) => file,
                Hub::Nothing => return nothing("404 Not Found"),
            },
        };
        let Ok(bytes) = fs::read(self.folder.join(file)) else { return nothing("404 Not Found") };
        let version = format!("\"{}\"", &digest(&bytes)[..16]);
        let tag = format!("ETag: {version}\r\n");
        match asked.range.filter(|_| asked.if_range.as_ref().is_none_or(|own| *own == version)) {
            Some(from) if from >= bytes.len() as u64 => nothing("416 Range Not Satisfiable"),
            Some(from) => {
                let rest = bytes[usize::try_from(from).unwrap_or(0)..].to_vec();
                (head("206 Partial Content", rest.len(), &tag), rest)
            }
            None => (head("200 OK", bytes.len(), &tag), bytes),
        }
    }

    fn of_hub(&self, path: &str) -> Hub {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts[..] {
            ["api", "datasets", _, _, "revision", "main" | "v1"] => Hub::Text(format!("{{\"sha\": \"{COMMIT}\", \"private\": true}}"), String::new()),
            ["api", "datasets", owner, name, "tree", COMMIT, ref folder @ ..] => {
                let (folder, from) = (folder.join("/"), query.split_once("cursor=").and_then(|(_, from)| from.parse().ok()).unwrap_or(0));
                let mut all = Vec::new();
                self.list(&folder, &mut all);
                all.sort();
                if all.is_empty() {
                    return Hub::Nothing;
                }
                // As behind a mirror, which passes on what the hub itself says.
                let next = format!("https://hub.example/api/datasets/{owner}/{name}/tree/{COMMIT}/{folder}?recursive=true&cursor={}", from + PAGE);
                let more = if from + PAGE < all.len() { format!("Link: <{next}>; rel=\"next\"\r\n") } else { String::new() };
                let page: Vec<&str> = all.iter().skip(from).take(PAGE).map(|(_, entry)| entry.as_str()).collect();
                Hub::Text(format!("[{}]", page.join(",")), more)
            }
            ["datasets", _, _, "resolve", COMMIT, ref file @ ..] => Hub::File(file.join("/")),
            _ => Hub::Nothing,
        }
    }

    /// Lines of the hub's list below a folder, by path. Images are large files, which the hub knows by their SHA-256.
    fn list(&self, folder: &str, all: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten() {
            let path = [folder, &entry.file_name().to_string_lossy()].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
            if entry.path().is_dir() {
                all.push((path.clone(), format!("{{\"type\": \"directory\", \"oid\": \"d0\", \"size\": 0, \"path\": \"{path}\"}}")));
                self.list(&path, all);
            } else if let Ok(bytes) = fs::read(entry.path()) {
                let (digest, size) = (digest(&bytes), bytes.len());
                let large = format!(", \"lfs\": {{\"oid\": \"{digest}\", \"size\": {size}, \"pointerSize\": 128}}");
                let large = if path.ends_with(".png") { large } else { String::new() };
                let oid = &digest[..40];
                all.push((path.clone(), format!("{{\"type\": \"file\", \"oid\": \"{oid}\", \"size\": {size}, \"path\": \"{path}\"{large}}}")));
            }
        }
    }
}

/// What the hub has to say.
enum Hub {
    Text(String, String),
    File(String),
    Nothing,
}

fn digest(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes))
}

fn read(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    let mut next = |line: &mut String| {
        line.clear();
        stream.read_line(line).ok().filter(|n| *n > 2)
    };
    next(&mut line)?;
    let mut parts = line.split(' ').map(str::to_owned);
    let (method, path) = (parts.next()?, parts.next()?);
    let mut asked = Asked { method, path, token: None, range: None, if_range: None };
    while next(&mut line).is_some() {
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        match name.to_lowercase().as_str() {
            "authorization" => asked.token = Some(value.to_owned()),
            "range" => asked.range = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
            "if-range" => asked.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(asked)
}
