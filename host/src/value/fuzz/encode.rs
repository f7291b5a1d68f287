//! Avro made of JSON: what was Avro before says the same again, and whatever comes, what is written can be read.

use std::sync::Arc;

use super::schemas;
use super::*;
use crate::fuzz::{self, Choices};

/// Types whose bytes can say what the type does not allow: more digits than a decimal has, texts that are no UUID.
const LOOSE: &[&str] = &["decimal", "uuid"];

/// An encoder of a schema that can be written.
fn encoder_of(choices: &mut Choices, options: JsonOptions) -> Option<(Encoder, schemas::Made)> {
    let made = schemas::make(choices);
    choices.show("schema", made.json.to_string());
    let schema = Arc::new(Schema::avro(&made.json.to_string(), &[]).ok()?);
    Some((Encoder::new(schema, options).ok()?, made))
}

fn options(choices: &mut Choices) -> JsonOptions {
    let time = if choices.below(2) == 0 { TimeAs::Iso } else { TimeAs::Number };
    let bytes = if choices.below(2) == 0 { BytesAs::Base64 } else { BytesAs::Hex };
    let decimal = if choices.below(2) == 0 { DecimalAs::String } else { DecimalAs::Base64 };
    JsonOptions { decimal, bytes, time }
}

#[test]
fn what_was_avro_says_the_same_again() {
    fuzz::run("encode: what was Avro", |choices| {
        let options = options(choices);
        let Some((encoder, made)) = encoder_of(choices, options) else { return Ok(()) };
        let bytes = made.value(choices);
        choices.show("value", &bytes);
        let text = |bytes: &[u8]| {
            let mut text = Vec::new();
            let value = Value { format: Format::Avro, schema: Some(encoder.schema()), bytes };
            write_json(value, &options, &mut text).map(|()| text)
        };
        // Floats of another width are other texts of the same number.
        let says = |text: &[u8]| serde_json::from_slice::<Json>(text).map_err(|error| error.to_string());
        let Ok(before) = text(&bytes) else { return Ok(()) };
        choices.show("json", String::from_utf8_lossy(&before));
        let mut again = Vec::new();
        match encoder.write(Value { format: Format::Json, schema: None, bytes: &before }, &mut again) {
            Err(_) if LOOSE.iter().any(|name| encoder.schema().definition().contains(name)) => Ok(()),
            Err(misfit) => Err(misfit.to_string()),
            Ok(()) => match text(&again) {
                Ok(after) if says(&after)? == says(&before)? => Ok(()),
                // Another branch of a union may hold what the decimal's own type does not allow.
                Ok(_) if made.loose.get() => Ok(()),
                other => Err(format!("it says {:?} now", other.map(|after| String::from_utf8_lossy(&after).into_owned()))),
            },
        }
    });
}

#[test]
fn whatever_is_written_can_be_read() {
    fuzz::run("encode: any JSON", |choices| {
        let options = options(choices);
        let Some((encoder, _)) = encoder_of(choices, options) else { return Ok(()) };
        let Some((other, made)) = encoder_of(choices, options) else { return Ok(()) };
        let bytes = made.value(choices);
        let mut json = Vec::new();
        let value = Value { format: Format::Avro, schema: Some(other.schema()), bytes: &bytes };
        if write_json(value, &options, &mut json).is_err() {
            return Ok(());
        }
        choices.damage(&mut json);
        choices.show("json", String::from_utf8_lossy(&json));
        let mut written = vec![7];
        let outcome = encoder.write(Value { format: Format::Json, schema: None, bytes: &json }, &mut written);
        if outcome.is_err() {
            return if written == [7] { Ok(()) } else { Err("left something behind".to_owned()) };
        }
        in_every_way(Value { format: Format::Avro, schema: Some(encoder.schema()), bytes: &written[1..] })
            .and_then(|valid| if valid { Ok(()) } else { Err(format!("wrote what cannot be read: {written:?}")) })
    });
}
