//! Weights from the network into a folder, under their digest, once for all processes that share the folder: a download
//! that was cut off goes on where it stopped, and nothing is taken for the file before its SHA-256 is right.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{MAX_FILE, WeightsError};
use crate::remote::{Bucket, Download, RemoteError, agent, environment, hub, in_a_store, on_loopback, shown};
use crate::storage;

/// The file that `uri` names. `file://` is where it is; `https://`, `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `az://CONTAINER/KEY` and
/// `hf://ORG/REPO@REVISION/FILE` are downloaded into `folder`, unless they lie there, and then `sha256` must be given. `HF_ENDPOINT`,
/// `HF_TOKEN`, the variables of AWS's, Google's and Azure's tools for keys, region, account and endpoint, `HTTPS_PROXY`, `NO_PROXY` and
/// `SSL_CERT_FILE` are respected; the token goes to the hub alone, a secret key nowhere, and neither is shown. A job cannot reach what
/// only its node should: link-local and metadata addresses, and those of loopback unless the hub or the endpoint itself is there, are
/// refused. `log` hears what takes long.
///
/// # Errors
/// `Unreachable` when the server cannot be reached or does not have the file, `Digest` when it has another one, `Io` when the
/// folder cannot be written.
pub fn locate(uri: &str, sha256: Option<&str>, folder: &Path, mut log: impl FnMut(String)) -> Result<PathBuf, WeightsError> {
    if uri.starts_with("file://") {
        return Ok(graft_data::local_path(uri).to_path_buf());
    }
    let hub = hub(environment);
    let refused = |why: String| WeightsError::Unreachable { uri: shown(uri).to_owned(), why, permanent: true };
    let source = if in_a_store(uri) {
        if uri.split_once("://").and_then(|(_, rest)| rest.split_once("/")).is_none_or(|(_, key)| key.is_empty()) {
            return Err(refused("names no object: it is s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY".into()));
        }
        Source::Store(Bucket::of(uri, environment).map_err(|error| of_weights(error, uri))?)
    } else {
        let url = address(uri, &hub);
        let url = url.ok_or_else(|| refused("is no file:///…, https://…, s3://BUCKET/KEY, gs://…, az://… or hf://ORG/REPO@REVISION/FILE".into()))?;
        let token = uri.starts_with("hf://").then(|| environment("HF_TOKEN")).flatten();
        let agent = agent(environment("SSL_CERT_FILE"), on_loopback(&hub)).map_err(|error| of_weights(error, uri))?;
        Source::Server { url, token, agent }
    };
    let digest = sha256.ok_or_else(|| refused("needs spec.backbone.weights.sha256, so that what arrives is what was meant".into()))?.to_lowercase();
    Fetch { uri, source, digest }.keep_in(folder, &mut log)
}

/// The address behind a URI; none when it is not one of those that can be fetched.
fn address(uri: &str, hub: &str) -> Option<String> {
    let Some(rest) = uri.strip_prefix("hf://") else {
        return uri.starts_with("https://").then(|| uri.to_owned());
    };
    let (owner, rest) = rest.split_once('/')?;
    let (name, rest) = rest.split_once('@')?;
    let (revision, file) = rest.split_once('/')?;
    let whole = [owner, name, revision, file].iter().all(|part| !part.is_empty() && !part.split('/').any(|step| step == ".."));
    whole.then(|| format!("{hub}/{owner}/{name}/resolve/{revision}/{file}"))
}

/// Weights on their way into a folder.
struct Fetch<'a> {
    uri: &'a str,
    source: Source,
    digest: String,
}

/// Where they are.
enum Source {
    Server {
        url: String,
        /// What the server is shown that asks for a bearer token.
        token: Option<String>,
        agent: ureq::Agent,
    },
    Store(Bucket),
}

impl Fetch<'_> {
    fn keep_in(&self, folder: &Path, log: &mut impl FnMut(String)) -> Result<PathBuf, WeightsError> {
        let path = folder.join(&self.digest);
        let io = |source| WeightsError::Io { path: path.clone(), source };
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(folder).map_err(io)?;
        // Processes that share the folder wait for the one that downloads. A file system without locks gets several downloads.
        let lock = File::create(folder.join(format!("{}.lock", self.digest))).map_err(io)?;
        let alone = lock.lock().is_ok();
        if path.exists() {
            return Ok(path);
        }
        let suffix = if alone { "part".to_owned() } else { format!("part-{:016x}", getrandom::u64().unwrap_or_else(|_| std::process::id().into())) };
        let partial = folder.join(format!("{}.{suffix}", self.digest));
        log(format!("weights: downloading {}", shown(self.uri)));
        self.complete(&partial)?;
        let found = digest_of(&partial).map_err(io)?;
        if found != self.digest {
            fs::remove_file(&partial).map_err(io)?;
            return Err(WeightsError::Digest { path: shown(self.uri).into(), expected: self.digest.clone(), found });
        }
        File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&partial, &path).map_err(io)?;
        log(format!("weights: {} bytes downloaded to {}", fs::metadata(&path).map_err(io)?.len(), path.display()));
        Ok(path)
    }

    fn complete(&self, partial: &Path) -> Result<(), WeightsError> {
        let done = match &self.source {
            Source::Server { url, token, agent } => {
                let is_whole = |path: &Path| digest_of(path).is_ok_and(|found| found == self.digest);
                Download { agent, url, token: token.as_deref(), version: None, limit: MAX_FILE, is_whole: &is_whole }.complete(partial)
            }
            Source::Store(bucket) => bucket.object().and_then(|object| {
                if object.bytes > MAX_FILE {
                    let why = format!("is larger than the limit of {MAX_FILE} bytes");
                    return Err(RemoteError::Unreachable { why, permanent: true });
                }
                bucket.get("", &object, partial)
            }),
        };
        done.map_err(|error| of_weights(error, self.uri))
    }
}

fn of_weights(error: RemoteError, uri: &str) -> WeightsError {
    match error {
        RemoteError::Io { path, source } => WeightsError::Io { path, source },
        RemoteError::Unreachable { why, permanent } => WeightsError::Unreachable { uri: shown(uri).to_owned(), why, permanent },
    }
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    storage::entry(path).map(|file| file.sha256)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_hf_uri_is_an_address_of_the_hub() {
        let at = |uri| address(uri, "https://hub.example");
        assert_eq!(
            at("hf://timm/resnet18.a1_in1k@491b427/model.safetensors").unwrap(),
            "https://hub.example/timm/resnet18.a1_in1k/resolve/491b427/model.safetensors"
        );
        assert_eq!(at("https://a.example/x.pth?sig=1").unwrap(), "https://a.example/x.pth?sig=1");
        for wrong in ["hf://timm/resnet18/model.safetensors", "hf://timm/resnet18@/x", "hf://a/b@c/../d", "s3://a/b", "http://a/b", "hf://"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
