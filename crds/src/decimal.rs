//! Fractions in the stored API. Kubernetes forbids floats in API types (their text form is not stable), so a
//! fraction is a string such as `"1e-4"`; this type checks it once, at the door.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A finite decimal number kept in the words of whoever wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decimal {
    text: String,
    value: f64,
}

/// The text is not a finite decimal number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal number; write it like \"0.15\" or \"1e-4\"")]
pub struct NotADecimal(String);

impl Decimal {
    /// The number itself.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Decimal {
    type Err = NotADecimal;

    fn from_str(text: &str) -> Result<Self, NotADecimal> {
        let plain = text.len() <= 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
        match text.parse::<f64>() {
            Ok(value) if plain && value.is_finite() => Ok(Self { text: text.to_owned(), value }),
            _ => Err(NotADecimal(text.to_owned())),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Decimal {
    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32, "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_words_and_knows_the_value() {
        let d: Decimal = "1e-4".parse().unwrap();
        assert_eq!((d.as_str(), d.value()), ("1e-4", 1e-4));
    }

    #[test]
    fn refuses_what_is_no_finite_number() {
        for text in ["", "nan", "inf", "1,5", "0x10", " 1", "1e999", "ten"] {
            assert!(text.parse::<Decimal>().is_err(), "{text:?} was taken");
        }
    }
}
