//! Object stores that speak S3: which address an object has, signed if there are keys, and what lies below a prefix.

use std::path::{Component, Path};
use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use super::mirror::Objects;
use super::{RemoteError, text, unreachable};

/// How long a signed address is good for: as long as a large file over a slow line with many repetitions.
const SIGNED_FOR: Duration = Duration::from_secs(24 * 3600);

/// An object store that speaks S3, and the keys for it.
pub(crate) struct Store {
    pub(crate) endpoint: String,
    style: UrlStyle,
    region: String,
    keys: Option<Credentials>,
}

impl Store {
    /// As AWS's own tools find it. Without keys, objects are asked for that everybody may read.
    pub(crate) fn of(environment: impl Fn(&str) -> Option<String>) -> Self {
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
    pub(crate) fn address(&self, uri: &str) -> Option<String> {
        let (bucket, key) = uri.strip_prefix("s3://")?.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())?;
        Some(self.bucket(bucket)?.get_object(self.keys.as_ref(), key).sign(SIGNED_FOR).to_string())
    }

    fn bucket(&self, name: &str) -> Option<Bucket> {
        Bucket::new(self.endpoint.parse().ok()?, self.style, name.to_owned(), self.region.clone()).ok()
    }

    /// What `s3://BUCKET` or `s3://BUCKET/PREFIX` names.
    pub(super) fn place(&self, uri: &str) -> Option<Place> {
        let rest = uri.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = match prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        (!bucket.is_empty()).then(|| self.bucket(bucket)).flatten().map(|bucket| Place { bucket, prefix })
    }

    /// The address of what has this key below the prefix.
    pub(super) fn address_in(&self, place: &Place, key: &str) -> String {
        place.bucket.get_object(self.keys.as_ref(), &format!("{}{key}", place.prefix)).sign(SIGNED_FOR).to_string()
    }

    /// All objects below the prefix whose keys can be paths below a folder.
    ///
    /// # Errors
    /// `Unreachable` when the server does not list them.
    pub(super) fn objects(&self, agent: &ureq::Agent, place: &Place) -> Result<Objects, RemoteError> {
        let (mut objects, mut token) = (Objects::new(), None);
        loop {
            let mut list = ListObjectsV2::new(&place.bucket, self.keys.as_ref());
            list.with_prefix(place.prefix.as_str());
            if let Some(token) = token {
                list.with_continuation_token(token);
            }
            let answer = text(agent, list.sign(SIGNED_FOR).as_str())?;
            let odd = |error: &dyn std::fmt::Display| unreachable(format!("the server's list cannot be read: {error}"), true);
            let listed = ListObjectsV2::parse_response(&answer).map_err(|error| odd(&error))?;
            for object in listed.contents {
                let Some(key) = object.key.strip_prefix(&place.prefix).filter(|key| is_path(key)) else { continue };
                let bytes = object.size.ok_or_else(|| odd(&"an object without a size"))?;
                let version = object.etag.or(object.last_modified).unwrap_or_default();
                objects.insert(key.to_owned(), Object { version, bytes });
            }
            token = listed.next_continuation_token;
            if token.is_none() {
                return Ok(objects);
            }
        }
    }
}

/// A bucket, and the beginning of the keys that are meant: empty, or with a slash at its end.
pub(super) struct Place {
    bucket: Bucket,
    prefix: String,
}

impl Place {
    pub(super) fn bucket(&self) -> &str {
        self.bucket.name()
    }
}

/// An object as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Its ETag, or when it was written where the server has none.
    pub(super) version: String,
    pub(super) bytes: u64,
}

impl Object {
    /// The version, if the server can be asked for it.
    pub(super) fn etag(&self) -> Option<&str> {
        self.version.starts_with('"').then_some(self.version.as_str())
    }
}

/// Whether a key is the path of a file below a folder; those that end in a slash are what consoles make to show a folder.
fn is_path(key: &str) -> bool {
    !key.is_empty()
        && !key.split('/').any(|part| part.is_empty() || part == ".")
        && !key.contains('\0')
        && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
    fn keys_that_lead_elsewhere_are_no_paths() {
        for key in ["a.png", "covid/1.png", "a b/ü.dcm", "..a/b"] {
            assert!(is_path(key), "{key}");
        }
        for key in ["", "/etc/passwd", "../a.png", "a/../../b.png", "a//b.png", "covid/", "./a.png", "a\0b"] {
            assert!(!is_path(key), "{key:?}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_folder_does() {
        let store = Store::of(|_| None);
        let prefix = |uri| store.place(uri).map(|place| (place.bucket().to_owned(), place.prefix));
        assert_eq!(prefix("s3://scans/lung"), Some(("scans".into(), "lung/".into())));
        assert_eq!(prefix("s3://scans/lung/ct/"), Some(("scans".into(), "lung/ct/".into())));
        assert_eq!(prefix("s3://scans"), Some(("scans".into(), String::new())));
        assert_eq!(prefix("s3:///lung"), None);
    }
}
