//! Expressions over planned columns.
//!
//! Invariant: a record whose field has another type than the value it is compared with does not match; it is never an error, because
//! topics mix types.

use std::cmp::Ordering;

use anabranch_guest::{Batch, BooleanField, DecimalField, DocumentField, Header, Plan, TextField, parse_path};
use regex_lite::Regex;

use crate::parse::{Comparison, Field, Literal, Tree};

/// An expression whose fields are columns.
pub enum Expression {
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Constant(bool),
    IsNull(Presence),
    Text(Source, Comparison, String),
    Number(DecimalField, Comparison, Number),
    Bool(BooleanField, Comparison, bool),
    AnyOf(Vec<Expression>),
    Matches(Source, Regex),
}

/// Where it shows whether something is there.
#[derive(Clone, Copy)]
pub enum Presence {
    Field(DocumentField),
    Header(Header),
}

/// Where a text comes from.
#[derive(Clone, Copy)]
pub enum Source {
    Field(TextField),
    Header(Header),
}

/// A number to compare with, in both forms.
pub struct Number {
    integer: Option<i128>,
    float: f64,
}

impl Expression {
    /// Plans the fields of a tree.
    pub fn compile(tree: &Tree, plan: &mut Plan) -> Self {
        let two = |left: &Tree, right: &Tree, plan: &mut Plan| {
            (Box::new(Expression::compile(left, plan)), Box::new(Expression::compile(right, plan)))
        };
        match tree {
            Tree::And(left, right) => {
                let (left, right) = two(left, right, plan);
                Expression::And(left, right)
            }
            Tree::Or(left, right) => {
                let (left, right) = two(left, right, plan);
                Expression::Or(left, right)
            }
            Tree::Not(inner) => Expression::Not(Box::new(Expression::compile(inner, plan))),
            Tree::Constant(value) => Expression::Constant(*value),
            Tree::Exists(field) => Expression::Not(Box::new(Expression::IsNull(presence(field, plan)))),
            Tree::IsTrue(field) => compare(field, Comparison::Equal, &Literal::Bool(true), plan),
            Tree::Matches(field, regex) => Expression::Matches(source(field, plan), regex.clone()),
            Tree::In(field, list) => {
                Expression::AnyOf(list.iter().map(|literal| compare(field, Comparison::Equal, literal, plan)).collect())
            }
            Tree::Compare(field, comparison, literal) => compare(field, *comparison, literal, plan),
        }
    }

    /// Whether it holds for a record.
    pub fn holds(&self, batch: &Batch, row: usize) -> bool {
        match self {
            Expression::And(left, right) => left.holds(batch, row) && right.holds(batch, row),
            Expression::Or(left, right) => left.holds(batch, row) || right.holds(batch, row),
            Expression::Not(inner) => !inner.holds(batch, row),
            Expression::Constant(value) => *value,
            Expression::AnyOf(list) => list.iter().any(|inner| inner.holds(batch, row)),
            Expression::IsNull(Presence::Field(field)) => batch.documents(*field).get(row).is_none(),
            Expression::IsNull(Presence::Header(header)) => batch.header(*header, row).is_none(),
            Expression::Matches(source, regex) => source.get(batch, row).is_some_and(|text| regex.is_match(text)),
            Expression::Text(source, comparison, value) => match source.get(batch, row) {
                Some(text) => comparison.holds(text.cmp(value)),
                None => false,
            },
            Expression::Bool(field, comparison, value) => match batch.booleans(*field).get(row) {
                Some(found) => comparison.holds(found.cmp(value)),
                None => false,
            },
            Expression::Number(field, comparison, value) => match batch.decimals(*field).get(row) {
                Some(text) => value.compare(text).is_some_and(|ordering| comparison.holds(ordering)),
                None => false,
            },
        }
    }
}

fn compare(field: &Field, comparison: Comparison, literal: &Literal, plan: &mut Plan) -> Expression {
    match literal {
        Literal::Null => {
            let is_null = Expression::IsNull(presence(field, plan));
            if comparison == Comparison::Equal { is_null } else { Expression::Not(Box::new(is_null)) }
        }
        Literal::Text(text) => Expression::Text(source(field, plan), comparison, text.clone()),
        Literal::Bool(value) => {
            let field = plan.boolean(&dotted(field));
            plan.lenient();
            Expression::Bool(field, comparison, *value)
        }
        Literal::Integer(value) => number(field, comparison, Number { integer: Some((*value).into()), float: *value as f64 }, plan),
        Literal::Float(value) => number(field, comparison, Number { integer: None, float: *value }, plan),
    }
}

fn number(field: &Field, comparison: Comparison, value: Number, plan: &mut Plan) -> Expression {
    let field = plan.decimal(&dotted(field));
    plan.lenient();
    Expression::Number(field, comparison, value)
}

fn presence(field: &Field, plan: &mut Plan) -> Presence {
    match source_header(field) {
        Some(name) => Presence::Header(plan.header(&name)),
        // Of any shape: an object is there although it is no text.
        None => Presence::Field(plan.document(&dotted(field))),
    }
}

fn source_header(field: &Field) -> Option<String> {
    let (first, rest) = field.path.split_first()?;
    (first == "header" && !rest.is_empty()).then(|| rest.join("."))
}

fn source(field: &Field, plan: &mut Plan) -> Source {
    match source_header(field) {
        Some(name) => Source::Header(plan.header(&name)),
        None => {
            let (part, path) = parse_path(&dotted(field));
            Source::Field(plan.lenient_text(part, path))
        }
    }
}

fn dotted(field: &Field) -> String {
    let escaped: Vec<String> = field.path.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect();
    escaped.join(".")
}

impl Source {
    fn get(self, batch: &Batch, row: usize) -> Option<&str> {
        match self {
            Source::Field(field) => batch.texts(field).get(row),
            Source::Header(header) => batch.header(header, row).and_then(|bytes| std::str::from_utf8(bytes).ok()),
        }
    }
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering == Ordering::Equal,
            Comparison::NotEqual => ordering != Ordering::Equal,
            Comparison::Less => ordering == Ordering::Less,
            Comparison::LessOrEqual => ordering != Ordering::Greater,
            Comparison::Greater => ordering == Ordering::Greater,
            Comparison::GreaterOrEqual => ordering != Ordering::Less,
        }
    }
}

impl Number {
    /// How a decimal text stands to this number; exact where both are integers.
    fn compare(&self, text: &str) -> Option<Ordering> {
        if let (Some(own), Ok(other)) = (self.integer, text.parse::<i128>()) {
            return Some(other.cmp(&own));
        }
        text.parse::<f64>().ok()?.partial_cmp(&self.float)
    }
}
