//! Weights from the network into a folder, under their digest, once for all processes that share the folder: a download
//! that was cut off goes on where it stopped, and nothing is taken for the file before its SHA-256 is right.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::{MAX_FILE, WeightsError};
use crate::storage;

/// How long a signed address is good for: as long as a large file over a slow line with many repetitions.
const SIGNED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The hub that `hf://` means where the environment names no other in `HF_ENDPOINT`.
const HUB: &str = "https://huggingface.co";
/// Tries until a download makes no more progress, and the pause before the first repetition.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// The file that `uri` names. `file://` is where it is; `https://`, `s3://BUCKET/KEY` and `hf://ORG/REPO@REVISION/FILE` are downloaded
/// into `folder`, unless they lie there, and then `sha256` must be given. `HF_ENDPOINT`, `HF_TOKEN`, the variables of AWS's tools for
/// keys, region and endpoint, `HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE` are respected; the token goes to the hub alone, a secret key
/// nowhere, and neither is shown. A job cannot reach what only its node should: link-local and metadata addresses, and those of loopback
/// unless the hub or the endpoint itself is there, are refused. `log` hears what takes long.
///
/// # Errors
/// `Unreachable` when the server cannot be reached or does not have the file, `Digest` when it has another one, `Io` when the
/// folder cannot be written.
pub fn locate(uri: &str, sha256: Option<&str>, folder: &Path, mut log: impl FnMut(String)) -> Result<PathBuf, WeightsError> {
    if uri.starts_with("file://") {
        return Ok(graft_data::local_path(uri).to_path_buf());
    }
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let hub = environment("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned());
    let refused = |why: String| WeightsError::Unreachable { uri: shown(uri).to_owned(), why, permanent: true };
    let store = Store::of(environment);
    let url = if uri.starts_with("s3://") { store.address(uri) } else { address(uri, &hub) };
    let url = url.ok_or_else(|| refused("is no file:///…, https://…, s3://BUCKET/KEY or hf://ORG/REPO@REVISION/FILE".into()))?;
    let loopback = on_loopback(if uri.starts_with("s3://") { &store.endpoint } else { &hub });
    let digest = sha256.ok_or_else(|| refused("needs spec.backbone.weights.sha256, so that what arrives is what was meant".into()))?.to_lowercase();
    let token = uri.starts_with("hf://").then(|| environment("HF_TOKEN")).flatten();
    let download = Download { uri, url, token, digest, agent: agent(environment("SSL_CERT_FILE"), loopback)? };
    download.keep_in(folder, &mut log)
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
    whole.then(|| format!("{}/{owner}/{name}/resolve/{revision}/{file}", hub.trim_end_matches('/')))
}

/// An object store that speaks S3, and the keys for it.
struct Store {
    endpoint: String,
    style: UrlStyle,
    region: String,
    keys: Option<Credentials>,
}

impl Store {
    /// As AWS's own tools find it. Without keys, objects are asked for that everybody may read.
    fn of(environment: impl Fn(&str) -> Option<String>) -> Self {
        let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
        let own = environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
        let keys =
            environment("AWS_ACCESS_KEY_ID").zip(environment("AWS_SECRET_ACCESS_KEY")).map(|(id, secret)| match environment("AWS_SESSION_TOKEN") {
                Some(token) => Credentials::new_with_token(id, secret, token),
                None => Credentials::new(id, secret),
            });
        // Stores that are not AWS's rarely have a host name for each bucket.
        let style = if own.is_some() { UrlStyle::Path } else { UrlStyle::VirtualHost };
        Self { endpoint: own.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")), style, region, keys }
    }

    /// The address of `s3://BUCKET/KEY`, signed if there are keys.
    fn address(&self, uri: &str) -> Option<String> {
        let (bucket, key) = uri.strip_prefix("s3://")?.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())?;
        let bucket = Bucket::new(self.endpoint.parse().ok()?, self.style, bucket.to_owned(), self.region.clone()).ok()?;
        Some(bucket.get_object(self.keys.as_ref(), key).sign(SIGNED_FOR).to_string())
    }
}

/// A URI without what may be secret in it: the query of a signed address, and a name and password.
fn shown(uri: &str) -> &str {
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    match uri.split_once("://") {
        Some((_, rest)) if rest.split('/').next().is_some_and(|host| host.contains('@')) && !uri.starts_with("hf://") => "https://(hidden)",
        _ => uri,
    }
}

fn agent(certificates: Option<String>, loopback: bool) -> Result<ureq::Agent, WeightsError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = certificates.map(PathBuf::from) {
        let pem = fs::read(&path).map_err(|source| WeightsError::Io { path, source })?;
        let own: Vec<Certificate<'static>> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        tls = tls.root_certs(RootCerts::from(own));
    }
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    Ok(ureq::Agent::with_parts(config.build(), DefaultConnector::default(), Guarded { inner: DefaultResolver::default(), loopback }))
}

/// Whether a hub is one of this very machine.
fn on_loopback(hub: &str) -> bool {
    let host = hub.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Finds addresses and refuses those that no weights can be at, whatever name or redirect leads there.
struct Guarded {
    inner: DefaultResolver,
    loopback: bool,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("loopback", &self.loopback).finish_non_exhaustive()
    }
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &ureq::config::Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        if found.iter().any(|address| refused(address.ip(), self.loopback)) {
            let text = "the address is link-local, of a metadata service or of this machine itself, where no weights are";
            return Err(ureq::Error::Io(std::io::Error::new(ErrorKind::PermissionDenied, text)));
        }
        Ok(found)
    }
}

fn refused(address: IpAddr, loopback: bool) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() || (v4.is_loopback() && !loopback),
        // fd00:ec2::254 is a metadata service with an address that is otherwise private.
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_unspecified() || v6.segments()[..2] == [0xFD00, 0x0EC2] || (v6.is_loopback() && !loopback)
        }
    }
}

struct Download<'a> {
    uri: &'a str,
    url: String,
    token: Option<String>,
    digest: String,
    agent: ureq::Agent,
}

/// How one try ended.
enum Try {
    Whole,
    /// Trying again may help.
    Broken(String),
}

impl Download<'_> {
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

    /// Downloads until the file is whole, as long as that makes progress.
    fn complete(&self, partial: &Path) -> Result<(), WeightsError> {
        let size = || fs::metadata(partial).map_or(0, |file| file.len());
        let mut left = TRIES;
        loop {
            let before = size();
            match self.attempt(partial, before)? {
                Try::Whole => return Ok(()),
                Try::Broken(_) if size() > before => left = TRIES,
                Try::Broken(why) if left <= 1 => return Err(self.unreachable(why, false)),
                Try::Broken(_) => left -= 1,
            }
            std::thread::sleep(PAUSE * 2u32.pow(TRIES - left));
        }
    }

    fn attempt(&self, partial: &Path, have: u64) -> Result<Try, WeightsError> {
        let mut request = self.agent.get(&self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::PermissionDenied => return Err(self.unreachable(error.to_string(), true)),
            Err(error) => return Ok(Try::Broken(self.plain(&error))),
        };
        let status = response.status().as_u16();
        let io = |source| WeightsError::Io { path: partial.to_owned(), source };
        let mut file = match status {
            200 => File::create(partial).map_err(io)?,
            206 => OpenOptions::new().append(true).create(true).open(partial).map_err(io)?,
            416 => {
                // Nothing is left to send, or the file there has become shorter: its digest tells.
                if have == 0 || digest_of(partial).is_ok_and(|found| found == self.digest) {
                    return Ok(Try::Whole);
                }
                fs::remove_file(partial).map_err(io)?;
                return Ok(Try::Broken("the server has a shorter file".into()));
            }
            401 | 403 => {
                let why = format!(
                    "HTTP {status}: the server wants credentials; for hf:// put a token into HF_TOKEN, for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from a Secret, into spec.env"
                );
                return Err(self.unreachable(why, true));
            }
            404 | 410 => return Err(self.unreachable(format!("HTTP {status}: the server does not have it"), true)),
            429 | 500.. => return Ok(Try::Broken(format!("HTTP {status}"))),
            _ => return Err(self.unreachable(format!("HTTP {status}"), true)),
        };
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        let mut size = if status == 206 { have } else { 0 };
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => return Ok(Try::Whole),
                Ok(n) => n,
                Err(error) => return Ok(Try::Broken(format!("the connection broke: {error}"))),
            };
            size += n as u64;
            if size > MAX_FILE {
                drop(file);
                fs::remove_file(partial).map_err(io)?;
                return Err(self.unreachable(format!("is larger than the limit of {MAX_FILE} bytes"), true));
            }
            file.write_all(&buffer[..n]).map_err(io)?;
        }
    }

    /// What went wrong, without the address, whose query may be a secret.
    fn plain(&self, error: &ureq::Error) -> String {
        error.to_string().replace(&self.url, shown(&self.url))
    }

    fn unreachable(&self, why: String, permanent: bool) -> WeightsError {
        WeightsError::Unreachable { uri: shown(self.uri).to_owned(), why, permanent }
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
        let at = |uri| address(uri, "https://hub.example/");
        assert_eq!(
            at("hf://timm/resnet18.a1_in1k@491b427/model.safetensors").unwrap(),
            "https://hub.example/timm/resnet18.a1_in1k/resolve/491b427/model.safetensors"
        );
        assert_eq!(at("https://a.example/x.pth?sig=1").unwrap(), "https://a.example/x.pth?sig=1");
        for wrong in ["hf://timm/resnet18/model.safetensors", "hf://timm/resnet18@/x", "hf://a/b@c/../d", "s3://a/b", "http://a/b", "hf://"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_s3_uri_is_an_address_of_its_store() {
        let store = |set: &'static [(&str, &str)]| Store::of(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()));
        let public = store(&[("AWS_DEFAULT_REGION", "eu-central-1")]);
        assert_eq!(public.address("s3://models/a/b c.pth").unwrap(), "https://models.s3.eu-central-1.amazonaws.com/a/b%20c.pth");
        let own = store(&[("AWS_ENDPOINT_URL", "http://minio:9000"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s3cret")]);
        let signed = own.address("s3://models/a.pth").unwrap();
        assert!(signed.starts_with("http://minio:9000/models/a.pth?") && signed.contains("X-Amz-Credential=id%2F") && !signed.contains("s3cret"));
        for wrong in ["s3://models", "s3://models/", "s3:///a.pth"] {
            assert_eq!(public.address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn no_weights_are_where_only_the_node_may_look() {
        let refused = |text: &str, loopback| refused(text.parse().unwrap(), loopback);
        for inside in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0", "::", "::ffff:169.254.169.254"] {
            assert!(refused(inside, true), "{inside}");
        }
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(refused(own, false) && !refused(own, true), "{own}");
        }
        for fine in ["10.0.0.7", "192.168.1.1", "18.154.227.69", "2600:9000::1", "fd12::1"] {
            assert!(!refused(fine, false), "{fine}");
        }
        assert!(on_loopback("http://127.0.0.1:8080") && on_loopback("http://localhost") && !on_loopback("https://huggingface.co"));
    }

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        assert_eq!(shown("https://a.example/x.pth?X-Amz-Signature=abc#d"), "https://a.example/x.pth");
        assert_eq!(shown("https://me:secret@a.example/x.pth"), "https://(hidden)");
        assert_eq!(shown("hf://timm/resnet18@491b427/x.safetensors"), "hf://timm/resnet18@491b427/x.safetensors");
    }
}
