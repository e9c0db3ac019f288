//! The names of what stages leave behind: a digest of everything that decides the content, so that equal inputs find
//! what is already there and different ones never do. It digests descriptions, never files.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// A description cannot be written as JSON, which only happens for maps whose keys are no strings.
#[derive(Debug, thiserror::Error)]
#[error("a description of stage inputs cannot be written as JSON: {0}")]
pub struct DescriptionError(#[from] serde_json::Error);

/// SHA-256 of bytes in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Digest of any description: SHA-256 of `graft NAME VERSION`, a line break, and the description as JSON with object keys
/// sorted and no spaces, so neither the order of a struct's fields nor that of a map's entries shows. `version` changes
/// when the meaning of the description does.
///
/// # Errors
/// When the description cannot be JSON.
pub fn digest_of<T: Serialize + ?Sized>(name: &str, version: u32, description: &T) -> Result<String, DescriptionError> {
    let mut text = format!("graft {name} {version}\n");
    canonical(&serde_json::to_value(description)?, &mut text);
    Ok(sha256_hex(text.as_bytes()))
}

fn canonical(value: &serde_json::Value, text: &mut String) {
    match value {
        serde_json::Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (i, (name, value)) in fields.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                let _ = write!(text, "{}:", serde_json::Value::from(name.as_str()));
                canonical(value, text);
            }
            text.push('}');
        }
        serde_json::Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        scalar @ (serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_)) => {
            let _ = write!(text, "{scalar}");
        }
    }
}

/// Everything that decides the features of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureInputs<P: Serialize> {
    /// Name of the architecture.
    pub architecture: String,
    /// Digest of the weights file that training started from.
    pub weights: String,
    /// Digest of the tensors that fine-tuning changed; none when the backbone is as it was.
    pub trained: Option<String>,
    /// Digest of the data.
    pub data: String,
    /// Mean, standard deviation, size, resize, fit, interpolation and padding.
    pub preprocessing: P,
    /// Element type of the features, such as `float32`.
    pub element: String,
}

impl<P: Serialize> FeatureInputs<P> {
    /// The name under which these features are kept.
    ///
    /// # Errors
    /// When the preprocessing cannot be JSON.
    pub fn key(&self) -> Result<String, DescriptionError> {
        digest_of("features", 1, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn inputs() -> FeatureInputs<serde_json::Value> {
        FeatureInputs {
            architecture: "resnet18".into(),
            weights: "w".into(),
            trained: None,
            data: "d".into(),
            preprocessing: json!({"mean": [0.5, 0.25], "size": 224}),
            element: "float32".into(),
        }
    }

    #[test]
    fn the_digest_is_the_documented_one() {
        let text = concat!(
            "graft features 1\n",
            r#"{"architecture":"resnet18","data":"d","element":"float32","preprocessing":{"mean":[0.5,0.25],"size":224},"trained":null,"weights":"w"}"#
        );
        assert_eq!(inputs().key().unwrap(), sha256_hex(text.as_bytes()));
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn every_input_shows() {
        let key = inputs().key().unwrap();
        let changes: [fn(&mut FeatureInputs<serde_json::Value>); 6] = [
            |i| i.architecture = "resnet34".into(),
            |i| i.weights = "x".into(),
            |i| i.trained = Some("t".into()),
            |i| i.data = "x".into(),
            |i| i.preprocessing = json!({"mean": [0.5, 0.26], "size": 224}),
            |i| i.element = "float16".into(),
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut changed = inputs();
            change(&mut changed);
            assert_ne!(changed.key().unwrap(), key, "change {i} does not show");
        }
    }
}
