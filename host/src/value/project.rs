//! Projection: the fields that a plugin asked for, out of every record into columns.
//!
//! Invariant: every column has one entry per row; a record that cannot be read leaves no trace in any. Reading stops behind the last
//! wanted field: what follows it is checked when somebody reads it.

use super::avro::{self, Cursor};
use super::schema::{Node, NodeId, Schema, Shape};
use super::walk::{Events, Scalar};
use super::{DEPTH_MAX, DecodeError, Format, Value, cbor, json, text};

/// The kinds of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 64-bit integers.
    Integers,
    /// 64-bit floats.
    Floats,
    /// Booleans.
    Booleans,
    /// UTF-8.
    Texts,
    /// Byte strings.
    Binaries,
    /// Days since 1970-01-01.
    Dates,
    /// Microseconds since midnight.
    Times,
    /// Microseconds since 1970-01-01T00:00Z, rounded down.
    Timestamps,
    /// Exact, as decimal text.
    Decimals,
    /// One CBOR item per record.
    Documents,
}

/// A field that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Names from the outside in; empty: the whole.
    pub path: Vec<String>,
    /// The kind of its column; `None`: what the schema says, documents without a schema.
    pub kind: Option<Kind>,
    /// A value that does not fit is missing instead of an error.
    pub lenient: bool,
}

/// Positions of null or missing entries, ascending; `None`: there is none.
pub type Positions = Option<Vec<u32>>;

/// Byte strings of all rows: entry `i` is `data[ends[i - 1]..ends[i]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BytesColumn {
    /// Where each entry ends.
    pub ends: Vec<u32>,
    /// All entries.
    pub data: Vec<u8>,
    /// Null entries.
    pub nulls: Positions,
    /// Entries that are not there.
    pub missing: Positions,
}

/// Numbers of all rows; 0 where null or missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NumberColumn<T> {
    /// The numbers.
    pub values: Vec<T>,
    /// Null entries.
    pub nulls: Positions,
    /// Entries that are not there.
    pub missing: Positions,
}

/// One field of every row.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// See [`Kind::Integers`].
    Integers(NumberColumn<i64>),
    /// See [`Kind::Floats`].
    Floats(NumberColumn<f64>),
    /// 0 false, 1 true, 2 null, 3 missing.
    Booleans(Vec<u8>),
    /// See [`Kind::Texts`].
    Texts(BytesColumn),
    /// See [`Kind::Binaries`].
    Binaries(BytesColumn),
    /// See [`Kind::Dates`].
    Dates(NumberColumn<i64>),
    /// See [`Kind::Times`].
    Times(NumberColumn<i64>),
    /// See [`Kind::Timestamps`].
    Timestamps(NumberColumn<i64>),
    /// See [`Kind::Decimals`].
    Decimals(BytesColumn),
    /// See [`Kind::Documents`].
    Documents(BytesColumn),
}

/// The columns that a projection fills.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// One per wanted field.
    pub columns: Vec<Column>,
    rows: usize,
}

/// A projection that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field:?}: {reason}")]
pub struct ProjectError {
    /// Path, joined by dots.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// The wanted fields of one part, for one schema.
#[derive(Debug, Clone)]
pub struct Projection {
    format: Format,
    kinds: Vec<Kind>,
    wanted: Vec<Wanted>,
    root: Plan,
}

/// What to do at a node of the schema.
#[derive(Debug, Clone, Default)]
struct Plan {
    /// Columns that take the node's value.
    leaves: Vec<usize>,
    /// What to do at its fields, items or entries: by position for records, by name or index otherwise.
    inner: Vec<(Key, Plan)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Key {
    Field(usize),
    Name(String),
    Branch(usize),
}

impl Projection {
    /// Compiles the wanted fields. With an Avro schema, a field that the schema does not have is missing in every row.
    ///
    /// # Errors
    /// Avro without a schema; a field in too many places of it.
    pub fn new(format: Format, schema: Option<&Schema>, wanted: &[Wanted]) -> Result<Projection, ProjectError> {
        let found = |wanted: &Wanted| schema.filter(|_| format == Format::Avro).and_then(|schema| schema.find(&wanted.path));
        let by_default = if format == Format::Raw { Kind::Texts } else { Kind::Documents };
        let kinds =
            wanted.iter().map(|wanted| wanted.kind.or_else(|| found(wanted).map(|found| found.kind)).unwrap_or(by_default)).collect();
        let mut root = Plan::default();
        if format == Format::Avro {
            let schema = schema.filter(|schema| schema.is_avro()).ok_or_else(|| ProjectError {
                field: wanted.first().map(|wanted| wanted.path.join(".")).unwrap_or_default(),
                reason: "Avro cannot be read without a schema".to_owned(),
            })?;
            let mut left = STEPS_MAX;
            for (index, wanted) in wanted.iter().enumerate() {
                add(schema.nodes(), 0, &wanted.path, index, &mut root, 0, &mut left);
                if left == 0 {
                    let reason = format!("with the fields before it, it leads through more than {STEPS_MAX} types of the schema");
                    return Err(ProjectError { field: wanted.path.join("."), reason });
                }
            }
            sort(&mut root);
        }
        Ok(Projection { format, kinds, wanted: wanted.to_vec(), root })
    }

    /// The kind of each column.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Empty columns for this projection.
    pub fn columns(&self) -> Columns {
        Columns::of(&self.kinds)
    }

    /// Reads one value and appends a row. `schema`: the one that the projection was compiled for.
    ///
    /// # Errors
    /// Where the bytes are not what format and schema say, or a value does not fit its column; no column has changed then.
    pub fn read(&self, schema: Option<&Schema>, bytes: &[u8], columns: &mut Columns) -> Result<(), DecodeError> {
        let read = match self.format {
            Format::Avro => {
                let nodes = schema.map(Schema::nodes).unwrap_or_default();
                if nodes.is_empty() {
                    return Err(DecodeError::new(0, "Avro without a schema"));
                }
                let mut row = Row { columns: &mut *columns, wanted: &self.wanted };
                row.node(nodes, 0, &mut Cursor::new(bytes), &self.root, 0)
            }
            _ => self.read_each(schema, bytes, columns),
        };
        match read {
            Ok(()) => {
                columns.end_row();
                Ok(())
            }
            Err(error) => {
                columns.undo_row();
                Err(error)
            }
        }
    }

    /// Without a compiled walk: each field by itself.
    fn read_each(&self, schema: Option<&Schema>, bytes: &[u8], columns: &mut Columns) -> Result<(), DecodeError> {
        let is_deep = self.format == Format::Json && json::is_deep(bytes)?;
        for (index, wanted) in self.wanted.iter().enumerate() {
            let value = Value { format: self.format, schema, bytes };
            let mut row = Row { columns: &mut *columns, wanted: &self.wanted };
            let put = match self.format {
                _ if wanted.path.is_empty() => row.whole(index, value),
                Format::Json => match json::field(bytes, &wanted.path, is_deep)? {
                    None => Ok(()),
                    Some(found) => row.whole(index, Value { bytes: found, ..value }),
                },
                Format::Cbor => {
                    let mut finder = Finder::new(&wanted.path);
                    super::walk(value, &mut finder)?;
                    match finder.found {
                        None => Ok(()),
                        Some(found) => row.whole(index, Value { bytes: &found, ..value }),
                    }
                }
                Format::Raw | Format::Avro => Ok(()),
            };
            put.map_err(|error| error.within(&wanted.path.join(".")))?;
        }
        Ok(())
    }
}

/// Most steps of compiling a projection: where the branches of a union lead to the same union, each name of a path doubles them.
const STEPS_MAX: usize = 1 << 18;

/// Adds column `index` for `path` below the node `at`, in at most `left` steps.
fn add(nodes: &[Node], at: NodeId, path: &[String], index: usize, plan: &mut Plan, depth: usize, left: &mut usize) {
    if depth > DEPTH_MAX || *left == 0 {
        return;
    }
    *left -= 1;
    let node = &nodes[at as usize];
    if let Shape::Union(branches) = &node.shape {
        // A leaf at a union takes whatever branch there is.
        if path.is_empty() {
            plan.leaves.push(index);
            return;
        }
        for (branch, inner) in branches.iter().enumerate() {
            let mut below = Plan::default();
            add(nodes, *inner, path, index, &mut below, depth + 1, left);
            if !below.is_empty() {
                plan.child(Key::Branch(branch)).merge(below);
            }
        }
        return;
    }
    let Some((name, rest)) = path.split_first() else {
        plan.leaves.push(index);
        return;
    };
    match &node.shape {
        Shape::Record(fields) => {
            if let Some(position) = fields.iter().position(|field| field.name == *name) {
                add(nodes, fields[position].node, rest, index, plan.child(Key::Field(position)), depth + 1, left);
            }
        }
        Shape::Array(inner) | Shape::Map(inner) => add(nodes, *inner, rest, index, plan.child(Key::Name(name.clone())), depth + 1, left),
        _ => (),
    }
}

fn sort(plan: &mut Plan) {
    plan.inner.sort_by_key(|(key, _)| match key {
        Key::Field(position) | Key::Branch(position) => *position,
        Key::Name(_) => 0,
    });
    plan.inner.iter_mut().for_each(|(_, inner)| sort(inner));
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.inner.iter().all(|(_, inner)| inner.is_empty())
    }

    fn child(&mut self, key: Key) -> &mut Plan {
        let position = match self.inner.iter().position(|(known, _)| *known == key) {
            Some(position) => position,
            None => {
                self.inner.push((key, Plan::default()));
                self.inner.len() - 1
            }
        };
        &mut self.inner[position].1
    }

    fn merge(&mut self, other: Plan) {
        self.leaves.extend(other.leaves);
        for (key, inner) in other.inner {
            self.child(key).merge(inner);
        }
    }

    fn named(&self, name: &str) -> Option<&Plan> {
        self.inner.iter().find_map(|(key, inner)| (*key == Key::Name(name.to_owned())).then_some(inner))
    }
}

/// Fills one row.
struct Row<'a> {
    columns: &'a mut Columns,
    wanted: &'a [Wanted],
}

impl Row<'_> {
    fn node(&mut self, nodes: &[Node], at: NodeId, cursor: &mut Cursor<'_>, plan: &Plan, depth: usize) -> Result<(), DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::new(cursor.at(), format!("it nests deeper than {DEPTH_MAX}")));
        }
        for (more, column) in plan.leaves.iter().enumerate() {
            if more + 1 < plan.leaves.len() || !plan.inner.is_empty() {
                let mut again = cursor.clone();
                self.leaf(nodes, at, &mut again, *column, depth)?;
            } else {
                return self.leaf(nodes, at, cursor, *column, depth);
            }
        }
        match &nodes[at as usize].shape {
            Shape::Record(fields) => {
                if nodes[at as usize].bytes_min == 0 {
                    cursor.nothing()?;
                }
                let last = plan.inner.len();
                let mut next = 0;
                for (position, field) in fields.iter().enumerate() {
                    match plan.inner.get(next) {
                        // At the top nothing behind the last wanted field is read; deeper down the cursor has to get past.
                        None if depth == 0 => break,
                        Some((Key::Field(wanted), inner)) if *wanted == position => {
                            next += 1;
                            self.node(nodes, field.node, cursor, inner, depth + 1).map_err(|error| error.within(&field.name))?;
                        }
                        _ => avro::skip(nodes, field.node, cursor, depth + 1).map_err(|error| error.within(&field.name))?,
                    }
                }
                debug_assert!(next <= last);
                Ok(())
            }
            Shape::Union(branches) => {
                let branch = cursor.index(branches.len(), "branch")?;
                match plan.inner.iter().find(|(key, _)| *key == Key::Branch(branch)) {
                    Some((_, inner)) => self.node(nodes, branches[branch], cursor, inner, depth + 1),
                    None => avro::skip(nodes, branches[branch], cursor, depth + 1),
                }
            }
            Shape::Array(item) => {
                let least = nodes[*item as usize].bytes_min;
                let mut seen = 0;
                loop {
                    let block = cursor.block(least, seen)?;
                    if block.count == 0 {
                        return Ok(());
                    }
                    for _ in 0..block.count {
                        match plan.named(&seen.to_string()) {
                            Some(inner) => self.node(nodes, *item, cursor, inner, depth + 1)?,
                            None => avro::skip(nodes, *item, cursor, depth + 1)?,
                        }
                        seen += 1;
                    }
                    cursor.end_block(&block)?;
                }
            }
            Shape::Map(value) => {
                let least = nodes[*value as usize].bytes_min.saturating_add(1);
                loop {
                    let block = cursor.block(least, 0)?;
                    if block.count == 0 {
                        return Ok(());
                    }
                    for _ in 0..block.count {
                        let name = cursor.string()?;
                        match plan.named(name) {
                            Some(inner) => self.node(nodes, *value, cursor, inner, depth + 1)?,
                            None => avro::skip(nodes, *value, cursor, depth + 1)?,
                        }
                    }
                    cursor.end_block(&block)?;
                }
            }
            _ => avro::skip(nodes, at, cursor, depth),
        }
    }

    fn leaf(&mut self, nodes: &[Node], at: NodeId, cursor: &mut Cursor<'_>, column: usize, depth: usize) -> Result<(), DecodeError> {
        if let Shape::Union(branches) = &nodes[at as usize].shape
            && !self.columns.columns[column].is_documents()
        {
            let branch = cursor.index(branches.len(), "branch")?;
            return self.leaf(nodes, branches[branch], cursor, column, depth + 1);
        }
        let container = matches!(nodes[at as usize].shape, Shape::Record(_) | Shape::Array(_) | Shape::Map(_) | Shape::Union(_));
        if self.columns.columns[column].is_documents() || container {
            let mut document = Vec::new();
            avro::node(nodes, at, cursor, &mut cbor::Writer::new(&mut document), depth)?;
            return self.document(column, &document, cursor.at());
        }
        let start = cursor.at();
        let scalar = avro::scalar(&nodes[at as usize], cursor)?;
        self.put(column, scalar, start)
    }

    /// A whole value of a format that is not compiled for.
    fn whole(&mut self, column: usize, value: Value<'_>) -> Result<(), DecodeError> {
        let kind = self.columns.columns[column].kind();
        match (value.format, kind) {
            (Format::Raw, Kind::Binaries) => return self.put(column, Scalar::Bytes(value.bytes), 0),
            (_, Kind::Documents) => {
                let mut document = Vec::new();
                super::write_cbor(value, &mut document)?;
                return self.document(column, &document, 0);
            }
            _ => (),
        }
        if value.format == Format::Json
            && kind == Kind::Decimals
            && let Some(digits) = json::decimal(value.bytes)
        {
            // In JSON a number has its digits as text: nothing gets lost.
            return self.put(column, Scalar::BigInt(digits), 0);
        }
        let mut only = Only { columns: self, column, result: Ok(()), containers: 0 };
        super::walk(value, &mut only)?;
        only.result
    }

    fn document(&mut self, column: usize, document: &[u8], at: usize) -> Result<(), DecodeError> {
        if self.is_filled(column) {
            return Ok(());
        }
        match &mut self.columns.columns[column] {
            Column::Documents(bytes) => {
                // A null document is a null, so that plugins need not look into it.
                if document == [0xf6] {
                    bytes.push_null()
                } else {
                    bytes.push(document)
                }
                Ok(())
            }
            _ => self.misfit(column, "a value that is no single one", at),
        }
    }

    fn misfit(&mut self, column: usize, what: &str, at: usize) -> Result<(), DecodeError> {
        if self.wanted[column].lenient {
            return Ok(());
        }
        let kind = self.columns.columns[column].kind();
        Err(DecodeError::new(at, format!("{what} does not fit a column of {}", kind.name())))
    }

    /// Whether the row has its entry already: of a map's repeated names the first counts.
    fn is_filled(&self, column: usize) -> bool {
        self.columns.columns[column].len() > self.columns.rows
    }

    fn put(&mut self, column: usize, scalar: Scalar<'_>, at: usize) -> Result<(), DecodeError> {
        if self.is_filled(column) {
            return Ok(());
        }
        if self.columns.columns[column].put(scalar) {
            return Ok(());
        }
        let shown = text::scalar(scalar).unwrap_or_else(|| "a byte string".to_owned());
        self.misfit(column, &shown.chars().take(40).collect::<String>(), at)
    }
}

/// Takes the one scalar of a value that is no container.
struct Only<'r, 'a> {
    columns: &'r mut Row<'a>,
    column: usize,
    result: Result<(), DecodeError>,
    containers: usize,
}

impl Events for Only<'_, '_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        if self.containers == 0 && self.result.is_ok() {
            self.result = self.columns.put(self.column, scalar, 0);
        }
    }

    fn begin_array(&mut self) {
        if self.containers == 0 && self.result.is_ok() {
            self.result = self.columns.misfit(self.column, "an array", 0);
        }
        self.containers += 1;
    }

    fn end_array(&mut self) {
        // It stays marked: a value is one item, so nothing comes behind its container.
    }

    fn begin_map(&mut self) {
        if self.containers == 0 && self.result.is_ok() {
            self.result = self.columns.misfit(self.column, "an object", 0);
        }
        self.containers += 1;
    }

    fn name(&mut self, _: &str) {}

    fn end_map(&mut self) {}
}

/// Finds one field of a document and keeps it as CBOR.
struct Finder<'p> {
    path: &'p [String],
    /// How many names of the path lead to where the walk is; `None` for containers off the path.
    stack: Vec<(Option<usize>, usize)>,
    /// Whether the next value is at the path's prefix of this length.
    next: Option<usize>,
    keep: Option<(Vec<u8>, usize)>,
    found: Option<Vec<u8>>,
}

impl<'p> Finder<'p> {
    fn new(path: &'p [String]) -> Self {
        Finder { path, stack: Vec::new(), next: Some(0), keep: None, found: None }
    }

    fn keep(&mut self, open: isize, write: impl FnOnce(&mut cbor::Writer<'_>)) {
        if self.keep.is_none() && self.next == Some(self.path.len()) && self.found.is_none() {
            self.keep = Some((Vec::new(), 0));
        }
        let Some((bytes, depth)) = &mut self.keep else { return };
        write(&mut cbor::Writer::new(bytes));
        *depth = depth.saturating_add_signed(open);
        if *depth == 0 {
            self.found = self.keep.take().map(|(bytes, _)| bytes);
        }
    }
}

impl Events for Finder<'_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        self.keep(0, |out| out.scalar(scalar));
        self.next = None;
    }

    fn begin_array(&mut self) {
        self.keep(1, |out| out.begin_array());
        self.stack.push((self.next.take(), 0));
    }

    fn item(&mut self) {
        if let Some((Some(at), seen)) = self.stack.last_mut() {
            self.next = (self.path.get(*at).is_some_and(|name| *name == seen.to_string())).then_some(*at + 1);
            *seen += 1;
        }
    }

    fn end_array(&mut self) {
        self.stack.pop();
        self.next = None;
        if self.keep.is_some() {
            self.keep(-1, |out| out.end_array());
        }
    }

    fn begin_map(&mut self) {
        self.keep(1, |out| out.begin_map());
        self.stack.push((self.next.take(), 0));
    }

    fn name(&mut self, name: &str) {
        if self.keep.is_some() {
            self.keep(0, |out| out.name(name));
        }
        if let Some((Some(at), _)) = self.stack.last() {
            self.next = (self.path.get(*at).is_some_and(|wanted| wanted == name)).then_some(at + 1);
        }
    }

    fn end_map(&mut self) {
        self.stack.pop();
        self.next = None;
        if self.keep.is_some() {
            self.keep(-1, |out| out.end_map());
        }
    }
}

impl Kind {
    /// As it stands in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Integers => "integers",
            Kind::Floats => "floats",
            Kind::Booleans => "booleans",
            Kind::Texts => "texts",
            Kind::Binaries => "binaries",
            Kind::Dates => "dates",
            Kind::Times => "times",
            Kind::Timestamps => "timestamps",
            Kind::Decimals => "decimals",
            Kind::Documents => "documents",
        }
    }
}

impl BytesColumn {
    /// Appends an entry.
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len() as u32);
    }

    /// Appends a null.
    pub fn push_null(&mut self) {
        self.nulls.get_or_insert_default().push(self.ends.len() as u32);
        self.ends.push(self.data.len() as u32);
    }

    /// Appends an entry that is not there.
    pub fn push_missing(&mut self) {
        self.missing.get_or_insert_default().push(self.ends.len() as u32);
        self.ends.push(self.data.len() as u32);
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.data.truncate(self.ends.last().copied().unwrap_or(0) as usize);
        truncate_positions(&mut self.nulls, rows);
        truncate_positions(&mut self.missing, rows);
    }
}

fn truncate_positions(positions: &mut Positions, rows: usize) {
    if let Some(kept) = positions {
        while kept.last().is_some_and(|last| *last as usize >= rows) {
            kept.pop();
        }
        if kept.is_empty() {
            *positions = None;
        }
    }
}

impl<T: Copy + Default> NumberColumn<T> {
    fn push(&mut self, value: T) {
        self.values.push(value);
    }

    fn push_null(&mut self) {
        self.nulls.get_or_insert_default().push(self.values.len() as u32);
        self.values.push(T::default());
    }

    fn push_missing(&mut self) {
        self.missing.get_or_insert_default().push(self.values.len() as u32);
        self.values.push(T::default());
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        truncate_positions(&mut self.nulls, rows);
        truncate_positions(&mut self.missing, rows);
    }
}

/// Calls a method on whatever column it is.
macro_rules! each {
    ($self:expr, $bytes:ident => $on_bytes:expr, $numbers:ident => $on_numbers:expr, $booleans:ident => $on_booleans:expr) => {
        match $self {
            Column::Texts($bytes) | Column::Binaries($bytes) | Column::Decimals($bytes) | Column::Documents($bytes) => $on_bytes,
            Column::Integers($numbers) | Column::Dates($numbers) | Column::Times($numbers) | Column::Timestamps($numbers) => $on_numbers,
            Column::Floats($numbers) => $on_numbers,
            Column::Booleans($booleans) => $on_booleans,
        }
    };
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Integers => Column::Integers(NumberColumn::default()),
            Kind::Floats => Column::Floats(NumberColumn::default()),
            Kind::Booleans => Column::Booleans(Vec::new()),
            Kind::Texts => Column::Texts(BytesColumn::default()),
            Kind::Binaries => Column::Binaries(BytesColumn::default()),
            Kind::Dates => Column::Dates(NumberColumn::default()),
            Kind::Times => Column::Times(NumberColumn::default()),
            Kind::Timestamps => Column::Timestamps(NumberColumn::default()),
            Kind::Decimals => Column::Decimals(BytesColumn::default()),
            Kind::Documents => Column::Documents(BytesColumn::default()),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Column::Integers(_) => Kind::Integers,
            Column::Floats(_) => Kind::Floats,
            Column::Booleans(_) => Kind::Booleans,
            Column::Texts(_) => Kind::Texts,
            Column::Binaries(_) => Kind::Binaries,
            Column::Dates(_) => Kind::Dates,
            Column::Times(_) => Kind::Times,
            Column::Timestamps(_) => Kind::Timestamps,
            Column::Decimals(_) => Kind::Decimals,
            Column::Documents(_) => Kind::Documents,
        }
    }

    fn is_documents(&self) -> bool {
        matches!(self, Column::Documents(_))
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        each!(self, bytes => bytes.ends.len(), numbers => numbers.values.len(), booleans => booleans.len())
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push_null(&mut self) {
        each!(self, bytes => bytes.push_null(), numbers => numbers.push_null(), booleans => booleans.push(2));
    }

    fn push_missing(&mut self) {
        each!(self, bytes => bytes.push_missing(), numbers => numbers.push_missing(), booleans => booleans.push(3));
    }

    fn truncate(&mut self, rows: usize) {
        each!(self, bytes => bytes.truncate(rows), numbers => numbers.truncate(rows), booleans => booleans.truncate(rows));
    }

    /// Appends a scalar; `false`: it does not fit without loss.
    fn put(&mut self, scalar: Scalar<'_>) -> bool {
        match (&mut *self, scalar) {
            (_, Scalar::Null) => self.push_null(),
            (Column::Integers(column), Scalar::Int(value)) => column.push(value),
            (Column::Floats(column), Scalar::Double(value)) => column.push(value),
            (Column::Floats(column), Scalar::Float(value)) => column.push(value.into()),
            // Beyond 2^53 a float would not be the same number.
            (Column::Floats(column), Scalar::Int(value)) if value.unsigned_abs() <= 1 << 53 => column.push(value as f64),
            (Column::Integers(column), Scalar::Double(value)) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
                column.push(value as i64);
            }
            (Column::Booleans(column), Scalar::Bool(value)) => column.push(value.into()),
            (Column::Texts(column), Scalar::Text(text)) => column.push(text.as_bytes()),
            (Column::Binaries(column), Scalar::Bytes(bytes)) => column.push(bytes),
            (Column::Binaries(column), Scalar::Uuid(bytes)) => column.push(&bytes),
            (Column::Binaries(column), Scalar::Text(text)) => column.push(text.as_bytes()),
            (Column::Dates(column), Scalar::Date(days)) => column.push(days),
            (Column::Times(column), Scalar::Time(value, unit)) => match unit.to_micros(value) {
                Some(micros) => column.push(micros),
                None => return false,
            },
            (Column::Timestamps(column), Scalar::Timestamp(value, unit, _)) => match unit.to_micros(value) {
                Some(micros) => column.push(micros),
                None => return false,
            },
            (Column::Decimals(column), Scalar::Decimal(unscaled, scale)) => column.push(text::decimal(unscaled, scale).as_bytes()),
            (Column::Decimals(column), Scalar::Int(value)) => column.push(value.to_string().as_bytes()),
            (Column::Decimals(column), Scalar::BigInt(digits)) => column.push(digits.as_bytes()),
            // The shortest text that reads back as the same float.
            (Column::Decimals(column), Scalar::Double(value)) if value.is_finite() => column.push(text::double(value).as_bytes()),
            (Column::Decimals(column), Scalar::Float(value)) if value.is_finite() => column.push(format!("{value:?}").as_bytes()),
            (Column::Texts(column), other) => match text::scalar(other) {
                Some(text) => column.push(text.as_bytes()),
                None => return false,
            },
            _ => return false,
        }
        true
    }
}

impl Columns {
    /// Empty columns of these kinds.
    pub fn of(kinds: &[Kind]) -> Self {
        Columns { columns: kinds.iter().map(|kind| Column::new(*kind)).collect(), rows: 0 }
    }

    /// Removes the last row.
    pub fn undo_last_row(&mut self) {
        self.rows = self.rows.saturating_sub(1);
        self.undo_row();
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends a row of nulls: for a tombstone, or a record without key.
    pub fn push_null_row(&mut self) {
        self.columns.iter_mut().for_each(Column::push_null);
        self.rows += 1;
    }

    /// Appends a row in which nothing is there.
    pub fn push_missing_row(&mut self) {
        self.columns.iter_mut().for_each(Column::push_missing);
        self.rows += 1;
    }

    /// Removes all rows and keeps the room.
    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(|column| column.truncate(0));
        self.rows = 0;
    }

    fn end_row(&mut self) {
        self.rows += 1;
        for column in &mut self.columns {
            if column.len() < self.rows {
                column.push_missing();
            }
        }
    }

    fn undo_row(&mut self) {
        let rows = self.rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }
}
