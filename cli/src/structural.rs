//! Checks an object against a CRD's OpenAPI schema: types, required fields, enumerations, ranges, lengths, patterns and
//! keys of lists, in the words of the API server. CEL rules are not its business.

use std::collections::HashSet;

use serde_json::Value;

/// Everything that is wrong with `value`, each with its path.
pub fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !has_type(schema, value) {
        let wanted = schema["type"].as_str().unwrap_or("integer or string");
        found.push(format!("{path}: Invalid value: {value}: must be of type {wanted}, not {}", type_name(value)));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let near = value.as_str().and_then(|text| graft_data::nearest(text, allowed.iter().filter_map(Value::as_str)));
        let near = near.map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"));
        found.push(format!("{path}: Unsupported value: {value}{near}: supported values: {}", names.join(", ")));
    }
    match value {
        Value::Object(fields) => object(schema, fields, path, found),
        Value::Array(items) => array(schema, items, path, found),
        Value::String(text) => string(schema, text, path, found),
        Value::Number(number) => range(schema, number.as_f64().unwrap_or(f64::NAN), path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_string();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn object(schema: &Value, fields: &serde_json::Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{}: Required value", join(path, name)));
        }
    }
    for (name, value) in fields {
        let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()));
        if let Some(inner) = inner {
            check(inner, value, &join(path, name), found);
        }
    }
}

fn array(schema: &Value, items: &[Value], path: &str, found: &mut Vec<String>) {
    bounds(schema, ("minItems", "maxItems"), items.len(), "items", path, found);
    for (i, item) in items.iter().enumerate() {
        check(&schema["items"], item, &format!("{path}[{i}]"), found);
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate().filter(|_| !keys.is_empty()) {
        let key: Vec<String> = keys.iter().map(|k| item[*k].to_string()).collect();
        if !seen.insert(key.clone()) {
            found.push(format!("{path}[{i}]: Duplicate value: {}={}", keys.join(","), key.join(",")));
        }
    }
}

fn string(schema: &Value, text: &str, path: &str, found: &mut Vec<String>) {
    bounds(schema, ("minLength", "maxLength"), text.chars().count(), "characters", path, found);
    let Some(pattern) = schema["pattern"].as_str() else { return };
    if regex::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text)) {
        found.push(format!("{path}: Invalid value: {text:?}: should match '{pattern}'"));
    }
}

fn bounds(schema: &Value, (low, high): (&str, &str), length: usize, unit: &str, path: &str, found: &mut Vec<String>) {
    let length = length as u64;
    if let Some(least) = schema[low].as_u64().filter(|least| length < *least) {
        found.push(format!("{path}: Invalid value: should have at least {least} {unit}, has {length}"));
    }
    if let Some(most) = schema[high].as_u64().filter(|most| length > *most) {
        found.push(format!("{path}: Too long: may not have more than {most} {unit}, has {length}"));
    }
}

fn range(schema: &Value, number: f64, path: &str, found: &mut Vec<String>) {
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        found.push(format!("{path}: Invalid value: {number}: should be greater than or equal to {least}"));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        found.push(format!("{path}: Invalid value: {number}: should be less than or equal to {most}"));
    }
}
