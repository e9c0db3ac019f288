//! Object stores that speak S3: whose address an object has, and with which signature.

use std::time::Duration;

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

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
        let bucket = Bucket::new(self.endpoint.parse().ok()?, self.style, bucket.to_owned(), self.region.clone()).ok()?;
        Some(bucket.get_object(self.keys.as_ref(), key).sign(SIGNED_FOR).to_string())
    }
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
}
