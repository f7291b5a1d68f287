//! One output as a line of JSON: its value, or an envelope with everything that is known of it.
//!
//! Invariant: a line has no line end but its last byte, whatever the record holds.

use crate::output::View;
use crate::value::{JsonOptions, write_json};

/// What a line holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines {
    /// Whether topic, partition, offset, timestamp, key, headers and destination stand around the value.
    pub envelope: bool,
    /// How decimals, bytes and times are written.
    pub json: JsonOptions,
}

impl Lines {
    /// Appends the line of `view`. Where that fails, `out` is as before.
    ///
    /// # Errors
    /// Where key or value are not what their schema says.
    pub fn write(&self, view: View<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let start = out.len();
        let written = if self.envelope { envelope(view, &self.json, out) } else { value(view, &self.json, out) };
        if let Err(reason) = written {
            out.truncate(start);
            return Err(reason);
        }
        // Raw line ends cannot be part of a JSON string, so between tokens a blank says the same.
        for byte in &mut out[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

fn value(view: View<'_>, options: &JsonOptions, out: &mut Vec<u8>) -> Result<(), String> {
    match view.value() {
        None => out.extend_from_slice(b"null"),
        Some(value) => write_json(value, options, out).map_err(|error| error.to_string())?,
    }
    Ok(())
}

fn envelope(view: View<'_>, options: &JsonOptions, out: &mut Vec<u8>) -> Result<(), String> {
    out.extend_from_slice(b"{\"topic\":");
    text(view.topic().as_bytes(), out);
    out.extend_from_slice(format!(",\"partition\":{},\"offset\":{}", view.partition(), view.offset()).as_bytes());
    if view.timestamp() >= 0 {
        out.extend_from_slice(format!(",\"timestamp\":{}", view.timestamp()).as_bytes());
    }
    if let Some(destination) = view.destination() {
        out.extend_from_slice(b",\"destination\":");
        text(destination.as_bytes(), out);
    }
    let headers = view.headers();
    if !headers.is_empty() {
        out.extend_from_slice(b",\"headers\":[");
        for (index, (name, value)) in headers.into_iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{\"name\":" } else { b",{\"name\":" });
            text(name, out);
            out.extend_from_slice(b",\"value\":");
            match value {
                None => out.extend_from_slice(b"null"),
                Some(value) => text(value, out),
            }
            out.push(b'}');
        }
        out.push(b']');
    }
    out.extend_from_slice(b",\"key\":");
    match view.key() {
        None => out.extend_from_slice(b"null"),
        Some(key) => write_json(key, options, out).map_err(|error| format!("key: {error}"))?,
    }
    out.extend_from_slice(b",\"value\":");
    value(view, options, out)?;
    out.push(b'}');
    Ok(())
}

/// Bytes that are text nearly always; what is not UTF-8 in them is replaced.
fn text(bytes: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    serde_json::to_writer(out, &*text).expect("text can always be written into memory");
}
