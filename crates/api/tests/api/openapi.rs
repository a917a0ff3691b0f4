//! The document that is checked in is the one that the code makes.

use crate::lab::Lab;

/// Set it, and the test writes the file in place of comparing.
const UPDATE: &str = "BUGLER_UPDATE_OPENAPI";

#[test]
fn the_openapi_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let made = bugler_api::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        there == made,
        "openapi.json differs from what the code says (first at line {}): run `{UPDATE}=1 cargo \
         test -p bugler-api openapi` and look at the difference",
        differs.map_or(0, |line| line + 1)
    );
}

#[test]
fn every_operation_says_what_it_is_and_what_it_may_answer() {
    let document = serde_json::to_value(bugler_api::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 14, "{}", paths.len());
    let mut ids = std::collections::HashSet::<String>::new();
    for (path, operations) in paths {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(
                operation["summary"].is_string(),
                "{method} {path} has no summary"
            );
            assert!(
                !operation["responses"].as_object().unwrap().is_empty(),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn the_server_serves_its_document() {
    let lab = Lab::new().await;
    let served: serde_json::Value = lab.get("/api/v1/openapi.json").await.json();
    assert_eq!(served, serde_json::to_value(bugler_api::openapi()).unwrap());
}
