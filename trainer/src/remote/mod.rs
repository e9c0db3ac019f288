//! What comes from the network, weights and data: one client, object stores, the Hugging Face Hub, and plain downloads that go on where they
//! broke off. Nothing here shows a secret: not a token, not a key, not the signature of an address.

mod bucket;
mod client;
mod guard;
mod index;
mod mirror;
mod server;
mod store;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use bucket::{Bucket, in_a_store};
pub(crate) use guard::{agent, on_loopback};
pub use mirror::{elsewhere, is_remote, local, outline};

/// The hub that `hf://` means where the environment names no other in `HF_ENDPOINT`.
const HUB: &str = "https://huggingface.co";

/// Files that are fetched at once: small ones wait for the server more than for the line.
const CONNECTIONS: usize = 8;
/// Tries until a download makes no more progress, and the pause before the first repetition.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Why something cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server cannot be reached or does not give it.
    #[error("{why}")]
    Unreachable {
        /// What went wrong.
        why: String,
        /// Trying again cannot help.
        permanent: bool,
    },
}

fn unreachable(why: String, permanent: bool) -> RemoteError {
    RemoteError::Unreachable { why, permanent }
}

fn denied(status: u16) -> RemoteError {
    let why = format!(
        "HTTP {status}: the server wants credentials; put them, from a Secret, into spec.env: for hf:// HF_TOKEN, for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for gs:// GOOGLE_SERVICE_ACCOUNT_KEY, for az:// AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"
    );
    unreachable(why, true)
}

/// The hub of `hf://`, without a slash at its end.
pub(crate) fn hub(environment: impl Fn(&str) -> Option<String>) -> String {
    environment("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()).trim_end_matches('/').to_owned()
}

/// Why an answer of this status is none, if trying again may help.
///
/// # Errors
/// It cannot.
fn refusal(status: u16) -> Result<String, RemoteError> {
    match status {
        401 | 403 => Err(denied(status)),
        404 | 410 => Err(unreachable(format!("HTTP {status}: the server does not have it"), true)),
        429 | 500.. => Ok(format!("HTTP {status}")),
        _ => Err(unreachable(format!("HTTP {status}"), true)),
    }
}

/// What went wrong, without the address, whose query may be a secret.
fn plain(error: &ureq::Error, url: &str) -> String {
    error.to_string().replace(url, shown(url))
}

/// An environment variable that is set to something.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A URI without what may be secret in it: the query of a signed address, and a name and password.
pub(crate) fn shown(uri: &str) -> &str {
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    match uri.split_once("://") {
        Some((_, rest)) if rest.split('/').next().is_some_and(|host| host.contains('@')) && !uri.starts_with("hf://") => "https://(hidden)",
        _ => uri,
    }
}

/// A file on a server, and what is known of it.
pub(crate) struct Download<'a> {
    pub(crate) agent: &'a ureq::Agent,
    pub(crate) url: &'a str,
    /// What a server is shown that asks for a bearer token.
    pub(crate) token: Option<&'a str>,
    /// The version that a part of it must be of, where the server has names for versions.
    pub(crate) version: Option<&'a str>,
    /// More bytes are not taken.
    pub(crate) limit: u64,
    /// Whether a file of the disk is all of it.
    pub(crate) is_whole: &'a dyn Fn(&Path) -> bool,
}

/// How one try ended.
enum Try {
    Whole,
    /// Trying again may help.
    Broken(String),
}

impl Download<'_> {
    /// Downloads until the file is whole, as long as that makes progress. What `partial` holds already is not fetched again.
    ///
    /// # Errors
    /// `Unreachable` when the server cannot be reached or does not have the file, `Io` when it cannot be written.
    pub(crate) fn complete(&self, partial: &Path) -> Result<(), RemoteError> {
        let size = || fs::metadata(partial).map_or(0, |file| file.len());
        let mut left = TRIES;
        loop {
            let before = size();
            match self.attempt(partial, before)? {
                Try::Whole => return Ok(()),
                Try::Broken(_) if size() > before => left = TRIES,
                Try::Broken(why) if left <= 1 => return Err(unreachable(why, false)),
                Try::Broken(_) => left -= 1,
            }
            std::thread::sleep(PAUSE * 2u32.pow(TRIES - left));
        }
    }

    fn attempt(&self, partial: &Path, have: u64) -> Result<Try, RemoteError> {
        let mut request = self.agent.get(self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            // Of another version all of it comes.
            if let Some(version) = self.version {
                request = request.header("If-Range", version);
            }
        }
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::PermissionDenied => return Err(unreachable(error.to_string(), true)),
            Err(error) => return Ok(Try::Broken(plain(&error, self.url))),
        };
        let status = response.status().as_u16();
        let io = |source| RemoteError::Io { path: partial.to_owned(), source };
        let mut file = match status {
            200 => File::create(partial).map_err(io)?,
            206 => OpenOptions::new().append(true).create(true).open(partial).map_err(io)?,
            416 => {
                // Nothing is left to send, or the file there has become shorter.
                if have == 0 || (self.is_whole)(partial) {
                    return Ok(Try::Whole);
                }
                fs::remove_file(partial).map_err(io)?;
                return Ok(Try::Broken("the server has a shorter file".into()));
            }
            _ => return refusal(status).map(Try::Broken),
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
            if size > self.limit {
                drop(file);
                fs::remove_file(partial).map_err(io)?;
                return Err(unreachable(format!("is larger than the limit of {} bytes", self.limit), true));
            }
            file.write_all(&buffer[..n]).map_err(io)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        assert_eq!(shown("https://a.example/x.pth?X-Amz-Signature=abc#d"), "https://a.example/x.pth");
        assert_eq!(shown("https://me:secret@a.example/x.pth"), "https://(hidden)");
        assert_eq!(shown("hf://timm/resnet18@491b427/x.safetensors"), "hf://timm/resnet18@491b427/x.safetensors");
    }
}
