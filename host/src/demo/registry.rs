//! A schema registry in this process: the part of Confluent's API that clients use to register schemas and to find them.
//!
//! Invariant: an id, once given, means the same schema, and the same schema gets the same id under every subject.
//!
//! It checks that an Avro schema is one, but not whether versions are compatible: its only level is `NONE`. Nothing is ever deleted.
//! Paths, fields and error codes: <https://docs.confluent.io/platform/current/schema-registry/develop/api.html>.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// Most schemas it keeps; a client that registers more makes them per record.
pub const SCHEMAS_MAX: usize = 10_000;

const REFERENCES_DEPTH_MAX: usize = 32;

/// Another schema whose names a schema uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The name by which the schema uses it.
    pub name: String,
    /// The subject that holds it.
    pub subject: String,
    /// Its version there.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Schema {
    kind: String,
    text: String,
    references: Vec<Reference>,
    /// The text without its white space, for comparing.
    canonical: String,
}

#[derive(Debug, Default)]
struct Kept {
    /// Schema `id` is at `id - 1`.
    schemas: Vec<Schema>,
    /// Ids by subject, version `v` at `v - 1`.
    subjects: BTreeMap<String, Vec<usize>>,
}

/// The schemas; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Schemas(Arc<Mutex<Kept>>);

/// What a client is told instead of an answer.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: u32,
    message: String,
}

type Answer = Result<Response, Refusal>;

/// The registry as an HTTP service.
pub fn service(schemas: Schemas) -> Router {
    Router::new()
        .route("/", get(|| async { answer(&json!({})) }))
        .route("/schemas/types", get(|| async { answer(&json!(["AVRO", "JSON"])) }))
        .route("/schemas/ids/{id}", get(by_id))
        .route("/schemas/ids/{id}/schema", get(text_by_id))
        .route("/schemas/ids/{id}/subjects", get(subjects_of_id))
        .route("/schemas/ids/{id}/versions", get(versions_of_id))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", axum::routing::post(check))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/subjects/{subject}/versions/{version}/schema", get(text_of_version))
        .route("/config", get(|| async { answer(&json!({ "compatibilityLevel": "NONE" })) }).put(configure))
        .route("/config/{subject}", get(|| async { answer(&json!({ "compatibilityLevel": "NONE" })) }).put(configure))
        .route("/mode", get(|| async { answer(&json!({ "mode": "READWRITE" })) }))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, 404, "HTTP 404 Not Found") })
        .with_state(schemas)
}

async fn by_id(State(schemas): State<Schemas>, Path(id): Path<String>) -> Answer {
    let kept = schemas.0.lock();
    Ok(answer(&described(kept.schema(&id)?.1)))
}

async fn text_by_id(State(schemas): State<Schemas>, Path(id): Path<String>) -> Answer {
    let kept = schemas.0.lock();
    Ok(text(kept.schema(&id)?.1.text.clone()))
}

async fn subjects_of_id(State(schemas): State<Schemas>, Path(id): Path<String>) -> Answer {
    let kept = schemas.0.lock();
    let (id, _) = kept.schema(&id)?;
    let subjects: Vec<&str> = kept.subjects.iter().filter(|(_, ids)| ids.contains(&id)).map(|(subject, _)| subject.as_str()).collect();
    Ok(answer(&json!(subjects)))
}

async fn versions_of_id(State(schemas): State<Schemas>, Path(id): Path<String>) -> Answer {
    let kept = schemas.0.lock();
    let (id, _) = kept.schema(&id)?;
    let versions = |(subject, ids): (&String, &Vec<usize>)| {
        let at = ids.iter().position(|known| *known == id)?;
        Some(json!({ "subject": subject, "version": at + 1 }))
    };
    Ok(answer(&Json::from(kept.subjects.iter().filter_map(versions).collect::<Vec<_>>())))
}

async fn subjects(State(schemas): State<Schemas>) -> Response {
    answer(&json!(schemas.0.lock().subjects.keys().collect::<Vec<_>>()))
}

async fn versions(State(schemas): State<Schemas>, Path(subject): Path<String>) -> Answer {
    let kept = schemas.0.lock();
    let count = kept.subject(&subject)?.len();
    Ok(answer(&json!((1..=count).collect::<Vec<_>>())))
}

async fn version(State(schemas): State<Schemas>, Path((subject, version)): Path<(String, String)>) -> Answer {
    let kept = schemas.0.lock();
    let (version, id) = kept.version(&subject, &version)?;
    Ok(answer(&kept.described_as(&subject, version, id)))
}

async fn text_of_version(State(schemas): State<Schemas>, Path((subject, version)): Path<(String, String)>) -> Answer {
    let kept = schemas.0.lock();
    let (_, id) = kept.version(&subject, &version)?;
    Ok(text(kept.schemas[id - 1].text.clone()))
}

async fn check(State(schemas): State<Schemas>, Path(subject): Path<String>, body: Bytes) -> Answer {
    let kept = schemas.0.lock();
    let ids = kept.subject(&subject)?;
    let schema = kept.read(&body)?;
    let version = ids.iter().position(|id| kept.schemas[id - 1].is_same(&schema));
    let version = version.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, 40403, "Schema not found"))?;
    Ok(answer(&kept.described_as(&subject, version + 1, ids[version])))
}

async fn register(State(schemas): State<Schemas>, Path(subject): Path<String>, body: Bytes) -> Answer {
    let mut kept = schemas.0.lock();
    let schema = kept.read(&body)?;
    let id = match kept.schemas.iter().position(|known| known.is_same(&schema)) {
        Some(at) => at + 1,
        None if kept.schemas.len() >= SCHEMAS_MAX => {
            let message = format!("{SCHEMAS_MAX} schemas are registered: schemas must not be made per record");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, 50001, message));
        }
        None => {
            kept.schemas.push(schema);
            kept.schemas.len()
        }
    };
    let versions = kept.subjects.entry(subject).or_default();
    if !versions.contains(&id) {
        versions.push(id);
    }
    Ok(answer(&json!({ "id": id })))
}

async fn configure(body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Wanted {
        compatibility: String,
    }
    match serde_json::from_slice::<Wanted>(&body) {
        Ok(Wanted { compatibility }) if compatibility == "NONE" => Ok(answer(&json!({ "compatibility": "NONE" }))),
        _ => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42203, "Invalid compatibility level: this registry only has NONE")),
    }
}

impl Kept {
    fn schema(&self, id: &str) -> Result<(usize, &Schema), Refusal> {
        let missing = || Refusal::new(StatusCode::NOT_FOUND, 40403, format!("Schema {id} not found"));
        let id: usize = id.parse().map_err(|_| missing())?;
        let at = id.checked_sub(1).ok_or_else(missing)?;
        self.schemas.get(at).map(|schema| (id, schema)).ok_or_else(missing)
    }

    fn subject(&self, subject: &str) -> Result<&[usize], Refusal> {
        let missing = || Refusal::new(StatusCode::NOT_FOUND, 40401, format!("Subject '{subject}' not found."));
        self.subjects.get(subject).map(Vec::as_slice).ok_or_else(missing)
    }

    /// Version and id.
    fn version(&self, subject: &str, version: &str) -> Result<(usize, usize), Refusal> {
        let ids = self.subject(subject)?;
        let number = match version {
            "latest" | "-1" => ids.len(),
            number => number.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                let message = format!("The specified version '{version}' is not a valid version id.");
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42202, message)
            })?,
        };
        let missing = || Refusal::new(StatusCode::NOT_FOUND, 40402, format!("Version {version} not found."));
        ids.get(number - 1).map(|id| (number, *id)).ok_or_else(missing)
    }

    fn described_as(&self, subject: &str, version: usize, id: usize) -> Json {
        let mut described = described(&self.schemas[id - 1]);
        described["subject"] = subject.into();
        described["version"] = version.into();
        described["id"] = id.into();
        described
    }

    /// Reads the schema in a request's body and checks it.
    fn read(&self, body: &[u8]) -> Result<Schema, Refusal> {
        #[derive(Deserialize)]
        struct Written {
            schema: String,
            #[serde(rename = "schemaType")]
            kind: Option<String>,
            references: Option<Vec<Reference>>,
        }
        let invalid = |message: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42201, message);
        let written: Written = serde_json::from_slice(body).map_err(|error| invalid(format!("Unrecognized request: {error}")))?;
        let kind = written.kind.unwrap_or_else(|| "AVRO".to_owned());
        let references = written.references.unwrap_or_default();
        let json: Json = serde_json::from_str(&written.schema).map_err(|error| invalid(format!("Invalid schema: {error}")))?;
        match kind.as_str() {
            "AVRO" => {
                let mut texts = Vec::new();
                self.collect(&references, 0, &mut texts)?;
                apache_avro::Schema::parse_str_with_list(&written.schema, &texts)
                    .map_err(|error| invalid(format!("Invalid schema: {error}")))?;
            }
            "JSON" => (),
            other => return Err(invalid(format!("Invalid schema type {other}: this registry takes AVRO and JSON"))),
        }
        Ok(Schema { kind, text: written.schema, references, canonical: json.to_string() })
    }

    /// The texts that `references` name, each after those that it uses itself.
    fn collect<'a>(&'a self, references: &[Reference], depth: usize, texts: &mut Vec<&'a str>) -> Result<(), Refusal> {
        if depth > REFERENCES_DEPTH_MAX {
            let message = format!("Invalid schema: references are nested more than {REFERENCES_DEPTH_MAX} deep");
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42201, message));
        }
        for reference in references {
            let (_, id) = self.version(&reference.subject, &reference.version.to_string()).map_err(|missing| {
                let message = format!("Invalid schema: reference \"{}\": {}", reference.name, missing.message);
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42201, message)
            })?;
            let schema = &self.schemas[id - 1];
            self.collect(&schema.references, depth + 1, texts)?;
            if !texts.contains(&schema.text.as_str()) {
                texts.push(&schema.text);
            }
        }
        Ok(())
    }
}

impl Schema {
    fn is_same(&self, other: &Schema) -> bool {
        self.kind == other.kind && self.canonical == other.canonical && self.references == other.references
    }
}

impl Refusal {
    fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, answer(&json!({ "error_code": self.code, "message": self.message }))).into_response()
    }
}

fn described(schema: &Schema) -> Json {
    let mut described = json!({ "schema": schema.text });
    // As Confluent's: no type means Avro.
    if schema.kind != "AVRO" {
        described["schemaType"] = schema.kind.as_str().into();
    }
    if !schema.references.is_empty() {
        described["references"] = json!(schema.references);
    }
    described
}

fn answer(body: &Json) -> Response {
    text(body.to_string())
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/vnd.schemaregistry.v1+json")], body).into_response()
}
