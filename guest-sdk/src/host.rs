//! What the host offers: log, metrics, schemas, clock. In native tests each has a stand-in that [`testing`](crate::testing) can look into.

use crate::bindings::anabranch::plugin::types::{Part, WantedField};

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The finest.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// For whoever runs the route.
    Info,
    /// Something is odd.
    Warn,
    /// Something is wrong.
    Error,
}

/// A schema by its handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaInfo {
    /// Avro schema (or JSON Schema) as text.
    pub definition: String,
    /// The registry's id; `None` for schemas that a plugin registered.
    pub id: Option<u32>,
    /// Subject in the registry, with [`Plan::versions`](crate::Plan::versions).
    pub subject: Option<String>,
    /// Version in the registry, with [`Plan::versions`](crate::Plan::versions).
    pub version: Option<u32>,
}

/// A field as a schema has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaField {
    /// Whether it may be null.
    pub nullable: bool,
    /// The field's own schema, Avro as JSON text.
    pub definition: String,
}

/// A count that only goes up.
#[derive(Debug, Clone, Copy)]
pub struct Counter(u32);

/// A value that goes up and down.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(u32);

/// A distribution of values.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(u32);

impl Counter {
    /// Registers it; call it while planning.
    pub fn new(name: &str, help: &str) -> Self {
        Counter(imports::register_metric(0, name, help))
    }

    /// Adds to it.
    pub fn add(self, value: f64) {
        imports::update_metric(self.0, value);
    }
}

impl Gauge {
    /// Registers it; call it while planning.
    pub fn new(name: &str, help: &str) -> Self {
        Gauge(imports::register_metric(1, name, help))
    }

    /// Sets it.
    pub fn set(self, value: f64) {
        imports::update_metric(self.0, value);
    }
}

impl Histogram {
    /// Registers it; call it while planning.
    pub fn new(name: &str, help: &str) -> Self {
        Histogram(imports::register_metric(2, name, help))
    }

    /// Observes a value.
    pub fn observe(self, value: f64) {
        imports::update_metric(self.0, value);
    }
}

/// Whether lines of this level are kept: saves the formatting of those that are not.
pub fn enabled(level: Level) -> bool {
    imports::enabled(level)
}

/// Writes a line into the host's log.
pub fn log(level: Level, message: &str) {
    imports::log(level, message);
}

/// The schema of a handle; `None` for 0. A handle means the same schema as long as the plugin lives: remember what follows from it.
pub fn schema(handle: u32) -> Option<SchemaInfo> {
    imports::describe(handle)
}

/// A field as a schema has it; `None`: it has no such field.
pub fn find_field(handle: u32, part: Part, path: &[String]) -> Option<SchemaField> {
    imports::find(handle, WantedField { part, path: path.to_vec(), kind: None, lenient: false })
}

/// A handle for values that the plugin sets: Avro schema as JSON text. The same text gives the same handle.
///
/// # Errors
/// Where the text is no schema.
pub fn register_schema(definition: &str) -> Result<u32, String> {
    imports::register_schema(definition)
}

/// Milliseconds since 1970-01-01T00:00Z by the host's clock.
pub fn now_ms() -> u64 {
    imports::now_ms()
}

#[cfg(target_arch = "wasm32")]
mod imports {
    use super::{Level, SchemaField, SchemaInfo, WantedField};
    use crate::bindings::anabranch::plugin::{clock, log as host_log, metrics, schemas};

    fn level_of(level: Level) -> host_log::Level {
        match level {
            Level::Trace => host_log::Level::Trace,
            Level::Debug => host_log::Level::Debug,
            Level::Info => host_log::Level::Info,
            Level::Warn => host_log::Level::Warn,
            Level::Error => host_log::Level::Error,
        }
    }

    pub fn enabled(level: Level) -> bool {
        host_log::enabled(level_of(level))
    }

    pub fn log(level: Level, message: &str) {
        host_log::log(level_of(level), message);
    }

    pub fn register_metric(kind: u8, name: &str, help: &str) -> u32 {
        let kind = match kind {
            0 => metrics::Kind::Counter,
            1 => metrics::Kind::Gauge,
            _ => metrics::Kind::Histogram,
        };
        metrics::register(kind, name, help)
    }

    pub fn update_metric(metric: u32, value: f64) {
        metrics::update(&[(metric, value)]);
    }

    pub fn describe(handle: u32) -> Option<SchemaInfo> {
        let found = schemas::describe(handle)?;
        Some(SchemaInfo { definition: found.definition, id: found.id, subject: found.subject, version: found.version })
    }

    pub fn find(handle: u32, wanted: WantedField) -> Option<SchemaField> {
        let found = schemas::find(handle, &wanted)?;
        Some(SchemaField { nullable: found.nullable, definition: found.definition })
    }

    pub fn register_schema(definition: &str) -> Result<u32, String> {
        schemas::register(definition)
    }

    pub fn now_ms() -> u64 {
        clock::now_ms()
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod imports {
    use super::{Level, SchemaField, SchemaInfo, WantedField};
    use crate::testing::HOST;

    pub fn enabled(_: Level) -> bool {
        true
    }

    pub fn log(level: Level, message: &str) {
        HOST.with_borrow_mut(|host| host.log.push((level, message.to_owned())));
    }

    pub fn register_metric(_: u8, name: &str, _: &str) -> u32 {
        HOST.with_borrow_mut(|host| match host.metrics.iter().position(|(known, _)| known == name) {
            Some(known) => known as u32,
            None => {
                host.metrics.push((name.to_owned(), Vec::new()));
                host.metrics.len() as u32 - 1
            }
        })
    }

    pub fn update_metric(metric: u32, value: f64) {
        HOST.with_borrow_mut(|host| {
            if let Some((_, values)) = host.metrics.get_mut(metric as usize) {
                values.push(value);
            }
        });
    }

    pub fn describe(handle: u32) -> Option<SchemaInfo> {
        HOST.with_borrow(|host| host.schemas.get((handle as usize).checked_sub(1)?).cloned())
    }

    pub fn find(handle: u32, wanted: WantedField) -> Option<SchemaField> {
        let schema = describe(handle)?;
        let mut at: serde_json::Value = serde_json::from_str(&schema.definition).ok()?;
        let mut nullable = false;
        for name in &wanted.path {
            at = look_through(at, &mut nullable);
            let fields = at["fields"].as_array()?;
            at = fields.iter().find(|field| field["name"] == **name)?["type"].clone();
        }
        let _ = look_through(at.clone(), &mut nullable);
        Some(SchemaField { nullable, definition: at.to_string() })
    }

    fn look_through(schema: serde_json::Value, nullable: &mut bool) -> serde_json::Value {
        let serde_json::Value::Array(branches) = &schema else { return schema };
        *nullable |= branches.iter().any(|branch| branch == "null");
        branches.iter().find(|branch| *branch != "null").cloned().unwrap_or(schema)
    }

    pub fn register_schema(definition: &str) -> Result<u32, String> {
        serde_json::from_str::<serde_json::Value>(definition).map_err(|error| error.to_string())?;
        HOST.with_borrow_mut(|host| {
            let known = host.schemas.iter().position(|known| known.definition == definition);
            let index = known.unwrap_or_else(|| {
                host.schemas.push(SchemaInfo { definition: definition.to_owned(), id: None, subject: None, version: None });
                host.schemas.len() - 1
            });
            Ok(index as u32 + 1)
        })
    }

    pub fn now_ms() -> u64 {
        HOST.with_borrow(|host| host.now_ms)
    }
}
