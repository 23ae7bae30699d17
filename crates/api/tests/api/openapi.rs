//! The OpenAPI document: committed whole, and true of the routes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// The document is part of the contract: every change of it is seen in a review.
///
/// `UPDATE_SNAPSHOTS=1 cargo test -p sandbar-api` writes it anew.
#[test]
fn the_committed_document_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let generated = sandbar_api::openapi_json().unwrap();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let line = generated.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        generated == committed,
        "openapi.json is out of date (first difference in line {:?}): run UPDATE_SNAPSHOTS=1 cargo test -p sandbar-api",
        line.map(|line| line + 1)
    );
}

fn document() -> Value {
    serde_json::to_value(sandbar_api::openapi()).unwrap()
}

fn operations(document: &Value) -> Vec<(String, &Value)> {
    document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

#[test]
fn it_is_openapi_3_1_and_every_operation_has_an_id_of_its_own_a_tag_and_a_credential() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"));
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(operation["tags"][0].is_string(), "{name} has no tag");
        assert!(operation["security"].is_array(), "{name} does not say who may call it");
    }
    assert_eq!(ids.len(), 24, "{ids:?}");
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.insert(target.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
    }
}
