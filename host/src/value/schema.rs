//! Schemas, parsed once and compiled to a compact program: nodes in one list that name each other by number.
//!
//! Invariant: a compiled Avro schema was accepted by `apache-avro`; what is compiled here besides are the logical types, Kafka
//! Connect's and Debezium's among them, which stand only in `connect.name`.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::project::Kind;

/// Number of a node in a schema's program.
pub type NodeId = u32;

/// A node of a compiled schema.
#[derive(Debug, Clone)]
pub struct Node {
    /// What is on the wire.
    pub shape: Shape,
    /// What it means.
    pub logical: Logical,
    /// The node's own schema as JSON text.
    pub definition: String,
    /// Fewest bytes that a value takes.
    pub bytes_min: usize,
    /// Whether the node contains itself.
    pub recursive: bool,
}

/// What is on the wire.
#[allow(missing_docs, reason = "Avro's own names")]
#[derive(Debug, Clone)]
pub enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name.
    pub name: String,
    /// Schema.
    pub node: NodeId,
}

/// Units of times and timestamps.
#[allow(missing_docs, reason = "Avro's own names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// In microseconds, rounded down; `None` beyond 64 bits.
    pub fn to_micros(self, value: i64) -> Option<i64> {
        match self {
            Unit::Millis => value.checked_mul(1000),
            Unit::Micros => Some(value),
            Unit::Nanos => Some(value.div_euclid(1000)),
        }
    }

    /// How many make a second.
    pub fn per_second(self) -> i64 {
        match self {
            Unit::Millis => 1_000,
            Unit::Micros => 1_000_000,
            Unit::Nanos => 1_000_000_000,
        }
    }
}

/// What a shape means beyond itself.
#[allow(missing_docs, reason = "Avro's own names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    None,
    Decimal {
        precision: usize,
        scale: i64,
    },
    /// Its scale is in every value.
    BigDecimal,
    Date,
    Time(Unit),
    /// `true`: in UTC.
    Timestamp(Unit, bool),
    Uuid,
    Duration,
}

/// A text that is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable schema: {0}")]
pub struct SchemaError(String);

impl SchemaError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        SchemaError(reason.into())
    }
}

/// A schema, compiled.
#[derive(Debug)]
pub struct Schema {
    definition: String,
    avro: Option<Vec<Node>>,
}

/// A field as a schema has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kind of column that holds it without loss.
    pub kind: Kind,
    /// Whether it may be null.
    pub nullable: bool,
    /// The field's own schema, Avro as JSON text.
    pub definition: String,
}

const NODES_MAX: usize = 100_000;

/// Deepest nesting of types, through names and references: `apache-avro` takes about 3 KiB of stack for each level.
const NESTING_MAX: usize = 256;

impl Schema {
    /// Compiles an Avro schema. `references`: texts of the schemas whose names it uses, each after those that it uses itself.
    ///
    /// # Errors
    /// Where the text is no Avro schema (Avro 1.12), or a name is not defined.
    pub fn avro(definition: &str, references: &[String]) -> Result<Schema, SchemaError> {
        let texts = references.iter().map(String::as_str).chain([definition]);
        let mut compiler = Compiler { nodes: Vec::new(), names: HashMap::new(), open: Vec::new(), depths: Vec::new() };
        let mut root = 0;
        for text in texts {
            let json: Json = serde_json::from_str(text).map_err(|error| SchemaError(error.to_string()))?;
            root = compiler.node(&json, "", 0)?;
        }
        // Only now: it follows references as deep as they go, and its stack has an end.
        check(definition, references)?;
        let mut nodes = compiler.nodes;
        // The program starts at node 0; a reference to the root's number follows it there.
        if root != 0 {
            let last = nodes[root as usize].clone();
            let first = std::mem::replace(&mut nodes[0], last);
            nodes.push(first);
            let moved = nodes.len() as NodeId - 1;
            for node in &mut nodes {
                node.rename(0, moved, root);
            }
        }
        Ok(Schema { definition: definition.to_owned(), avro: Some(nodes) })
    }

    /// Keeps a JSON Schema; JSON values do not need it to be read.
    pub fn json(definition: &str) -> Schema {
        Schema { definition: definition.to_owned(), avro: None }
    }

    /// The text it was made of.
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// Whether it is an Avro schema.
    pub fn is_avro(&self) -> bool {
        self.avro.is_some()
    }

    /// Node 0 is the whole value; empty for JSON Schemas.
    pub(super) fn nodes(&self) -> &[Node] {
        self.avro.as_deref().unwrap_or_default()
    }

    /// A field by its path, names from the outside in; unions are looked through, items of arrays are numbers.
    pub fn find(&self, path: &[String]) -> Option<Found> {
        let nodes = self.nodes();
        let mut at = if nodes.is_empty() { return None } else { 0 };
        let mut nullable = false;
        for name in path {
            (at, nullable) = step(nodes, at, name, nullable)?;
        }
        let (inner, may_be_null) = look_through(nodes, at);
        let kind = kind_of(nodes, inner);
        Some(Found { kind, nullable: nullable || may_be_null, definition: nodes[at as usize].definition.clone() })
    }
}

/// Whether `apache-avro` takes a schema. Of some texts, such as those with names that are none, it panics instead of refusing them.
fn check(definition: &str, references: &[String]) -> Result<(), SchemaError> {
    let parsed = std::panic::catch_unwind(|| match references {
        [] => apache_avro::Schema::parse_str(definition).map(drop),
        _ => apache_avro::Schema::parse_str_with_list(definition, references).map(drop),
    });
    match parsed {
        Ok(checked) => checked.map_err(|error| SchemaError(error.to_string())),
        Err(panic) => Err(SchemaError(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "its parser gives up".to_owned()))),
    }
}

fn step(nodes: &[Node], at: NodeId, name: &str, nullable: bool) -> Option<(NodeId, bool)> {
    match &nodes[at as usize].shape {
        Shape::Record(fields) => fields.iter().find(|field| field.name == name).map(|field| (field.node, nullable)),
        // An item or an entry may not be there.
        Shape::Array(item) => name.parse::<usize>().ok().map(|_| (*item, true)),
        Shape::Map(value) => Some((*value, true)),
        Shape::Union(branches) => branches.iter().find_map(|branch| step(nodes, *branch, name, true)),
        _ => None,
    }
}

/// The one branch beside null of a union, and whether null is one.
pub(super) fn look_through(nodes: &[Node], at: NodeId) -> (NodeId, bool) {
    let Shape::Union(branches) = &nodes[at as usize].shape else {
        return (at, matches!(nodes[at as usize].shape, Shape::Null));
    };
    let mut rest = branches.iter().filter(|branch| !matches!(nodes[**branch as usize].shape, Shape::Null));
    let null = branches.iter().any(|branch| matches!(nodes[*branch as usize].shape, Shape::Null));
    match (rest.next(), rest.next()) {
        (Some(only), None) => (*only, null),
        _ => (at, null),
    }
}

/// The kind of column that holds a node's values without loss.
pub(super) fn kind_of(nodes: &[Node], at: NodeId) -> Kind {
    let (at, _) = look_through(nodes, at);
    let node = &nodes[at as usize];
    match (&node.shape, node.logical) {
        (_, Logical::Decimal { .. } | Logical::BigDecimal) => Kind::Decimals,
        (_, Logical::Date) => Kind::Dates,
        (_, Logical::Time(_)) => Kind::Times,
        (_, Logical::Timestamp(..)) => Kind::Timestamps,
        (_, Logical::Uuid) => Kind::Texts,
        (Shape::Boolean, _) => Kind::Booleans,
        (Shape::Int | Shape::Long, _) => Kind::Integers,
        (Shape::Float | Shape::Double, _) => Kind::Floats,
        (Shape::String | Shape::Enum(_), _) => Kind::Texts,
        (Shape::Fixed(_), Logical::Duration) => Kind::Documents,
        (Shape::Bytes | Shape::Fixed(_), _) => Kind::Binaries,
        _ => Kind::Documents,
    }
}

impl Node {
    fn rename(&mut self, zero: NodeId, moved: NodeId, root: NodeId) {
        let rename = |id: &mut NodeId| {
            *id = if *id == zero {
                moved
            } else if *id == root {
                zero
            } else {
                *id
            };
        };
        match &mut self.shape {
            Shape::Array(item) | Shape::Map(item) => rename(item),
            Shape::Union(branches) => branches.iter_mut().for_each(rename),
            Shape::Record(fields) => fields.iter_mut().for_each(|field| rename(&mut field.node)),
            _ => (),
        }
    }
}

struct Compiler {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
    /// Named types that are being compiled.
    open: Vec<NodeId>,
    /// How deep types nest within each node; 1 while it is open.
    depths: Vec<usize>,
}

impl Compiler {
    fn push(&mut self, shape: Shape, logical: Logical, json: &Json, bytes_min: usize) -> Result<NodeId, SchemaError> {
        if self.nodes.len() >= NODES_MAX {
            return Err(SchemaError(format!("it has more than {NODES_MAX} parts")));
        }
        let depth = self.depth(&shape)?;
        self.depths.push(depth);
        self.nodes.push(Node { shape, logical, definition: json.to_string(), bytes_min, recursive: false });
        Ok(self.nodes.len() as NodeId - 1)
    }

    fn depth(&self, shape: &Shape) -> Result<usize, SchemaError> {
        let deepest = |inner: &mut dyn Iterator<Item = NodeId>| inner.map(|id| self.depths[id as usize]).max().unwrap_or(0);
        let depth = 1 + match shape {
            Shape::Array(inner) | Shape::Map(inner) => self.depths[*inner as usize],
            Shape::Union(branches) => deepest(&mut branches.iter().copied()),
            Shape::Record(fields) => deepest(&mut fields.iter().map(|field| field.node)),
            _ => 0,
        };
        if depth > NESTING_MAX { Err(SchemaError(format!("its types nest deeper than {NESTING_MAX}"))) } else { Ok(depth) }
    }

    fn node(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<NodeId, SchemaError> {
        if depth > super::DEPTH_MAX {
            return Err(SchemaError(format!("it nests deeper than {}", super::DEPTH_MAX)));
        }
        match json {
            Json::String(name) => match primitive(name) {
                Some((shape, bytes_min)) => self.push(shape, Logical::None, json, bytes_min),
                None => self.reference(name, namespace),
            },
            Json::Array(branches) => {
                let branches = branches.iter().map(|branch| self.node(branch, namespace, depth + 1)).collect::<Result<Vec<_>, _>>()?;
                self.push(Shape::Union(branches), Logical::None, json, 1)
            }
            Json::Object(object) => {
                let kind = object.get("type").ok_or_else(|| SchemaError("a type is missing".to_owned()))?;
                match kind.as_str() {
                    Some("record" | "error") => self.record(json, namespace, depth),
                    Some("enum") => {
                        let symbols = json["symbols"].as_array().map(Vec::as_slice).unwrap_or_default();
                        let symbols = symbols.iter().filter_map(|symbol| symbol.as_str().map(str::to_owned)).collect();
                        let id = self.push(Shape::Enum(symbols), Logical::None, json, 1)?;
                        self.define(json, namespace, id);
                        Ok(id)
                    }
                    Some("fixed") => {
                        let size = json["size"].as_u64().unwrap_or(0) as usize;
                        let id = self.push(Shape::Fixed(size), logical(json, "fixed"), json, size)?;
                        self.define(json, namespace, id);
                        Ok(id)
                    }
                    Some("array") => {
                        let item = self.node(&json["items"], namespace, depth + 1)?;
                        self.push(Shape::Array(item), Logical::None, json, 1)
                    }
                    Some("map") => {
                        let value = self.node(&json["values"], namespace, depth + 1)?;
                        self.push(Shape::Map(value), Logical::None, json, 1)
                    }
                    Some(name) => match primitive(name) {
                        Some((shape, bytes_min)) => self.push(shape, logical(json, name), json, bytes_min),
                        None => self.reference(name, namespace),
                    },
                    // `{"type": {..}}`: the inner schema, which the outer attributes may say the meaning of.
                    None => self.node(kind, namespace, depth + 1),
                }
            }
            _ => Err(SchemaError(format!("{json} is no schema"))),
        }
    }

    fn record(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<NodeId, SchemaError> {
        let id = self.push(Shape::Record(Vec::new()), Logical::None, json, 0)?;
        let full = self.define(json, namespace, id);
        let inner = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        self.open.push(id);
        let mut fields = Vec::new();
        let mut bytes_min = 0;
        for field in json["fields"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let name = field["name"].as_str().unwrap_or_default().to_owned();
            let node = self.node(&field["type"], &inner, depth + 1)?;
            bytes_min = usize::saturating_add(bytes_min, self.nodes[node as usize].bytes_min);
            fields.push(Field { name, node });
        }
        self.open.pop();
        let shape = Shape::Record(fields);
        self.depths[id as usize] = self.depth(&shape)?;
        let node = &mut self.nodes[id as usize];
        node.shape = shape;
        node.bytes_min = bytes_min;
        Ok(id)
    }

    fn define(&mut self, json: &Json, namespace: &str, id: NodeId) -> String {
        let name = json["name"].as_str().unwrap_or_default();
        let full = full_name(name, json["namespace"].as_str().unwrap_or(namespace));
        self.names.insert(full.clone(), id);
        full
    }

    fn reference(&mut self, name: &str, namespace: &str) -> Result<NodeId, SchemaError> {
        let found = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name)).copied();
        let id = found.ok_or_else(|| SchemaError(format!("the type {name:?} is not defined")))?;
        if self.open.contains(&id) {
            self.nodes[id as usize].recursive = true;
        }
        Ok(id)
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(name: &str) -> Option<(Shape, usize)> {
    Some(match name {
        "null" => (Shape::Null, 0),
        "boolean" => (Shape::Boolean, 1),
        "int" => (Shape::Int, 1),
        "long" => (Shape::Long, 1),
        "float" => (Shape::Float, 4),
        "double" => (Shape::Double, 8),
        "bytes" => (Shape::Bytes, 1),
        "string" => (Shape::String, 1),
        _ => return None,
    })
}

/// The logical type of a schema object; one that does not fit its type is ignored, as the specification wants it.
fn logical(json: &Json, of: &str) -> Logical {
    let number = |name: &str| json[name].as_i64();
    match (json["logicalType"].as_str(), of) {
        (Some("decimal"), "bytes" | "fixed") => {
            let precision = number("precision").unwrap_or(0);
            let scale = number("scale").unwrap_or(0);
            if precision > 0 && (0..=precision).contains(&scale) && is_scale(scale) {
                return Logical::Decimal { precision: precision as usize, scale };
            }
        }
        (Some("big-decimal"), "bytes") => return Logical::BigDecimal,
        (Some("uuid"), "string") => return Logical::Uuid,
        (Some("uuid"), "fixed") if number("size") == Some(16) => return Logical::Uuid,
        (Some("duration"), "fixed") if number("size") == Some(12) => return Logical::Duration,
        (Some("date"), "int") => return Logical::Date,
        (Some("time-millis"), "int") => return Logical::Time(Unit::Millis),
        (Some("time-micros"), "long") => return Logical::Time(Unit::Micros),
        (Some("timestamp-millis"), "long") => return Logical::Timestamp(Unit::Millis, true),
        (Some("timestamp-micros"), "long") => return Logical::Timestamp(Unit::Micros, true),
        (Some("timestamp-nanos"), "long") => return Logical::Timestamp(Unit::Nanos, true),
        (Some("local-timestamp-millis"), "long") => return Logical::Timestamp(Unit::Millis, false),
        (Some("local-timestamp-micros"), "long") => return Logical::Timestamp(Unit::Micros, false),
        (Some("local-timestamp-nanos"), "long") => return Logical::Timestamp(Unit::Nanos, false),
        _ => (),
    }
    connect(json, of)
}

fn is_scale(scale: i64) -> bool {
    scale.unsigned_abs() <= super::SCALE_MAX
}

/// Kafka Connect's and Debezium's types, which say their meaning by name only. Debezium's plain timestamps have no zone.
fn connect(json: &Json, of: &str) -> Logical {
    match (json["connect.name"].as_str(), of) {
        (Some("org.apache.kafka.connect.data.Decimal"), "bytes" | "fixed") => {
            let parameter = |name: &str| json["connect.parameters"][name].as_str().and_then(|text| text.parse::<i64>().ok());
            let scale = parameter("scale").or_else(|| json["scale"].as_i64());
            let precision = parameter("connect.decimal.precision").or_else(|| json["precision"].as_i64()).unwrap_or(38);
            match scale {
                Some(scale) if is_scale(scale) => Logical::Decimal { precision: precision.max(1) as usize, scale },
                _ => Logical::None,
            }
        }
        (Some("org.apache.kafka.connect.data.Date" | "io.debezium.time.Date"), "int") => Logical::Date,
        (Some("org.apache.kafka.connect.data.Time" | "io.debezium.time.Time"), "int") => Logical::Time(Unit::Millis),
        (Some("io.debezium.time.MicroTime"), "long") => Logical::Time(Unit::Micros),
        (Some("io.debezium.time.NanoTime"), "long") => Logical::Time(Unit::Nanos),
        (Some("org.apache.kafka.connect.data.Timestamp"), "long") => Logical::Timestamp(Unit::Millis, true),
        (Some("io.debezium.time.Timestamp"), "long") => Logical::Timestamp(Unit::Millis, false),
        (Some("io.debezium.time.MicroTimestamp"), "long") => Logical::Timestamp(Unit::Micros, false),
        (Some("io.debezium.time.NanoTimestamp"), "long") => Logical::Timestamp(Unit::Nanos, false),
        (Some("io.debezium.data.Uuid"), "string") => Logical::Uuid,
        _ => Logical::None,
    }
}
