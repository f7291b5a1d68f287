//! Secrets: read from the environment or from a file when the configuration is read, and never written anywhere.
//!
//! Invariant (I12): neither `Debug` nor `Serialize` shows the text; only [`Secret::expose`] does.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{FilePath, Remedy};

const REMEDY: &str = "write { env = \"NAME\" } or { file = \"/run/secrets/name\" }, so that the secret itself is not in this file";

/// Marks a secret for the configuration's own deserializer, which hides what is written instead of one.
pub(super) const SECRET_MARK: &str = "Secret";

/// A secret, written as `{ env = "NAME" }` or `{ file = "PATH" }`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    from: From,
    text: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Env(String),
    File(FilePath),
    /// Made by the program itself, as tests and the demo do.
    Given,
}

impl Secret {
    /// A secret that does not come from a configuration.
    pub fn given(text: &str) -> Self {
        Secret { from: From::Given, text: text.into() }
    }

    /// The secret's text: for the one place that hands it to a server.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            From::Env(name) => write!(f, "Secret(env {name})"),
            From::File(path) => write!(f, "Secret(file {})", path.display()),
            From::Given => f.write_str("Secret(..)"),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match &self.from {
            From::Env(name) => map.serialize_entry("env", name)?,
            From::File(path) => map.serialize_entry("file", path)?,
            From::Given => map.serialize_entry("given", "..")?,
        }
        map.end()
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "secret",
            "type": "object",
            "properties": { "env": { "type": "string" }, "file": { "type": "string" } },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false
        })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SECRET_MARK, &["env", "file"], SecretVisitor)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Place {
    Env,
    File,
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret\n{REMEDY}")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Secret, E> {
        Err(E::custom(Remedy::new("a secret is written as plain text", REMEDY)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let incomplete = || A::Error::custom(Remedy::new("a secret comes from exactly one place", REMEDY));
        let secret = match map.next_key()? {
            Some(Place::Env) => map.next_value::<FromEnv>()?.0,
            Some(Place::File) => map.next_value::<FromFile>()?.0,
            None => return Err(incomplete()),
        };
        if map.next_key::<Place>()?.is_some() { Err(incomplete()) } else { Ok(secret) }
    }
}

/// Read within the value's own deserialization, so that an error points at the name or the path.
struct FromEnv(Secret);

impl<'de> Deserialize<'de> for FromEnv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let text = std::env::var(&name).map_err(|error| {
            let wrong = match error {
                std::env::VarError::NotPresent => format!("the environment variable \"{name}\" is not set"),
                std::env::VarError::NotUnicode(_) => format!("the environment variable \"{name}\" is not UTF-8"),
            };
            D::Error::custom(Remedy::new(wrong, "set it for this process, or read the secret from a file: { file = \"PATH\" }"))
        })?;
        Ok(FromEnv(Secret { from: From::Env(name), text: text.into() }))
    }
}

/// A longer file is no secret, but a mistake.
const SECRET_BYTES_MAX: u64 = 64 << 10;

struct FromFile(Secret);

impl<'de> Deserialize<'de> for FromFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = FilePath::deserialize(deserializer)?;
        let shown = path.display();
        let unreadable = |reason: &dyn fmt::Display| {
            D::Error::custom(Remedy::new(format!("the secret's file {shown} cannot be read: {reason}"), "let this process read it"))
        };
        let length = std::fs::metadata(&path).map_err(|error| unreadable(&error))?.len();
        if length > SECRET_BYTES_MAX {
            return Err(unreadable(&format!("it has {length} bytes, a secret has at most {SECRET_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
        // Editors and `echo` end a file with a line break that belongs to no secret.
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text)).into();
        Ok(FromFile(Secret { from: From::File(path), text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Holder {
        password: Secret,
    }

    #[test]
    fn a_secret_is_read_from_its_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "hunter2\n").unwrap();
        let holder: Holder = toml::from_str(&format!("password = {{ file = {path:?} }}")).unwrap();
        assert_eq!(holder.password.expose(), "hunter2");
        let shown = format!("{holder:?} {}", serde_json::to_string(&holder).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn plain_text_is_refused_without_repeating_it() {
        let error = toml::from_str::<Holder>("password = \"hunter2\"").unwrap_err();
        assert!(error.message().contains("env = "), "{error}");
        assert!(!error.message().contains("hunter2"), "{error}");
    }
}
