use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::Auth;
use crate::demo::registry as server;

/// Serves on a free port for as long as the test's runtime lives, and gives the base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn config(url: &str) -> Config {
    toml::from_str(&format!("url = {url:?}\ntimeout = \"500 ms\"")).unwrap()
}

fn registry(url: &str) -> Registry {
    Registry::new("main", &config(url), Metrics::new()).unwrap()
}

fn avro(text: &str) -> Definition {
    Definition { schema: text.to_owned(), kind: None, references: Vec::new() }
}

fn found(outcome: Outcome) -> Arc<Registered> {
    match outcome {
        Outcome::Found(schema) => schema,
        other => panic!("{other:?}"),
    }
}

fn unavailable(outcome: Outcome) -> String {
    match outcome {
        Outcome::Unavailable { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;

#[tokio::test]
async fn the_same_schema_gets_the_same_id_and_is_found_by_it() {
    let registry = registry(&serve(server::service(server::Schemas::default())).await);
    let id = registry.register("orders-value", &avro(ORDER)).await.unwrap();
    let spaced = ORDER.replace(',', " , ");
    assert_eq!(registry.register("copies-value", &avro(&spaced)).await.unwrap(), id);
    let other = registry.register("orders-value", &avro("\"string\"")).await.unwrap();
    assert_ne!(other, id);
    assert!(registry.lookup(id).is_none());
    let schema = found(registry.fetch(id).await);
    assert_eq!(schema.schema.definition(), ORDER);
    assert!(registry.lookup(id).is_some());
    let places = registry.places(&schema).await.unwrap();
    let place = |subject: &str, version| Place { subject: subject.to_owned(), version };
    assert_eq!(*places, [place("copies-value", 1), place("orders-value", 1)]);
    let other = found(registry.fetch(other).await);
    assert_eq!(*registry.places(&other).await.unwrap(), [place("orders-value", 2)]);
}

#[tokio::test]
async fn references_are_resolved_through_several_levels() {
    let registry = registry(&serve(server::service(server::Schemas::default())).await);
    let refer = |name: &str, subject: &str| Reference { name: name.to_owned(), subject: subject.to_owned(), version: 1 };
    let country = r#"{"type":"enum","name":"shop.Country","symbols":["AT","CH"]}"#;
    let address = r#"{"type":"record","name":"shop.Address","fields":[{"name":"country","type":"shop.Country"}]}"#;
    let customer = r#"{"type":"record","name":"shop.Customer","fields":[{"name":"home","type":"shop.Address"},{"name":"from","type":"shop.Country"}]}"#;
    registry.register("country", &avro(country)).await.unwrap();
    let references = vec![refer("shop.Country", "country")];
    registry.register("with a /space", &Definition { references, ..avro(address) }).await.unwrap();
    let references = vec![refer("shop.Address", "with a /space"), refer("shop.Country", "country")];
    let id = registry.register("customer", &Definition { references, ..avro(customer) }).await.unwrap();
    let schema = found(registry.fetch(id).await);
    assert!(schema.schema.find(&["home".to_owned(), "country".to_owned()]).is_some());
}

#[tokio::test]
async fn a_schema_that_the_registry_does_not_have_is_definite() {
    let registry = registry(&serve(server::service(server::Schemas::default())).await);
    assert!(matches!(registry.fetch(7).await, Outcome::NotThere));
    assert!(registry.0.metrics.not_ready().is_empty());
}

#[tokio::test]
async fn the_base_path_of_the_url_is_kept() {
    let service = server::service(server::Schemas::default());
    let url = serve(Router::new().nest("/apis/ccompat/v7", service)).await;
    for base in [format!("{url}/apis/ccompat/v7"), format!("{url}/apis/ccompat/v7/")] {
        let registry = registry(&base);
        let id = registry.register("orders-value", &avro(ORDER)).await.unwrap();
        found(registry.fetch(id).await);
    }
}

#[tokio::test]
async fn a_404_from_something_that_is_no_registry_is_not_definite() {
    let url = serve(Router::new().route("/", get(|| async { "welcome" }))).await;
    let reason = unavailable(registry(&url).fetch(1).await);
    assert!(reason.contains("404") && reason.contains("check that the URL is complete"), "{reason}");
}

#[tokio::test]
async fn a_plain_404_counts_where_the_registry_is_there() {
    let url = serve(Router::new().route("/subjects", get(|| async { "[]" }))).await;
    assert!(matches!(registry(&url).fetch(1).await, Outcome::NotThere));
}

#[tokio::test]
async fn refused_logins_and_server_errors_are_waited_for_and_shown_in_readiness() {
    for status in [401, 403, 408, 429, 500, 503, 302] {
        let status = StatusCode::from_u16(status).unwrap();
        let url = serve(Router::new().fallback(any(move || async move { status }))).await;
        let registry = registry(&url);
        let reason = unavailable(registry.fetch(1).await);
        assert!(reason.contains(status.as_str()), "{reason}");
        let not_ready = registry.0.metrics.not_ready();
        assert!(matches!(&not_ready[..], [(part, _)] if part == "registry \"main\""), "{not_ready:?}");
    }
}

#[tokio::test]
async fn answers_that_are_no_json_of_a_registry_are_waited_for() {
    for body in ["<html>log in</html>", "{\"schema\":", "{}", "[1]", ""] {
        let url = serve(Router::new().fallback(any(move || async move { body }))).await;
        let reason = unavailable(registry(&url).fetch(1).await);
        assert!(reason.contains("something else than a registry's JSON"), "{reason}");
    }
}

#[tokio::test]
async fn a_server_that_is_slow_closes_or_is_not_there_is_waited_for() {
    let slow = serve(Router::new().fallback(any(std::future::pending::<Response>))).await;
    let reason = unavailable(registry(&slow).fetch(1).await);
    assert!(reason.contains("timed out"), "{reason}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closing = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        // Half an answer, then the end.
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"sch").await;
        }
    });
    unavailable(registry(&closing).fetch(1).await);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let reason = unavailable(registry(&nobody).fetch(1).await);
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn known_schemas_are_found_while_the_registry_is_down_and_others_once_it_is_back() {
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = down.clone();
    let service = server::service(server::Schemas::default()).layer(middleware::from_fn(move |request: Request, next: Next| {
        let gate = gate.clone();
        async move { if gate.load(Ordering::SeqCst) { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { next.run(request).await } }
    }));
    let registry = registry(&serve(service).await);
    let known = registry.register("a", &avro(ORDER)).await.unwrap();
    let other = registry.register("b", &avro("\"long\"")).await.unwrap();
    found(registry.fetch(known).await);
    down.store(true, Ordering::SeqCst);
    let Outcome::Unavailable { since, .. } = registry.fetch(other).await else { panic!("the registry is down") };
    let Outcome::Unavailable { since: still, .. } = registry.fetch(other).await else { panic!("the registry is down") };
    assert_eq!(since, still);
    found(registry.fetch(known).await);
    assert_eq!(registry.0.metrics.not_ready().len(), 1);
    down.store(false, Ordering::SeqCst);
    found(registry.fetch(other).await);
    assert!(registry.0.metrics.not_ready().is_empty());
}

#[tokio::test]
async fn a_short_failure_is_tried_again_at_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if first { StatusCode::BAD_GATEWAY.into_response() } else { json!({ "schema": ORDER }).to_string().into_response() } }
    };
    let url = serve(Router::new().route("/schemas/ids/1", get(answer))).await;
    found(registry(&url).fetch(1).await);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn concurrent_questions_for_one_id_become_one_request() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (release, released) = tokio::sync::watch::channel(false);
    let count = asked.clone();
    let answer = move || {
        count.fetch_add(1, Ordering::SeqCst);
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            json!({ "schema": ORDER }).to_string()
        }
    };
    let url = serve(Router::new().route("/schemas/ids/1", get(answer))).await;
    let registry = registry(&url);
    let fetches = futures::future::join_all((0..50).map(|_| registry.fetch(1)));
    let open = async {
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        release.send(true).unwrap();
    };
    let (outcomes, ()) = tokio::join!(fetches, open);
    let first = found(outcomes[0].clone());
    assert!(outcomes.into_iter().all(|outcome| Arc::ptr_eq(&found(outcome), &first)));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_asker_that_goes_away_takes_nobody_with_it() {
    let registry = registry(&serve(server::service(server::Schemas::default())).await);
    let id = registry.register("a", &avro(ORDER)).await.unwrap();
    let mut first = Box::pin(registry.fetch(id));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(registry.fetch(id));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    found(second.await);
}

#[tokio::test]
async fn what_cannot_be_used_says_why() {
    let answer = |Path(id): Path<u32>| async move {
        match id {
            1 => json!({ "schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF" }).to_string(),
            2 => json!({ "schema": "{\"type\":\"record\"}" }).to_string(),
            3 => {
                let references = json!([{ "name": "x.Y", "subject": "gone", "version": 3 }]);
                json!({ "schema": "\"x.Y\"", "references": references }).to_string()
            }
            _ => json!({ "schema": "{\"type\":\"object\"}", "schemaType": "JSON", "references": null }).to_string(),
        }
    };
    let registry = registry(&serve(Router::new().route("/schemas/ids/{id}", get(answer))).await);
    for (id, said) in [(1, "type PROTOBUF"), (2, "schema 2"), (3, "subject \"gone\", version 3")] {
        let Outcome::Unusable(reason) = registry.fetch(id).await else { panic!("schema {id} can be used") };
        assert!(reason.contains(said), "{reason}");
    }
    assert!(!found(registry.fetch(4).await).schema.is_avro());
}

#[tokio::test]
async fn a_registry_that_knows_no_versions_of_ids_is_asked_by_subject() {
    let service = server::service(server::Schemas::default());
    let hide = |request: Request, next: Next| async move {
        let path = request.uri().path().to_owned();
        let hidden = path.starts_with("/schemas/ids/") && path.ends_with("/versions");
        if hidden { StatusCode::NOT_FOUND.into_response() } else { next.run(request).await }
    };
    let registry = registry(&serve(service.layer(middleware::from_fn(hide))).await);
    registry.register("orders-value", &avro("\"long\"")).await.unwrap();
    let id = registry.register("orders-value", &avro(ORDER)).await.unwrap();
    let schema = found(registry.fetch(id).await);
    assert_eq!(*registry.places(&schema).await.unwrap(), [Place { subject: "orders-value".to_owned(), version: 2 }]);
}

#[tokio::test]
async fn logins_are_sent_as_configured() {
    let answer = |headers: HeaderMap| async move {
        let login = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        if login == "Basic cm91dGVyOmh1bnRlcjI=" || login == "Bearer hunter2" {
            json!({ "schema": ORDER }).to_string().into_response()
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        }
    };
    let url = serve(Router::new().route("/schemas/ids/1", get(answer))).await;
    let password = || crate::config::Secret::given("hunter2");
    let basic = Auth::Basic { username: "router".to_owned(), password: password() };
    for auth in [basic, Auth::Bearer { token: password() }] {
        let config = Config { auth: Some(auth), ..config(&url) };
        found(Registry::new("main", &config, Metrics::new()).unwrap().fetch(1).await);
    }
    let reason = unavailable(registry(&url).fetch(1).await);
    assert!(reason.contains("check `auth`"), "{reason}");
}

#[tokio::test]
async fn the_server_refuses_in_the_registrys_own_words() {
    let url = serve(server::service(server::Schemas::default())).await;
    let http = reqwest::Client::new();
    let code = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<serde_json::Value>().await.unwrap()["error_code"].as_u64().unwrap())
    };
    assert_eq!(code(http.get(format!("{url}/subjects/none/versions"))).await, (404, 40401));
    assert_eq!(code(http.get(format!("{url}/schemas/ids/9"))).await, (404, 40403));
    let bad = json!({ "schema": "{\"type\":\"nothing\"}" }).to_string();
    assert_eq!(code(http.post(format!("{url}/subjects/a/versions")).body(bad)).await, (422, 42201));
    registry(&url).register("a", &avro(ORDER)).await.unwrap();
    assert_eq!(code(http.get(format!("{url}/subjects/a/versions/9"))).await, (404, 40402));
    assert_eq!(code(http.get(format!("{url}/subjects/a/versions/x"))).await, (422, 42202));
    let other = json!({ "schema": "\"long\"" }).to_string();
    assert_eq!(code(http.post(format!("{url}/subjects/a")).body(other)).await, (404, 40403));
    let latest: serde_json::Value = http.get(format!("{url}/subjects/a/versions/latest")).send().await.unwrap().json().await.unwrap();
    assert_eq!(latest, json!({ "subject": "a", "version": 1, "id": 1, "schema": ORDER }));
}
