//! Answers that no registry gives: whatever comes, nothing panics, and only a definite answer is taken for one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::fuzz::{self, Choices};

/// Registries asked at the same time: an answer that may be better the next time takes a while, as it should.
const AT_ONCE: usize = 32;
const ID: u32 = 7;
/// Attempts, pauses between them and answers that never end, several requests long.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What one registry answers to each path.
#[derive(Debug, Clone)]
struct Answers {
    schema: Reply,
    subjects: Reply,
    version: Reply,
    other: Reply,
}

#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    body: Vec<u8>,
    /// The bytes on the wire; whether they are a whole answer of HTTP.
    wire: Vec<u8>,
    is_whole: bool,
    /// Whether it may be another answer than the one meant.
    is_damaged: bool,
}

#[test]
fn only_a_definite_answer_says_that_there_is_no_schema() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    fuzz::run_within(&format!("registry answers, {AT_ONCE} an input"), WAIT_MAX, |choices| {
        let all: Vec<Answers> = (0..AT_ONCE)
            .map(|_| Answers { schema: schema(choices), subjects: subjects(choices), version: definition(choices), other: odd(choices) })
            .collect();
        runtime.block_on(ask(Arc::new(all))).map_err(|(wrong, answers)| {
            choices.show("answers", &answers);
            choices.show("body", String::from_utf8_lossy(&answers.schema.body));
            wrong
        })
    });
}

async fn ask(all: Arc<Vec<Answers>>) -> Result<(), (String, Box<Answers>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = all.clone();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let served = served.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut part = [0; 4096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part).await {
                        Ok(length) if length > 0 => request.extend(&part[..length]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&request);
                let path = text.split(' ').nth(1).unwrap_or_default();
                let (number, path) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
                let answers = &served[number.parse::<usize>().unwrap_or_default()];
                let reply = match path {
                    "schemas/ids/7" => &answers.schema,
                    "subjects" => &answers.subjects,
                    path if path.starts_with("subjects/") => &answers.version,
                    _ => &answers.other,
                };
                // Whoever has read enough hangs up.
                let _ = stream.write_all(&reply.wire).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let asked = (0..all.len()).map(|number| {
        let config: Config = toml::from_str(&format!("url = \"http://{address}/{number}\"\ntimeout = \"1 s\"")).unwrap();
        let client = Client::new(&config).unwrap();
        async move {
            let schema = client.schema(ID).await.map(drop);
            let places = client.places(ID).await.map(drop);
            (schema, places)
        }
    });
    let answered = join_all(asked).await;
    server.abort();
    for (answers, (schema, places)) in all.iter().zip(answered) {
        let wrong = |text: String| Err((text, Box::new(answers.clone())));
        if let Err(Refusal::Unusable(reason)) = places {
            return wrong(format!("places are unusable: {reason}"));
        }
        if answers.schema.is_damaged || answers.subjects.is_damaged {
            continue;
        }
        let is_definite = answers.schema.is_whole
            && (says(&answers.schema, 40403)
                || answers.schema.status == 404
                    && answers.subjects.is_whole
                    && (200..300).contains(&answers.subjects.status)
                    && serde_json::from_slice::<Vec<String>>(&answers.subjects.body).is_ok());
        match schema {
            Err(Refusal::NotThere) if !is_definite => return wrong("it says that there is none, and nobody said so".to_owned()),
            Ok(()) if !(200..300).contains(&answers.schema.status) => return wrong("a schema of an answer that has none".to_owned()),
            Err(Refusal::Unusable(reason)) if !(200..300).contains(&answers.schema.status) => {
                return wrong(format!("{reason}: of an answer that has no schema"));
            }
            Err(Refusal::Unavailable(reason)) if is_definite && says(&answers.schema, 40403) => {
                return wrong(format!("it is definite, and not taken for that: {reason}"));
            }
            Err(Refusal::Unusable(reason) | Refusal::Unavailable(reason)) if reason.len() > 100_000 => {
                return wrong(format!("a reason of {} bytes", reason.len()));
            }
            _ => (),
        }
    }
    Ok(())
}

/// A client's error that names this code. The classes of 401, 403, 408, 425 and 429 say something else.
fn says(reply: &Reply, code: u64) -> bool {
    let body: Json = serde_json::from_slice(&reply.body).unwrap_or_default();
    (400..500).contains(&reply.status) && ![401, 403, 408, 425, 429].contains(&reply.status) && body["error_code"] == json!(code)
}

const STATUS: &[u16] = &[200, 200, 200, 404, 404, 404, 200, 201, 204, 301, 400, 401, 403, 408, 409, 422, 425, 429, 500, 503, 599, 100, 999];

fn schema(choices: &mut Choices) -> Reply {
    if choices.once_in(2) {
        return definition(choices);
    }
    let status = *choices.pick(&[404, 404, 404, 400, 422, 200, 500, 429]);
    let code = choices
        .pick(&[json!(40403), json!(40401), json!(404), json!("40403"), json!(40403.0), json!(-1), json!(null), json!(5_000_000_000_u64)])
        .clone();
    let body = json!({"error_code": code, "message": choices.text(8)}).to_string().into_bytes();
    reply(status, body, choices)
}

fn subjects(choices: &mut Choices) -> Reply {
    let body = *choices.pick(&[&b"[]"[..], b"[\"a-value\"]", b"[1]", b"{}", b"<html>", b"", b"[\"a\""]);
    let status = *choices.pick(&[200, 200, 200, 404, 500, 301]);
    reply(status, body.to_vec(), choices)
}

fn definition(choices: &mut Choices) -> Reply {
    const SCHEMAS: &[&str] = &[
        "\"string\"",
        r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"o","type":"Other"}]}"#,
        r#"{"type":"enum","name":"Other","symbols":["A"]}"#,
        r#"{"type":"record","name":"Other","fields":[{"name":"id","type":"long"},{"name":"r","type":["null","R"]}]}"#,
        r#"["null","Other"]"#,
        r#"{"type":"fixed","name":"F","size":18446744073709551615}"#,
        "{",
        "",
        "null",
        "[]",
        r#"{"type":"record","name":".","fields":[]}"#,
    ];
    let mut definition = json!({"schema": choices.pick(SCHEMAS)});
    if choices.once_in(2) {
        definition["schemaType"] =
            choices.pick(&[json!("AVRO"), json!("JSON"), json!("PROTOBUF"), json!(""), json!(null), json!(1)]).clone();
    }
    if choices.once_in(2) {
        let one = |choices: &mut Choices| {
            json!({"name": choices.pick(&["Other", "", "R"]), "subject": choices.pick(&["o", "../x", "a/b?c#d", "", "é\n"]),
                   "version": choices.pick(&[json!(1), json!(2), json!(-1), json!("1"), json!(4_294_967_296_u64)])})
        };
        let list: Vec<Json> = (0..choices.below(3)).map(|_| one(choices)).collect();
        definition["references"] = if choices.once_in(6) { Json::Null } else { Json::Array(list) };
    }
    let status = if choices.once_in(3) { *choices.pick(STATUS) } else { 200 };
    reply(status, definition.to_string().into_bytes(), choices)
}

fn odd(choices: &mut Choices) -> Reply {
    let body = json!([{"subject": choices.text(4), "version": choices.number()}, choices.text(3)]).to_string().into_bytes();
    let status = *choices.pick(STATUS);
    reply(status, body, choices)
}

/// An answer as HTTP, damaged now and then.
fn reply(status: u16, mut body: Vec<u8>, choices: &mut Choices) -> Reply {
    if choices.once_in(6) {
        choices.damage(&mut body);
    }
    let (mut is_whole, mut is_damaged) = (true, false);
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    if choices.once_in(6) {
        let line = *choices.pick(&[
            "Retry-After: 0\r\n",
            "Retry-After: 99999999999999999999\r\n",
            "Location: http://\u{e9}/\r\n",
            "Retry-After: -1\r\n",
            "Content-Type: text/html\r\n",
        ]);
        head.push_str(line);
    }
    let mut wire = Vec::new();
    // These statuses have no body, whatever is sent.
    if matches!(status, 100..200 | 204 | 304) {
        is_whole = false;
    }
    match choices.below(8) {
        0 => {
            // Shorter than announced.
            is_whole = false;
            wire.extend(format!("{head}Content-Length: {}\r\n\r\n", body.len() + 5).bytes());
        }
        1 => wire.extend(format!("{head}\r\n").bytes()),
        2 => {
            wire.extend(format!("{head}Transfer-Encoding: chunked\r\n\r\n").bytes());
            for part in body.chunks(7) {
                wire.extend(format!("{:x}\r\n", part.len()).bytes().chain(part.iter().copied()).chain(*b"\r\n"));
            }
            wire.extend(b"0\r\n\r\n");
            return Reply { status, body, wire, is_whole, is_damaged: false };
        }
        _ => wire.extend(format!("{head}Content-Length: {}\r\n\r\n", body.len()).bytes()),
    }
    wire.extend(&body);
    if choices.once_in(12) {
        is_damaged = true;
        choices.damage(&mut wire);
    }
    Reply { status, body, wire, is_whole, is_damaged }
}
