//! `docs/configuration.md` names every key that the code reads, and none that it does not: its tables are made from the code.
//!
//! To renew them: `RENEW=1 cargo test -p anabranch --test configuration_reference`; read the diff before committing.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A part of the page between `<!-- keys: NAME -->` and `<!-- end -->`.
const SECTIONS: [(&str, &[&str]); 15] = [
    ("top", &[]),
    ("log", &["log"]),
    ("source diffusion", &["source", "*", "diffusion"]),
    ("source kafka", &["source", "*", "kafka"]),
    ("registry", &["registry", "*"]),
    ("plugin", &["plugin", "*"]),
    ("sink delta", &["sink", "*", "delta"]),
    ("sink diffusion", &["sink", "*", "diffusion"]),
    ("sink file", &["sink", "*", "file"]),
    ("sink http", &["sink", "*", "http"]),
    ("sink kafka", &["sink", "*", "kafka"]),
    ("sink null", &["sink", "*", "null"]),
    ("sink stdout", &["sink", "*", "stdout"]),
    ("route", &["route", "*"]),
    ("secret", &[]),
];

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

struct Schema(Value);

impl Schema {
    /// Without its reference and without "or null".
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        loop {
            if let Some(name) = schema["$ref"].as_str() {
                schema = &self.0["$defs"][name.trim_start_matches("#/$defs/")];
            } else if let Some(some) = schema["anyOf"].as_array().filter(|any| any.iter().any(|one| one["type"] == "null")) {
                schema = some.iter().find(|one| one["type"] != "null").expect("an option of something");
            } else {
                return schema;
            }
        }
    }

    fn at(&self, path: &[&str]) -> &Value {
        let mut schema = &self.0;
        for name in path {
            let table = self.resolve(schema);
            schema = match *name {
                "*" => table["patternProperties"].as_object().and_then(|all| all.values().next()).expect("a pattern"),
                name => self.property(table, name).unwrap_or_else(|| panic!("no {name} in {table}")),
            };
        }
        self.resolve(schema)
    }

    /// A key of a table, or of one of the tables that it may be.
    fn property<'a>(&'a self, table: &'a Value, name: &str) -> Option<&'a Value> {
        let variants = table["oneOf"].as_array().into_iter().flatten();
        table["properties"].get(name).or_else(|| variants.filter_map(|variant| variant["properties"].get(name)).next())
    }

    fn rows(&self, table: &Value, prefix: &str, rows: &mut Vec<String>) {
        let empty = Map::new();
        let required = table["required"].as_array();
        for (name, property) in table["properties"].as_object().unwrap_or(&empty) {
            let is_required = required.is_some_and(|list| list.iter().any(|key| key == name));
            self.row(&format!("{prefix}{name}"), property, is_required, rows);
        }
        for variant in table["oneOf"].as_array().into_iter().flatten() {
            for (name, property) in variant["properties"].as_object().unwrap_or(&empty) {
                // A variant that holds one value has the words for it.
                let mut described = property.clone();
                if described["description"].is_null() && described["$ref"].is_null() && !described["properties"].is_object() {
                    described["description"] = variant["description"].clone();
                }
                self.row(&format!("{prefix}{name}"), &described, false, rows);
            }
        }
    }

    fn row(&self, key: &str, property: &Value, is_required: bool, rows: &mut Vec<String>) {
        let resolved = self.resolve(property);
        let own = property["description"].as_str().or(resolved["description"].as_str()).unwrap_or_default();
        let is_table = resolved["title"].is_null() && (resolved["properties"].is_object() || has_table_variants(resolved));
        if is_table {
            if !own.is_empty() {
                rows.push(format!("| `{key}` | table | | {} |", escaped(own)));
            }
            self.rows(resolved, &format!("{key}."), rows);
            return;
        }
        let default = match &property["default"] {
            Value::Null if is_required => "**required**".to_owned(),
            Value::Null => String::new(),
            Value::Array(list) if list.is_empty() => String::new(),
            Value::Object(table) if table.is_empty() => String::new(),
            value => format!("`{value}`"),
        };
        let item = self.resolve(&resolved["items"]);
        // Words that stand in several rows of a table are explained in the first.
        let words = words(resolved, !rows.iter().any(|row| row.ends_with(&format!("{} |", escaped(&words(resolved, true))))));
        rows.push(format!("| `{key}` | {} | {default} | {} |", self.kind(resolved), escaped(&(own.to_owned() + &words))));
        if item["title"].is_null() && item["properties"].is_object() {
            self.rows(item, &format!("{key}[]."), rows);
        }
    }

    fn kind(&self, schema: &Value) -> String {
        if let Some(title) = schema["title"].as_str() {
            return title.to_owned();
        }
        if !words(schema, true).is_empty() || schema["enum"].is_array() {
            return "word".into();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter(|kind| *kind != "null").filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            kind => kind.as_str().unwrap_or("value").to_owned(),
        };
        match kind.as_str() {
            "string" => "text".into(),
            "integer" | "number" => "number".into(),
            "boolean" => "true or false".into(),
            "array" => format!("list of {}", plural(&self.kind(self.resolve(&schema["items"])))),
            "object" if schema["additionalProperties"].is_object() => {
                format!("table of {}", plural(&self.kind(self.resolve(&schema["additionalProperties"]))))
            }
            "object" => "table".into(),
            other => other.replace("string", "text").replace("boolean", "true or false"),
        }
    }
}

fn has_table_variants(schema: &Value) -> bool {
    schema["oneOf"].as_array().is_some_and(|variants| variants.iter().any(|variant| variant["properties"].is_object()))
}

fn plural(kind: &str) -> String {
    if matches!(kind, "text") || kind.contains(" or ") { kind.into() } else { format!("{kind}s") }
}

/// The words that a value can be; `explained`: with their meanings.
fn words(schema: &Value, explained: bool) -> String {
    let mut text = String::new();
    for word in schema["oneOf"].as_array().into_iter().flatten().chain(schema["enum"].as_array().into_iter().flatten()) {
        let Some(name) = word["const"].as_str().or(word.as_str()) else { continue };
        let meaning = word["description"].as_str().unwrap_or_default().trim_end_matches('.');
        let separator = if text.is_empty() { " " } else { "; " };
        let _ = if !explained || meaning.is_empty() || meaning.trim_matches('`') == name {
            write!(text, "{separator}`\"{name}\"`")
        } else {
            write!(text, "{separator}`\"{name}\"`: {meaning}")
        };
    }
    if text.is_empty() { text } else { text + "." }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The table of one section.
fn keys(schema: &Schema, name: &str, path: &[&str]) -> String {
    let mut rows = Vec::new();
    match name {
        "top" => schema.row("listen", &schema.0["properties"]["listen"], false, &mut rows),
        "secret" => {
            rows.push("| `env` | text | | The environment variable that holds it. |".into());
            rows.push("| `file` | path | | The file that holds it; one line break at its end does not count. |".into());
        }
        _ => schema.rows(schema.at(path), "", &mut rows),
    }
    if rows.is_empty() {
        return "It has no keys.\n".into();
    }
    format!("| key | value | default | meaning |\n| --- | --- | --- | --- |\n{}\n", rows.join("\n"))
}

/// The page with its tables renewed.
fn renewed(page: &str) -> String {
    let schema = Schema(anabranch::config::schema());
    SECTIONS.iter().fold(page.to_owned(), |page, (name, path)| {
        let begin = format!("<!-- keys: {name} -->\n");
        let start = page.find(&begin).unwrap_or_else(|| panic!("the page has no {begin}")) + begin.len();
        let end = start + page[start..].find("<!-- end -->").unwrap_or_else(|| panic!("{begin} has no end"));
        format!("{}{}{}", &page[..start], keys(&schema, name, path), &page[end..])
    })
}

#[test]
fn the_page_has_every_key_of_the_code_and_no_other() {
    let found = std::fs::read_to_string(page()).unwrap();
    let expected = renewed(&found);
    if std::env::var_os("RENEW").is_some() {
        std::fs::write(page(), &expected).unwrap();
        return;
    }
    let differing = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(found == expected, "renew docs/configuration.md (see the top of this test); first difference: {differing:#?}");
}

#[test]
fn every_table_of_the_file_has_its_section() {
    let schema = Schema(anabranch::config::schema());
    let sections = |first: &str| SECTIONS.iter().filter(|(_, path)| path.first() == Some(&first)).count();
    for table in schema.0["properties"].as_object().unwrap().keys().filter(|table| *table != "listen") {
        let kinds = match table.as_str() {
            "sink" | "source" => schema.at(&[table, "*"])["oneOf"].as_array().unwrap().len(),
            _ => 1,
        };
        assert_eq!(sections(table), kinds, "{table}");
    }
}

#[test]
fn the_examples_of_the_page_are_good_configurations() {
    let text = std::fs::read_to_string(page()).unwrap();
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples.into_iter().filter(|example| example.contains("[route.")) {
        let parsed = anabranch::config::parse(example, Path::new("example.toml"), Path::new("."));
        let report = parsed.map(|loaded| loaded.report).unwrap_or_else(|report| report);
        assert!(report.problems.is_empty(), "{}", report.render(false));
    }
}
