//! Object stores: S3 and what speaks it, Google Cloud Storage, and Azure's Blob Storage. The crate `object_store` signs, lists and tries
//! again; what it asks goes through the one client of this folder.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::client::Client;
use super::mirror::Objects;
use super::{PAUSE, RemoteError, TRIES, denied, on_loopback, unreachable};

/// A bucket or container, and the beginning of the keys that are meant.
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Its endpoint and account: the same name elsewhere is another bucket.
    place: String,
    name: String,
    /// Empty, or without a slash at its end.
    prefix: String,
}

/// An object as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its ETag, or when it was written where the store has none.
    pub(super) version: String,
    pub(crate) bytes: u64,
    /// Its digest, where the store says so.
    pub(super) sha256: Option<String>,
}

impl Object {
    fn of(meta: &ObjectMeta) -> Self {
        Self { version: meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339()), bytes: meta.size, sha256: None }
    }

    /// The version, if the store can be asked for it.
    pub(super) fn etag(&self) -> Option<String> {
        self.version.starts_with('"').then(|| self.version.clone())
    }
}

/// Whether a URI names something in an object store.
pub(crate) fn in_a_store(uri: &str) -> bool {
    ["s3://", "gs://", "az://"].iter().any(|scheme| uri.starts_with(scheme))
}

impl Bucket {
    /// What `s3://BUCKET`, `gs://BUCKET` or `az://CONTAINER` names, with a prefix behind it or without. Keys, region, endpoint and account
    /// come from the variables of AWS's, Google's and Azure's own tools; without keys, objects are asked for that everybody may read.
    ///
    /// # Errors
    /// `Unreachable` when it names none, or a variable is wrong.
    pub(crate) fn of(uri: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, RemoteError> {
        let wrong = || unreachable("is no s3://BUCKET/…, gs://BUCKET/… or az://CONTAINER/…".into(), true);
        let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong());
        }
        let (store, place) = match scheme {
            "s3" => amazon(name, environment)?,
            "gs" => google(name, environment)?,
            "az" => azure(name, environment)?,
            _ => return Err(wrong()),
        };
        Ok(Self { store, place, name: name.to_owned(), prefix: prefix.trim_end_matches('/').to_owned() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// All objects below the prefix whose keys can be paths below a folder.
    ///
    /// # Errors
    /// `Unreachable` when the store does not list them.
    pub(super) fn objects(&self) -> Result<Objects, RemoteError> {
        let prefix = self.path("")?;
        let below = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let listed: Vec<ObjectMeta> = wait(self.store.list(Some(&prefix)).try_collect())?.map_err(told)?;
        let within = |meta: ObjectMeta| Some((meta.location.as_ref().strip_prefix(&below).filter(|key| is_path(key))?.to_owned(), Object::of(&meta)));
        Ok(listed.into_iter().filter_map(within).collect())
    }

    /// The object that the URI itself names.
    ///
    /// # Errors
    /// `Unreachable` when the store does not have it.
    pub(crate) fn object(&self) -> Result<Object, RemoteError> {
        let path = self.path("")?;
        Ok(Object::of(&wait(self.store.head(&path))?.map_err(told)?))
    }

    /// Fetches the object that has this key below the prefix, or is the prefix itself, in this version, as long as that makes progress.
    /// What `partial` holds already is not fetched again.
    ///
    /// # Errors
    /// `Unreachable` when the store does not give it, `Io` when `partial` cannot be written.
    pub(crate) fn get(&self, key: &str, object: &Object, partial: &Path) -> Result<(), RemoteError> {
        let path = self.path(key)?;
        let size = || fs::metadata(partial).map_or(0, |file| file.len());
        loop {
            let before = size();
            if before == object.bytes && before > 0 {
                return Ok(());
            }
            match wait(self.attempt(&path, object, before, partial))? {
                Err(RemoteError::Unreachable { permanent: false, .. }) if size() > before => {}
                done => return done,
            }
        }
    }

    async fn attempt(&self, path: &object_store::path::Path, object: &Object, have: u64, partial: &Path) -> Result<(), RemoteError> {
        let io = |source| RemoteError::Io { path: partial.to_owned(), source };
        let have = if have > object.bytes { 0 } else { have };
        let range = (have > 0).then_some(GetRange::Offset(have));
        let options = GetOptions { range, if_match: object.etag(), ..GetOptions::default() };
        let answer = self.store.get_opts(path, options).await;
        if matches!(answer, Err(object_store::Error::Precondition { .. })) {
            let _ = fs::remove_file(partial);
        }
        let mut body = answer.map_err(told)?.into_stream();
        let mut file = if have > 0 { OpenOptions::new().append(true).open(partial) } else { File::create(partial) }.map_err(io)?;
        while let Some(bytes) = body.next().await {
            file.write_all(&bytes.map_err(told)?).map_err(io)?;
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<object_store::path::Path, RemoteError> {
        let whole = [self.prefix.as_str(), key].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
        object_store::path::Path::parse(whole).map_err(|error| unreachable(error.to_string(), true))
    }
}

/// As many tries as of other downloads, with pauses from a second on.
fn retry() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: PAUSE, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: TRIES as usize - 1, retry_timeout: Duration::from_secs(60) }
}

fn amazon(bucket: &str, environment: impl Fn(&str) -> Option<String>) -> Result<(Arc<dyn ObjectStore>, String), RemoteError> {
    let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
    let endpoint = environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
    let mut store = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&region)
        // Stores that are not AWS's rarely have a host name for each bucket.
        .with_virtual_hosted_style_request(endpoint.is_none())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Client { loopback: endpoint.as_deref().is_some_and(on_loopback) })
        .with_retry(retry());
    let keys = environment("AWS_ACCESS_KEY_ID").zip(environment("AWS_SECRET_ACCESS_KEY"));
    store = match keys {
        Some((id, secret)) => store.with_access_key_id(id).with_secret_access_key(secret),
        None => store.with_skip_signature(true),
    };
    if let Some(token) = environment("AWS_SESSION_TOKEN") {
        store = store.with_config(AmazonS3ConfigKey::Token, token);
    }
    if let Some(endpoint) = &endpoint {
        store = store.with_endpoint(endpoint);
    }
    Ok((Arc::new(store.build().map_err(told)?), endpoint.unwrap_or(region)))
}

fn google(bucket: &str, environment: impl Fn(&str) -> Option<String>) -> Result<(Arc<dyn ObjectStore>, String), RemoteError> {
    let endpoint = environment("STORAGE_EMULATOR_HOST");
    let mut store = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Client { loopback: endpoint.as_deref().is_some_and(on_loopback) })
        .with_retry(retry());
    // A file of the key of a service account, or the key itself.
    store = match (environment("GOOGLE_APPLICATION_CREDENTIALS"), environment("GOOGLE_SERVICE_ACCOUNT_KEY")) {
        (_, Some(key)) => store.with_service_account_key(key),
        (Some(file), None) => store.with_application_credentials(file),
        (None, None) => store.with_skip_signature(true),
    };
    if let Some(endpoint) = &endpoint {
        store = store.with_config(GoogleConfigKey::BaseUrl, endpoint);
    }
    Ok((Arc::new(store.build().map_err(told)?), endpoint.unwrap_or_default()))
}

fn azure(container: &str, environment: impl Fn(&str) -> Option<String>) -> Result<(Arc<dyn ObjectStore>, String), RemoteError> {
    let account = environment("AZURE_STORAGE_ACCOUNT").or_else(|| environment("AZURE_STORAGE_ACCOUNT_NAME"));
    let account = account.ok_or_else(|| unreachable("az:// needs AZURE_STORAGE_ACCOUNT, the name of the account, in spec.env".into(), true))?;
    let endpoint = environment("AZURE_STORAGE_ENDPOINT");
    let mut store = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_account(&account)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Client { loopback: endpoint.as_deref().is_some_and(on_loopback) })
        .with_retry(retry());
    let key = environment("AZURE_STORAGE_KEY").or_else(|| environment("AZURE_STORAGE_ACCOUNT_KEY"));
    let principal = ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"].map(&environment);
    store = match (key, environment("AZURE_STORAGE_SAS_TOKEN"), principal) {
        (Some(key), ..) => store.with_access_key(key),
        (None, Some(token), _) => store.with_config(AzureConfigKey::SasKey, token),
        (None, None, [Some(id), Some(secret), Some(tenant)]) => store.with_client_secret_authorization(id, secret, tenant),
        _ => store.with_skip_signature(true),
    };
    let place = format!("{} {account}", endpoint.as_deref().unwrap_or_default());
    if let Some(endpoint) = endpoint {
        store = store.with_endpoint(endpoint);
    }
    Ok((Arc::new(store.build().map_err(told)?), place))
}

/// Runs to its end on this thread what waits for the network.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, RemoteError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    Ok(runtime.map_err(|error| unreachable(error.to_string(), false))?.block_on(work))
}

/// What went wrong without the address, which may name a patient or hold a signature.
fn told(error: object_store::Error) -> RemoteError {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => return missing(),
        Error::PermissionDenied { .. } => return denied(403),
        Error::Unauthenticated { .. } => return denied(401),
        Error::Precondition { .. } => return unreachable("changed while it was read; leave it as it is while a job starts".into(), false),
        _ => {}
    }
    let mut cause: &dyn std::error::Error = &error;
    let mut refused = false;
    while let Some(inner) = cause.source() {
        cause = inner;
        refused |= cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied);
    }
    let text = cause.to_string();
    match text.strip_prefix("Server returned non-2xx status code: ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok()) {
        Some(status @ (401 | 403)) => denied(status),
        Some(404) => missing(),
        Some(status) => unreachable(format!("HTTP {status}"), status < 500 && status != 429),
        None => unreachable(text, refused),
    }
}

fn missing() -> RemoteError {
    unreachable("HTTP 404: the store does not have it".into(), true)
}

/// Whether a key is the path of a file below a folder.
pub(super) fn is_path(key: &str) -> bool {
    !key.is_empty() && !key.contains('\0') && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(uri: &str, set: &'static [(&str, &str)]) -> Result<Bucket, String> {
        let environment = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Bucket::of(uri, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn a_uri_names_a_bucket_and_the_beginning_of_keys() {
        let parts = |uri| of(uri, &[]).map(|bucket| (bucket.name.clone(), bucket.prefix));
        assert_eq!(parts("s3://scans/lung"), Ok(("scans".into(), "lung".into())));
        assert_eq!(parts("gs://scans/lung/ct/"), Ok(("scans".into(), "lung/ct".into())));
        assert_eq!(parts("s3://scans"), Ok(("scans".into(), String::new())));
        for wrong in ["s3:///lung", "ftp://scans/lung", "scans"] {
            assert!(parts(wrong).unwrap_err().contains("is no s3://BUCKET"), "{wrong}");
        }
        assert!(parts("az://scans/lung").unwrap_err().contains("AZURE_STORAGE_ACCOUNT"));
        assert!(of("az://scans/lung", &[("AZURE_STORAGE_ACCOUNT", "hospital")]).is_ok());
        let unreadable = of("gs://scans", &[("GOOGLE_SERVICE_ACCOUNT_KEY", "s3cret")]).map(|_| ()).unwrap_err();
        assert!(!unreadable.contains("s3cret"), "{unreadable}");
    }

    #[test]
    fn keys_that_lead_elsewhere_are_no_paths() {
        for key in ["a.png", "covid/1.png", "a b/ü.dcm", "..a/b"] {
            assert!(is_path(key), "{key}");
        }
        for key in ["", "/etc/passwd", "../a.png", "a/../../b.png", "a\0b"] {
            assert!(!is_path(key), "{key:?}");
        }
    }

    #[test]
    fn a_download_goes_on_behind_what_is_there_unless_the_object_is_another() {
        use object_store::memory::InMemory;
        let (memory, folder) = (InMemory::new(), tempfile::tempdir().unwrap());
        let partial = folder.path().join("partial");
        wait(memory.put(&"lung/a.bin".into(), b"0123456789".as_slice().into())).unwrap().unwrap();
        let bucket = Bucket { store: Arc::new(memory), place: String::new(), name: "scans".into(), prefix: "lung".into() };
        let object = bucket.objects().unwrap()["a.bin"].clone();
        // What a download that broke off left; not what the store has, to tell them apart.
        fs::write(&partial, b"abcd").unwrap();
        bucket.get("a.bin", &object, &partial).unwrap();
        assert_eq!(fs::read(&partial).unwrap(), b"abcd456789");
        // More than there is cannot be a part of it.
        fs::write(&partial, b"much longer than it").unwrap();
        bucket.get("a.bin", &object, &partial).unwrap();
        assert_eq!(fs::read(&partial).unwrap(), b"0123456789");
        fs::write(&partial, b"01").unwrap();
        let before = Object { version: "\"another\"".into(), ..object };
        let error = bucket.get("a.bin", &before, &partial).unwrap_err();
        assert!(error.to_string().contains("changed while it was read") && !partial.exists(), "{error}");
    }
}
