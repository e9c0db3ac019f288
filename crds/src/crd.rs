//! The CustomResourceDefinition as it is installed, and the check for fields that its schema does not know.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::spec::TransferJob;

/// The definition of TransferJob. Kubernetes' own page of text about quantities, which each of them would repeat, is a line here.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = TransferJob::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            shorten(schema);
        }
    }
    definition
}

fn shorten(schema: &mut JSONSchemaProps) {
    if schema.description.as_deref().is_some_and(|text| text.starts_with("Quantity is a fixed-point")) {
        schema.description = Some("An amount, such as 500m, 2 or 16Gi.".into());
    }
    schema.properties.iter_mut().flatten().for_each(|(_, inner)| shorten(inner));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        shorten(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        shorten(values);
    }
}

/// The OpenAPI schema of TransferJob, as in the definition.
#[must_use]
pub fn schema() -> Value {
    let version = definition().spec.versions.into_iter().next();
    version.and_then(|v| v.schema).and_then(|s| s.open_api_v3_schema).and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null)
}

/// Paths of fields in `object` that `schema` does not have, such as `spec.fineTune.epoch`. The API server refuses
/// them on `kubectl apply`; this gives the command line the same answer without a server.
#[must_use]
pub fn unknown_fields(schema: &Value, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" | "metadata" => {}
            _ => match schema.pointer(&format!("/properties/{key}")) {
                Some(inner) => walk(inner, value, key, &mut found),
                None => found.push(key.clone()),
            },
        }
    }
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
            for (key, inner) in fields {
                match known.get(key) {
                    Some(s) => walk(s, inner, &format!("{path}.{key}"), found),
                    None => found.push(format!("{path}.{key}")),
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.get("items") else { return };
            for (i, item) in items.iter().enumerate() {
                walk(inner, item, &format!("{path}[{i}]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
