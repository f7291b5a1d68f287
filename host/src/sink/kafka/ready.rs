//! A record as its topic gets it: topic, partition, key, value and headers.
//!
//! Invariant: Avro goes out with the prefix that a reader can look up, or not at all; its bytes behind the prefix are never changed.

use std::borrow::Cow;
use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use super::avro::{CONFIGURED, Part};
use super::config::{Config, KeyPayload, Partition, Payload};
use crate::batch::PREFIX_LEN;
use crate::config::check_topic;
use crate::dead::Class;
use crate::output::{Cell, View};
use crate::value::{Encoder, Format, Value, write_json};

/// Why a record is none for the topic: class, code and message of its dead letter.
pub type Unfit = (Class, &'static str, String);

/// Finds the id of a schema for a topic, by the schema's handle.
pub type FindId<'f> = dyn Fn(&str, Part, u32) -> Result<u32, Unfit> + 'f;

/// A record as its topic gets it.
pub struct Ready<'v> {
    pub topic: Cow<'v, str>,
    pub partition: Option<i32>,
    pub key: Option<&'v [u8]>,
    pub value: Option<&'v [u8]>,
}

/// Where what is written for a record stands.
#[derive(Debug, Default)]
pub struct Buffers {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// What becomes of keys and values.
#[derive(Debug, Clone)]
pub struct Forms {
    pub key: KeyPayload,
    pub value: Payload,
    /// For values that become Avro and have no schema.
    pub encoder: Option<Arc<Encoder>>,
}

impl Forms {
    /// Those of a configuration. Dead letters hold what nobody could read: their bytes stay.
    ///
    /// # Errors
    /// Where the schema's file is none, in words for the user.
    pub fn of(config: &Config, takes_letters: bool) -> Result<Self, String> {
        let key = if takes_letters { KeyPayload::Bytes } else { config.key };
        let value = if takes_letters && config.value == Payload::Avro { Payload::Bytes } else { config.value };
        let encoder = if value == Payload::Avro { config.encoder()? } else { None };
        Ok(Forms { key, value, encoder })
    }

    /// What makes this value Avro; `None`: it is Avro already, or cannot be.
    pub fn encoder_of(&self, view: View<'_>) -> Option<&Encoder> {
        let has_schema = |value: Value<'_>| value.format == Format::Avro;
        self.encoder.as_deref().filter(|_| view.value().is_some_and(|value| !has_schema(value)))
    }
}

/// The topic of a record.
pub fn topic<'v>(config: &'v Config, view: View<'v>) -> Result<Cow<'v, str>, Unfit> {
    let unfit = |message| (Class::DestinationInvalid, "destination", message);
    let Some(destination) = view.destination() else {
        let topic = config.topic.as_deref().map(Cow::Borrowed);
        return topic.ok_or_else(|| unfit("the record has no destination, and the sink no `topic`".to_owned()));
    };
    let topic = config.replace.name(destination);
    match check_topic("topic", &topic) {
        Some(fault) => Err(unfit(format!("{}: {}", fault.wrong, fault.remedy))),
        None => Ok(topic),
    }
}

/// The record as its topic gets it; `buffers` hold what is written for it.
pub fn ready<'v>(config: &'v Config, forms: &Forms, view: View<'v>, buffers: &'v mut Buffers, id: &FindId<'_>) -> Result<Ready<'v>, Unfit> {
    let topic = topic(config, view)?;
    let partition = (config.partition == Partition::Same).then(|| view.partition());
    let Buffers { key, value } = buffers;
    let key = match (forms.key, view.key()) {
        (_, None) => None,
        (KeyPayload::Avro, Some(found)) => {
            let id = |handle| id(&topic, Part::Key, handle);
            Some(avro("key", found, view.key_schema(), view.input_key_bytes(), id, key)?)
        }
        (KeyPayload::Bytes, Some(found)) => Some(view.input_key_bytes().unwrap_or(found.bytes)),
    };
    let value = match view.value() {
        None => None,
        Some(found) if forms.value == Payload::Avro => {
            let id = |handle| id(&topic, Part::Value, handle);
            if let Some(encoder) = forms.encoder_of(view) {
                frame(id(CONFIGURED)?.to_be_bytes(), &[], value);
                encoder.write(found, value).map_err(|misfit| (Class::SinkPermanent, "schema", misfit.to_string()))?;
                return Ok(Ready { topic, partition, key, value: Some(value) });
            }
            Some(avro("value", found, view.value_schema(), view.input_value_bytes(), id, value)?)
        }
        Some(found) => Some(plain_value(config, forms, view, found, value)?),
    };
    Ok(Ready { topic, partition, key, value })
}

/// A key or a value as Avro with the id that it has at the sink's registry.
fn avro<'v>(
    part: &str,
    value: Value<'v>,
    handle: u32,
    input: Option<&'v [u8]>,
    id: impl Fn(u32) -> Result<u32, Unfit>,
    buffer: &'v mut Vec<u8>,
) -> Result<&'v [u8], Unfit> {
    if value.format != Format::Avro || handle == 0 {
        let message = format!(
            "the {part} has no Avro schema: write {part} = \"avro\" in the route too, let a plugin make it with a schema, or choose another \
             `{part}` in the sink (a value may get a `schema` there)"
        );
        return Err((Class::SinkPermanent, "schema", message));
    }
    let id = id(handle)?.to_be_bytes();
    if let Some(input) = input.filter(|input| input.get(1..PREFIX_LEN) == Some(&id)) {
        return Ok(input);
    }
    frame(id, value.bytes, buffer);
    Ok(buffer)
}

/// The value as bytes or as JSON.
fn plain_value<'v>(config: &Config, forms: &Forms, view: View<'v>, value: Value<'v>, text: &'v mut Vec<u8>) -> Result<&'v [u8], Unfit> {
    if forms.value == Payload::Json {
        text.clear();
        write_json(value, &config.json, text).map_err(|error| (Class::Decode, "json", error.to_string()))?;
        return Ok(text);
    }
    if let Some(bytes) = view.input_value_bytes() {
        return Ok(bytes);
    }
    let is_set = matches!(view.output().value, Cell::Set { .. });
    if !is_set || value.format != Format::Avro {
        return Ok(value.bytes);
    }
    // Avro that nobody can look up is of no use to a reader.
    let Some(id) = view.schema(view.value_schema()).and_then(|entry| entry.id) else {
        let message = "a plugin made the value, and its schema is not in the registry: set value = \"avro\" in the sink, which registers it, \
                       or value = \"json\"";
        return Err((Class::SinkPermanent, "schema", message.to_owned()));
    };
    frame(id.to_be_bytes(), value.bytes, text);
    Ok(text)
}

fn frame(id: [u8; 4], bytes: &[u8], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.reserve(PREFIX_LEN + bytes.len());
    buffer.push(0);
    buffer.extend_from_slice(&id);
    buffer.extend_from_slice(bytes);
}

/// The headers as librdkafka takes them.
pub fn headers(view: View<'_>) -> Option<OwnedHeaders> {
    let list = header_list(view);
    if list.is_empty() {
        return None;
    }
    let mut headers = OwnedHeaders::new_with_capacity(list.len());
    for (name, value) in list {
        headers = headers.insert(Header { key: &name, value });
    }
    Some(headers)
}

/// The headers in their order.
pub fn header_list(view: View<'_>) -> Vec<(String, Option<&[u8]>)> {
    // Names come from librdkafka, which has them as C strings too.
    view.headers().into_iter().map(|(name, value)| (String::from_utf8_lossy(name).replace('\0', ""), value)).collect()
}
