//! Avro: whole values, damaged values, fields, tables and schemas.

use apache_avro::Schema as AvroSchema;
use apache_avro::types::Value as AvroValue;
use serde_json::Value as Json;

use super::apache::{Apache, Times};
use super::schemas::{self, Made};
use super::*;
use crate::fuzz::{self, Choices};
use crate::value::schema::Unit;

/// Where the walker is stricter than `apache-avro` 0.21, by intent: the other reads the end of the bytes as null, drops bits of integers
/// beyond 64, leaves bytes behind a value alone, and has no bounds of depth, of what takes no bytes, and of digits.
const STRICTER: &[&str] = &[
    "are left over",
    "nests deeper",
    "bytes are announced",
    "items are announced",
    "the bytes end within an integer",
    "more than 64 bits",
    "that take no bytes",
    "a decimal of",
    "a block of",
];

/// A schema for both, or `None` where neither takes it.
fn both(made: &Made) -> Result<Option<(Schema, AvroSchema)>, String> {
    let text = made.json.to_string();
    match (Schema::avro(&text, &[]), AvroSchema::parse_str(&text)) {
        (Ok(ours), Ok(theirs)) => Ok(Some((ours, theirs))),
        (Err(_), Err(_)) => Ok(None),
        (ours, theirs) => Err(format!("schema {text}: {ours:?}, apache-avro {theirs:?}")),
    }
}

#[test]
fn values_are_read_as_apache_avro_reads_them() {
    fuzz::run("avro: values", |choices| {
        let made = schemas::make(choices);
        choices.show("schema", made.json.to_string());
        let Some((schema, theirs)) = both(&made)? else { return Ok(()) };
        let bytes = made.value(choices);
        choices.show("value", &bytes);
        let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes };
        let valid = in_every_way(value)?;
        if made.cut.get() {
            return Ok(());
        }
        if !valid || made.fixed_uuid {
            return only_stricter(value, valid);
        }
        // It does not find again what is named within a decimal.
        let Ok(apache) = Apache::new(&theirs) else { return Ok(()) };
        let (expected, left) = apache.read(&bytes).map_err(|error| format!("apache-avro does not read it: {error}"))?;
        assert_eq!(left, 0);
        same(&apache, value, &expected)?;
        fields(&apache, &made, &schema, &bytes, &expected, choices)?;
        tables::same(&apache, &schema, value, &expected)?;
        // And once more as `apache-avro` itself writes it; it panics at some, such as decimals of no bytes.
        if let Ok(Ok(again)) = std::panic::catch_unwind(|| apache_avro::to_avro_datum(&theirs, expected.clone())) {
            same(&apache, Value { bytes: &again, ..value }, &expected)?;
        }
        Ok(())
    });
}

#[test]
fn damaged_values_are_refused_or_read_as_apache_avro_reads_them() {
    fuzz::run("avro: damaged values", |choices| {
        let made = schemas::make(choices);
        choices.show("schema", made.json.to_string());
        let Some((schema, theirs)) = both(&made)? else { return Ok(()) };
        let mut bytes = made.value(choices);
        choices.damage(&mut bytes);
        choices.show("value", &bytes);
        let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes };
        let valid = in_every_way(value)?;
        fields_in_any_kind(&made, &schema, &bytes, choices)?;
        tables::never_half(&schema, value, valid)?;
        // At the end of the bytes it goes on reading nulls, in records within themselves for ever.
        if made.fixed_uuid || only_stricter(value, valid).is_ok() && !valid {
            return Ok(());
        }
        let Ok(apache) = Apache::new(&theirs) else { return Ok(()) };
        match (valid, apache.read(&bytes)) {
            (true, Ok((expected, 0))) => same(&apache, value, &expected),
            // Other spellings of uuids are kept as texts.
            (true, Err(error)) if error.to_lowercase().contains("uuid") => Ok(()),
            // And uuids of 16 characters are no bytes.
            (true, Err(error)) if error.contains("UTF-8") && made.json.to_string().contains("uuid") => Ok(()),
            (true, other) => Err(format!("apache-avro does not read it: {other:?}")),
            (false, Ok((read, 0))) => only_stricter(value, valid).map_err(|error| format!("{error}; apache-avro reads {read:?}")),
            (false, _) => Ok(()),
        }
    });
}

#[test]
fn damaged_schemas_are_refused_or_compiled_within_bounds() {
    fuzz::run("avro: damaged schemas", |choices| {
        let made = schemas::make(choices);
        let mut text = made.json.to_string();
        for _ in 0..=choices.below(4) {
            text = damaged(&text, choices);
        }
        choices.show("schema", &text);
        let (held, schema) = fuzz::holding(|| Schema::avro(&text, &[]));
        let referred = Schema::avro("{\"type\":\"array\",\"items\":\"int\"}", &[text.clone()]);
        let Ok(schema) = schema else { return Ok(()) };
        if held > (4 << 20) + text.len() * 10_000 {
            return Err(format!("held {held} bytes for a schema of {}", text.len()));
        }
        drop(referred);
        let bytes = made.value(choices);
        choices.show("value", &bytes);
        let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes };
        let valid = in_every_way(value)?;
        fields_in_any_kind(&made, &schema, &bytes, choices)?;
        tables::never_half(&schema, value, valid)
    });
}

/// Replaces a token of a schema by another that stands in schemas.
fn damaged(text: &str, choices: &mut Choices) -> String {
    const TOKENS: &[&str] = &[
        "0",
        "-1",
        "18446744073709551615",
        "9223372036854775807",
        "1e999",
        "null",
        "[]",
        "{}",
        "\"\"",
        "\"N0\"",
        "\"record\"",
        "\"decimal\"",
        "\"a.b\"",
        "\"string\"",
        "\"fixed\"",
        "[\"null\",\"N0\"]",
        "\"connect.name\":\"org.apache.kafka.connect.data.Decimal\",\"connect.parameters\":{\"scale\":\"-9223372036854775808\"},\"x\"",
        "\"connect.name\":\"io.debezium.time.NanoTimestamp\",\"x\"",
        "{\"type\":\"bytes\",\"connect.name\":\"org.apache.kafka.connect.data.Decimal\",\"connect.parameters\":{\"scale\":\"70000\"}}",
        "{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":9223372036854775807,\"scale\":9223372036854775806}",
        "{\"type\":\"fixed\",\"name\":\"H\",\"size\":9223372036854775807}",
        "\"aliases\":[\"N1\"],\"x\"",
        "\"default\":null,\"x\"",
    ];
    // Tokens are texts and numbers; where one starts and ends shows well enough by the quotes.
    let marks: Vec<usize> = text.char_indices().filter(|(_, c)| "\"{}[],:".contains(*c)).map(|(at, _)| at).collect();
    let from = choices.below(marks.len().max(1));
    let to = (from + choices.below(4)).min(marks.len().saturating_sub(1));
    let (Some(from), Some(to)) = (marks.get(from), marks.get(to)) else { return (*choices.pick(TOKENS)).to_owned() };
    let to = if choices.once_in(2) { *to } else { to + 1 };
    format!("{}{}{}", &text[..*from], choices.pick(TOKENS), &text[to.max(*from)..])
}

/// What is not valid is so for a reason that only we have.
fn only_stricter(value: Value<'_>, valid: bool) -> Result<(), String> {
    let Err(error) = validate(value) else { return if valid { Ok(()) } else { Err("valid, and then not".to_owned()) } };
    let error = error.to_string();
    if STRICTER.iter().any(|reason| error.contains(reason)) { Ok(()) } else { Err(format!("only we refuse it: {error}")) }
}

fn same(apache: &Apache<'_>, value: Value<'_>, expected: &AvroValue) -> Result<(), String> {
    let found = to_json(value)?;
    let expected = apache.json(expected, apache.schema, Times::Numbers);
    if found != expected {
        return Err(format!("as JSON {found}, apache-avro has {expected}"));
    }
    let mut cbor = Vec::new();
    write_cbor(value, &mut cbor).map_err(|error| error.to_string())?;
    let found = to_json(Value { format: Format::Cbor, schema: None, bytes: &cbor })?;
    if found == expected { Ok(()) } else { Err(format!("as CBOR {found}, apache-avro has {expected}")) }
}

/// Fields in the kinds of the schema hold what `apache-avro` has at their paths.
fn fields(apache: &Apache<'_>, made: &Made, schema: &Schema, bytes: &[u8], whole: &AvroValue, choices: &mut Choices) -> Result<(), String> {
    let paths: Vec<Vec<String>> = (0..choices.below(5)).map(|_| made.path(choices)).collect();
    choices.show("paths", &paths);
    // Alone too: what does not fit a column is an error for the whole row.
    let together = [paths.clone()];
    for paths in together.into_iter().chain(paths.into_iter().map(|path| vec![path])) {
        let wanted: Vec<Wanted> = paths.iter().map(|path| Wanted { path: path.clone(), kind: None, lenient: false }).collect();
        let projection = Projection::new(Format::Avro, Some(schema), &wanted).map_err(|error| error.to_string())?;
        let mut columns = projection.columns();
        match projection.read(Some(schema), bytes, &mut columns) {
            Ok(()) => (),
            Err(error) if error.reason.contains("does not fit") => continue,
            Err(error) => return Err(format!("fields {paths:?}: {error}")),
        }
        for (path, column) in paths.iter().zip(&columns.columns) {
            let found = cell(column)?;
            let expected = apache.find(whole, apache.schema, path).map(|(value, schema)| entry(apache, value, schema, column.kind()));
            // Where the branches of a union differ, the first that has the field says the kind: an integer may be a float, or a text.
            let is_same = found == expected || found.is_some() && expected.is_some() && apache.is_ambiguous(apache.schema, path);
            if !is_same {
                return Err(format!("field {path:?}: {found:?} in {column:?}, apache-avro has {expected:?}"));
            }
        }
    }
    Ok(())
}

/// A value as a column of this kind holds it.
fn entry<'s>(apache: &Apache<'s>, value: &AvroValue, schema: &'s AvroSchema, kind: Kind) -> Json {
    let (inner, _) = apache.look_through(value, schema);
    let micros = |value: i64, unit: Unit| unit.to_micros(value).into();
    match (kind, inner) {
        (Kind::Documents, _) => apache.json(value, schema, Times::Numbers),
        (_, AvroValue::TimeMillis(value)) => micros((*value).into(), Unit::Millis),
        (_, AvroValue::TimestampMillis(value) | AvroValue::LocalTimestampMillis(value)) => micros(*value, Unit::Millis),
        (_, AvroValue::TimestampNanos(value) | AvroValue::LocalTimestampNanos(value)) => micros(*value, Unit::Nanos),
        (_, AvroValue::Float(value)) => super::apache::float((*value).into()),
        _ => apache.json(value, schema, Times::Numbers),
    }
}

/// Fields in whatever kinds: a row is whole or not there.
fn fields_in_any_kind(made: &Made, schema: &Schema, bytes: &[u8], choices: &mut Choices) -> Result<(), String> {
    const KINDS: &[Option<Kind>] = &[
        None,
        Some(Kind::Documents),
        Some(Kind::Texts),
        Some(Kind::Decimals),
        Some(Kind::Integers),
        Some(Kind::Floats),
        Some(Kind::Booleans),
        Some(Kind::Binaries),
        Some(Kind::Dates),
        Some(Kind::Times),
        Some(Kind::Timestamps),
    ];
    let wanted: Vec<Wanted> = (0..choices.below(5))
        .map(|_| Wanted { path: made.path(choices), kind: *choices.pick(KINDS), lenient: choices.once_in(2) })
        .collect();
    choices.show("fields", &wanted);
    let Ok(projection) = Projection::new(Format::Avro, Some(schema), &wanted) else { return Ok(()) };
    let mut columns = projection.columns();
    columns.push_null_row();
    let rows = 1 + usize::from(projection.read(Some(schema), bytes, &mut columns).is_ok());
    columns.push_missing_row();
    if columns.rows() != rows + 1 || columns.columns.iter().any(|column| column.len() != rows + 1) {
        return Err(format!("columns of different lengths: {columns:?}"));
    }
    Ok(())
}
