//! Folders of web servers, and data sets of the Hugging Face Hub. A server lists nothing, so it is asked for each file by its name. The hub
//! lists a data set at a commit, from which all its files are then taken, whatever is added meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use graft_data::sliced;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::{Method, Request, Response};

use super::bucket::{Object, is_path};
use super::mirror::{Objects, named};
use super::{CONNECTIONS, Download, PAUSE, RemoteError, TRIES, agent, hub, on_loopback, plain, refusal, unreachable};

/// What stands in an address for something else than itself.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// A page of the hub's list is no longer than this.
const PAGE_LIMIT: u64 = 64 << 20;

/// A folder of a server.
pub(super) struct Server {
    agent: ureq::Agent,
    token: Option<String>,
    name: String,
    /// The folder's address, without a slash at its end; of a data set of the hub only once that is listed.
    folder: String,
    data_set: Option<DataSet>,
}

/// A data set of the hub, or a folder in it.
struct DataSet {
    hub: String,
    /// `OWNER/NAME`.
    repository: String,
    revision: String,
    /// Empty, or without slashes around it.
    folder: String,
}

/// A line of the hub's list.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    /// The SHA-256 of the content.
    oid: String,
}

/// What a revision is.
#[derive(Deserialize)]
struct Commit {
    sha: String,
}

impl Server {
    /// What `https://HOST/FOLDER` or `hf://datasets/OWNER/NAME@REVISION/FOLDER` names; the revision may be left out, and is `main` then.
    /// `HF_ENDPOINT` and `HF_TOKEN` are respected, and the token goes to the hub alone.
    ///
    /// # Errors
    /// `Unreachable` when it names none, `Io` when the file of certificates cannot be read.
    pub(super) fn of(uri: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, RemoteError> {
        let certificates = environment("SSL_CERT_FILE");
        if let Some(rest) = uri.strip_prefix("https://") {
            if rest.starts_with('/') || rest.contains(['?', '#', '@']) {
                return Err(unreachable("is no https://HOST/FOLDER without a name, a password and a query".into(), true));
            }
            let name = rest.split('/').next().unwrap_or_default().to_owned();
            let folder = uri.trim_end_matches('/').to_owned();
            return Ok(Self { agent: agent(certificates, false)?, token: None, name, folder, data_set: None });
        }
        let hub = hub(&environment);
        let wrong = || unreachable("is no hf://datasets/OWNER/NAME@REVISION/FOLDER".into(), true);
        let data_set = DataSet::of(uri, &hub).ok_or_else(wrong)?;
        let name = data_set.repository.replace('/', "-");
        let agent = agent(certificates, on_loopback(&hub))?;
        Ok(Self { agent, token: environment("HF_TOKEN"), name, folder: String::new(), data_set: Some(data_set) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn place(&self) -> &str {
        self.data_set.as_ref().map_or("", |data_set| &data_set.hub)
    }

    /// All files of a data set of the hub, at the commit that its revision is now; none of a plain server.
    ///
    /// # Errors
    /// `Unreachable` when the hub does not say.
    pub(super) fn list(&mut self) -> Result<Option<Objects>, RemoteError> {
        let Some(data_set) = &self.data_set else { return Ok(None) };
        let missing = || unreachable("the hub has no such data set, revision or folder".into(), true);
        let (commit, _): (Commit, _) = self.read(&data_set.about("revision", &data_set.revision))?.ok_or_else(missing)?;
        let mut next = Some(format!("{}?recursive=true", data_set.below(&data_set.about("tree", &commit.sha))));
        let within = if data_set.folder.is_empty() { String::new() } else { format!("{}/", data_set.folder) };
        let mut objects = Objects::new();
        while let Some(page) = next.take() {
            let (entries, more): (Vec<Entry>, _) = self.read(&page)?.ok_or_else(missing)?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                let Some(key) = entry.path.strip_prefix(&within).filter(|key| is_path(key)) else { continue };
                let sha256 = entry.lfs.map(|lfs| lfs.oid.to_lowercase());
                let version = sha256.clone().unwrap_or(entry.oid);
                objects.insert(key.to_owned(), Object { version, bytes: entry.size, sha256 });
            }
            // Also where a mirror passes on the hub's own address: the token is not shown to another server.
            next = more.and_then(|address| Some(format!("{}{}", data_set.hub, &address[address.find("/api/")?..])));
        }
        let files = format!("{}/datasets/{}/resolve/{}", data_set.hub, data_set.repository, commit.sha);
        self.folder = data_set.below(&files);
        Ok(Some(objects))
    }

    /// Those of the files that there are.
    ///
    /// # Errors
    /// `Unreachable` when the server does not say of one of them.
    pub(super) fn find(&self, keys: &BTreeSet<String>) -> Result<Objects, RemoteError> {
        // `scan.nii#4` is slice 4 of scan.nii, unless there is only a file of that very name.
        let (slices, files): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| sliced(key).is_some());
        let mut found = self.look(&files)?;
        let left: Vec<&String> = slices.into_iter().filter(|key| sliced(key).is_none_or(|(file, _)| !found.contains_key(file))).collect();
        found.extend(self.look(&left)?);
        Ok(found)
    }

    fn look(&self, keys: &[&String]) -> Result<Objects, RemoteError> {
        let next = AtomicUsize::new(0);
        let share = || {
            let mut found = Objects::new();
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.object(key) {
                    Ok(Some(object)) => drop(found.insert((*key).clone(), object)),
                    Ok(None) => {}
                    Err(error) => {
                        next.store(keys.len(), Ordering::Relaxed);
                        return Err(named(key, error));
                    }
                }
            }
            Ok(found)
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..CONNECTIONS.min(keys.len())).map(|_| scope.spawn(share)).collect();
            let mut found = Objects::new();
            for one in all {
                let crashed = |_| Err(unreachable("a thread that asked for files crashed".into(), false));
                found.extend(one.join().unwrap_or_else(crashed)?);
            }
            Ok(found)
        })
    }

    /// A file as the server has it now.
    fn object(&self, key: &str) -> Result<Option<Object>, RemoteError> {
        if !is_path(key) {
            return Ok(None);
        }
        let Some(answer) = self.ask(Method::HEAD, &self.address(key))? else { return Ok(None) };
        let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let silent = || unreachable("the server does not say how many bytes it has (no Content-Length)".into(), true);
        let bytes = said("content-length").and_then(|text| text.parse().ok()).ok_or_else(silent)?;
        Ok(Some(Object { version: said("etag").or_else(|| said("last-modified")).unwrap_or_default(), bytes, sha256: None }))
    }

    /// Fetches a file, as long as that makes progress. What `partial` holds already is not fetched again.
    ///
    /// # Errors
    /// `Unreachable` when the server does not give it, `Io` when `partial` cannot be written.
    pub(super) fn get(&self, key: &str, object: &Object, partial: &Path) -> Result<(), RemoteError> {
        let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() == object.bytes);
        if is_whole(partial) {
            return Ok(());
        }
        let (url, version) = (self.address(key), object.etag());
        let download = Download {
            agent: &self.agent,
            url: &url,
            token: self.token.as_deref(),
            version: version.as_deref(),
            limit: object.bytes,
            is_whole: &is_whole,
        };
        download.complete(partial)
    }

    fn address(&self, key: &str) -> String {
        format!("{}/{}", self.folder, encoded(key))
    }

    /// What the hub says, and where it goes on; none when it has no such thing.
    fn read<T: DeserializeOwned>(&self, url: &str) -> Result<Option<(T, Option<String>)>, RemoteError> {
        let Some(mut answer) = self.ask(Method::GET, url)? else { return Ok(None) };
        let more = answer.headers().get("link").and_then(|link| link.to_str().ok()).and_then(following);
        let odd = |error: ureq::Error| unreachable(format!("the hub's answer cannot be read: {}", plain(&error, url)), false);
        Ok(Some((answer.body_mut().with_config().limit(PAGE_LIMIT).read_json().map_err(odd)?, more)))
    }

    /// The answer, asked for again where that may help; none when there is no such thing.
    fn ask(&self, method: Method, url: &str) -> Result<Option<Response<Body>>, RemoteError> {
        let mut tries = 0;
        loop {
            let mut request = Request::builder().method(method.clone()).uri(url);
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| unreachable(error.to_string(), true))?;
            let why = match self.agent.run(request) {
                Ok(answer) if answer.status().is_success() => return Ok(Some(answer)),
                Ok(answer) if [404, 410].contains(&answer.status().as_u16()) => return Ok(None),
                Ok(answer) => refusal(answer.status().as_u16())?,
                Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(unreachable(error.to_string(), true));
                }
                Err(error) => plain(&error, url),
            };
            tries += 1;
            if tries == TRIES {
                return Err(unreachable(why, false));
            }
            std::thread::sleep(PAUSE * 2u32.pow(tries - 1));
        }
    }
}

impl DataSet {
    fn of(uri: &str, hub: &str) -> Option<Self> {
        let (owner, rest) = uri.strip_prefix("hf://datasets/")?.split_once('/')?;
        let (repository, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        let folder = folder.trim_matches('/');
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['?', '#', '@']);
        ([owner, name, revision].into_iter().all(plain) && (folder.is_empty() || is_path(folder))).then(|| Self {
            hub: hub.to_owned(),
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Where the hub tells something of a revision.
    fn about(&self, what: &str, revision: &str) -> String {
        format!("{}/api/datasets/{}/{what}/{revision}", self.hub, self.repository)
    }

    /// The folder below an address of the whole data set.
    fn below(&self, address: &str) -> String {
        if self.folder.is_empty() { address.to_owned() } else { format!("{address}/{}", encoded(&self.folder)) }
    }
}

fn encoded(key: &str) -> String {
    utf8_percent_encode(key, RESERVED).to_string()
}

/// The address of the next page in a header `Link`.
fn following(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_uri_names_a_data_set_of_the_hub() {
        let parts = |uri| DataSet::of(uri, "https://hub.example").map(|set| (set.repository, set.revision, set.folder));
        let all = |repository: &str, revision: &str, folder: &str| Some((repository.to_owned(), revision.to_owned(), folder.to_owned()));
        assert_eq!(parts("hf://datasets/a/b@v1/ct/lung/"), all("a/b", "v1", "ct/lung"));
        assert_eq!(parts("hf://datasets/a/b"), all("a/b", "main", ""));
        for wrong in
            ["hf://a/b@v1/x", "hf://datasets/a", "hf://datasets/a/@v1", "hf://datasets/a/..", "hf://datasets/a/b@/x", "hf://datasets/a/b/../c"]
        {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        let set = DataSet::of("hf://datasets/a/b@v1/ct 1", "https://hub.example").unwrap();
        assert_eq!(set.below(&set.about("tree", "4f")), "https://hub.example/api/datasets/a/b/tree/4f/ct%201");
    }

    #[test]
    fn addresses_hold_keys_and_no_secrets() {
        let server = Server::of("https://data.example/lung/", |_| None).unwrap();
        assert_eq!(server.address("ct 1/ü#4?.png"), "https://data.example/lung/ct%201/%C3%BC%234%3F.png");
        for wrong in ["https:///x", "https://a.example/x?sig=1", "https://me:secret@a.example/x", "http://a.example/x"] {
            assert!(Server::of(wrong, |_| None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        assert_eq!(following("<https://h.example/p?cursor=a>; rel=\"next\""), Some("https://h.example/p?cursor=a".into()));
        assert_eq!(following("<https://h.example/p>; rel=\"prev\""), None);
    }
}
