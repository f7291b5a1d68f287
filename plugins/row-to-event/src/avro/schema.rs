//! Schemas of rows: read into nodes that name each other by number, and written again as parts of an event's schema.
//!
//! Invariant: what is written has the same bytes and the same meaning as what was read; every attribute but `aliases` is kept, and
//! every name is written in full, so that a type means the same wherever it comes to stand.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json};

use crate::types::Unit;

/// Number of a node.
pub type NodeId = usize;

/// Deepest nesting that is read.
pub const DEPTH_MAX: usize = 128;

const NODES_MAX: usize = 100_000;

/// A node of a schema.
#[derive(Debug)]
pub struct Node {
    pub shape: Shape,
    pub logical: Logical,
    /// Full name, of named types.
    name: Option<String>,
    /// What else stands in the schema.
    attributes: Map<String, Json>,
}

/// What is on the wire.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub node: NodeId,
    attributes: Map<String, Json>,
}

/// What a shape means beyond itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    None,
    Decimal(i64),
    /// Its scale is in every value.
    BigDecimal,
    Date,
    Time(Unit),
    /// `true`: in UTC.
    Timestamp(Unit, bool),
    Uuid,
    Duration,
}

/// A schema.
#[derive(Debug)]
pub struct Schema {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

impl Schema {
    /// Reads an Avro schema.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(definition: &str) -> Result<Schema, String> {
        let json: Json = serde_json::from_str(definition).map_err(|error| error.to_string())?;
        let mut reader = Reader { nodes: Vec::new(), names: HashMap::new() };
        let root = reader.node(json, "", 0)?;
        Ok(Schema { nodes: reader.nodes, root })
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The branches of a union; of anything else, itself.
    pub fn branches(&self, id: NodeId) -> &[NodeId] {
        match &self.nodes[id].shape {
            Shape::Union(branches) => branches,
            _ => &[],
        }
    }

    /// The branch that is null.
    pub fn null_branch(&self, id: NodeId) -> Option<usize> {
        self.branches(id).iter().position(|branch| self.is_null(*branch))
    }

    /// Whether a node is null and nothing else.
    pub fn is_null(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].shape, Shape::Null)
    }
}

/// Writes nodes as parts of one new schema.
#[derive(Debug)]
pub struct Emitter<'a> {
    schema: &'a Schema,
    /// Where types without a namespace come to stand.
    namespace: &'a str,
    defined: HashSet<NodeId>,
    names: HashSet<String>,
}

impl<'a> Emitter<'a> {
    pub fn new(schema: &'a Schema, namespace: &'a str) -> Self {
        Emitter { schema, namespace, defined: HashSet::new(), names: HashSet::new() }
    }

    /// Takes a full name for a type of the event's own; where it is taken, the name with underscores behind it.
    pub fn claim(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        let of_row = |name: &String| self.schema.nodes.iter().filter_map(|node| node.name.as_ref()).any(|known| self.full(known) == *name);
        while self.names.contains(&name) || of_row(&name) {
            name.push('_');
        }
        self.names.insert(name.clone());
        name
    }

    fn full(&self, name: &str) -> String {
        if name.contains('.') || self.namespace.is_empty() { name.to_owned() } else { format!("{}.{name}", self.namespace) }
    }

    /// A field with its attributes, under another name.
    pub fn field(&mut self, field: &Field, name: &str) -> Json {
        let mut object = field.attributes.clone();
        object.insert("name".to_owned(), name.into());
        object.insert("type".to_owned(), self.node(field.node));
        Json::Object(object)
    }

    /// A node's schema; a named type in full where it stands for the first time, by its name from then on.
    pub fn node(&mut self, id: NodeId) -> Json {
        let node = &self.schema.nodes[id];
        let mut object = node.attributes.clone();
        if let Some(name) = &node.name {
            let full = self.full(name);
            if !self.defined.insert(id) {
                return full.into();
            }
            object.insert("name".to_owned(), full.into());
        }
        let of = match &node.shape {
            Shape::Union(branches) => return branches.iter().map(|branch| self.node(*branch)).collect(),
            Shape::Null => "null",
            Shape::Boolean => "boolean",
            Shape::Int => "int",
            Shape::Long => "long",
            Shape::Float => "float",
            Shape::Double => "double",
            Shape::Bytes => "bytes",
            Shape::String => "string",
            Shape::Fixed(_) => "fixed",
            Shape::Enum(_) => "enum",
            Shape::Array(item) => {
                object.insert("items".to_owned(), self.node(*item));
                "array"
            }
            Shape::Map(value) => {
                object.insert("values".to_owned(), self.node(*value));
                "map"
            }
            Shape::Record(fields) => {
                let fields = fields.iter().map(|field| self.field(field, &field.name)).collect();
                object.insert("fields".to_owned(), fields);
                "record"
            }
        };
        if object.is_empty() {
            return of.into();
        }
        object.insert("type".to_owned(), of.into());
        Json::Object(object)
    }

    /// The union of null and a node that is no union.
    pub fn nullable(&mut self, id: NodeId) -> Json {
        Json::Array(vec!["null".into(), self.node(id)])
    }
}

struct Reader {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Reader {
    fn push(&mut self, shape: Shape, logical: Logical, attributes: Map<String, Json>) -> Result<NodeId, String> {
        if self.nodes.len() >= NODES_MAX {
            return Err(format!("it has more than {NODES_MAX} parts"));
        }
        self.nodes.push(Node { shape, logical, name: None, attributes });
        Ok(self.nodes.len() - 1)
    }

    fn node(&mut self, json: Json, namespace: &str, depth: usize) -> Result<NodeId, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests deeper than {DEPTH_MAX}"));
        }
        match json {
            Json::String(name) => match primitive(&name) {
                Some(shape) => self.push(shape, Logical::None, Map::new()),
                None => self.reference(&name, namespace),
            },
            Json::Array(branches) => {
                let branches = branches.into_iter().map(|branch| self.node(branch, namespace, depth + 1)).collect::<Result<_, _>>()?;
                self.push(Shape::Union(branches), Logical::None, Map::new())
            }
            Json::Object(object) => self.object(object, namespace, depth),
            other => Err(format!("{other} is no schema")),
        }
    }

    fn object(&mut self, mut object: Map<String, Json>, namespace: &str, depth: usize) -> Result<NodeId, String> {
        let kind = object.remove("type").ok_or("a type is missing")?;
        // `{"type": {..}}`: the inner schema.
        let Json::String(kind) = kind else { return self.node(kind, namespace, depth + 1) };
        let of = Json::Object(object);
        let meaning = logical(&of, &kind);
        let Json::Object(mut object) = of else { return Err("a schema is missing".to_owned()) };
        match kind.as_str() {
            "record" | "error" => self.record(object, namespace, depth),
            "enum" => {
                let symbols = object.get("symbols").and_then(Json::as_array).ok_or("an enum has no symbols")?;
                let symbols = symbols.iter().filter_map(|symbol| symbol.as_str().map(str::to_owned)).collect();
                let name = take_name(&mut object, namespace)?;
                self.named(name, Shape::Enum(symbols), Logical::None, object)
            }
            "fixed" => {
                let size = object.get("size").and_then(Json::as_u64).ok_or("a fixed has no size")?;
                let name = take_name(&mut object, namespace)?;
                self.named(name, Shape::Fixed(size as usize), meaning, object)
            }
            "array" | "map" => {
                let of = if kind == "array" { "items" } else { "values" };
                let inner = object.remove(of).ok_or_else(|| format!("of an {kind} the {of} are missing"))?;
                let inner = self.node(inner, namespace, depth + 1)?;
                let shape = if kind == "array" { Shape::Array(inner) } else { Shape::Map(inner) };
                self.push(shape, Logical::None, object)
            }
            name => match primitive(name) {
                Some(shape) => self.push(shape, meaning, object),
                None => self.reference(name, namespace),
            },
        }
    }

    fn named(&mut self, name: String, shape: Shape, logical: Logical, attributes: Map<String, Json>) -> Result<NodeId, String> {
        let id = self.push(shape, logical, attributes)?;
        self.nodes[id].name = Some(name.clone());
        self.names.insert(name, id);
        Ok(id)
    }

    fn record(&mut self, mut object: Map<String, Json>, namespace: &str, depth: usize) -> Result<NodeId, String> {
        let name = take_name(&mut object, namespace)?;
        let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let Some(Json::Array(written)) = object.remove("fields") else { return Err(format!("the record {name} has no fields")) };
        // Known before its fields are read, since they may contain it.
        let id = self.named(name, Shape::Record(Vec::new()), Logical::None, object)?;
        let mut fields = Vec::with_capacity(written.len());
        for field in written {
            let Json::Object(mut attributes) = field else { return Err(format!("{field} is no field")) };
            let Some(Json::String(name)) = attributes.remove("name") else { return Err("a field has no name".to_owned()) };
            let of = attributes.remove("type").ok_or_else(|| format!("the field {name:?} has no type"))?;
            attributes.remove("aliases");
            let node = self.node(of, &inner, depth + 1)?;
            fields.push(Field { name, node, attributes });
        }
        self.nodes[id].shape = Shape::Record(fields);
        Ok(id)
    }

    fn reference(&self, name: &str, namespace: &str) -> Result<NodeId, String> {
        let found = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name));
        found.copied().ok_or_else(|| format!("the type {name:?} is not defined in it"))
    }
}

fn take_name(object: &mut Map<String, Json>, namespace: &str) -> Result<String, String> {
    let own = object.remove("namespace");
    object.remove("aliases");
    let Some(Json::String(name)) = object.remove("name") else { return Err("a named type has no name".to_owned()) };
    Ok(full_name(&name, own.as_ref().and_then(Json::as_str).unwrap_or(namespace)))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int,
        "long" => Shape::Long,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::String,
        _ => return None,
    })
}

/// The logical type of a schema object; one that does not fit its type is ignored, as the specification wants it.
fn logical(json: &Json, of: &str) -> Logical {
    let number = |name: &str| json[name].as_i64();
    match (json["logicalType"].as_str(), of) {
        (Some("decimal"), "bytes" | "fixed") => {
            let (precision, scale) = (number("precision").unwrap_or(0), number("scale").unwrap_or(0));
            if precision > 0 && (0..=precision).contains(&scale) {
                return Logical::Decimal(scale);
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

/// Kafka Connect's and Debezium's types, which say their meaning by name only. Debezium's plain timestamps have no zone.
fn connect(json: &Json, of: &str) -> Logical {
    match (json["connect.name"].as_str(), of) {
        (Some("org.apache.kafka.connect.data.Decimal"), "bytes" | "fixed") => {
            let parameter = json["connect.parameters"]["scale"].as_str().and_then(|text| text.parse::<i64>().ok());
            parameter.or_else(|| json["scale"].as_i64()).map_or(Logical::None, Logical::Decimal)
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
