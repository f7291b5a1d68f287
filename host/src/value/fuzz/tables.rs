//! Rows of tables against what `apache-avro` reads.

use ::arrow::array::{Array, AsArray as _};
use ::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use apache_avro::Schema as AvroSchema;
use apache_avro::types::Value as AvroValue;
use num_bigint::BigInt;
use serde_json::Value as Json;

use super::apache::{Apache, Times, digits, float};
use super::*;
use crate::value::schema::Unit;

/// The row of a value holds what the value holds.
pub fn same(apache: &Apache<'_>, schema: &Schema, value: Value<'_>, expected: &AvroValue) -> Result<(), String> {
    let fields = table_fields(schema);
    let appender = Appender::new(schema, &fields).map_err(|error| format!("a table of its own: {error}"))?;
    let mut rows = Rows::new(&fields).map_err(|error| error.to_string())?;
    match rows.append(&appender, value) {
        Ok(()) => (),
        // Too many digits, an instant beyond 64 bits.
        Err(Unfit::Column { reason, .. }) if reason.contains("decimal") || reason.contains("timestamp") => {
            let empty = rows.finish().map_err(|error| error.to_string())?;
            return if empty.num_rows() == 0 { Ok(()) } else { Err("a row was left".to_owned()) };
        }
        Err(error) => return Err(format!("as a row: {error}")),
    }
    let batch = rows.finish().map_err(|error| format!("as a batch: {error}"))?;
    let (inner, inner_schema) = apache.look_through(expected, apache.schema);
    // A union of several types is a column of its own, whatever branch it is.
    let is_record = fields.first().is_some_and(|field| field.name() != arrow::VALUE_COLUMN);
    for (field, column) in fields.iter().zip(batch.columns()) {
        let found = match (inner, inner_schema, is_record) {
            (AvroValue::Record(values), AvroSchema::Record(record), true) => {
                let position = values.iter().position(|(name, _)| name == field.name()).ok_or("a column of no field")?;
                entry(apache, column, 0, field, &values[position].1, &record.fields[position].schema)
            }
            (AvroValue::Null, _, true) => {
                if column.is_null(0) {
                    Ok(())
                } else {
                    Err("should be null".to_owned())
                }
            }
            _ => entry(apache, column, 0, field, expected, apache.schema),
        };
        found.map_err(|error| format!("column {:?}: {error}", field.name()))?;
    }
    Ok(())
}

fn entry<'s>(
    apache: &Apache<'s>,
    column: &dyn Array,
    row: usize,
    field: &Field,
    value: &AvroValue,
    schema: &'s AvroSchema,
) -> Result<(), String> {
    let (inner, inner_schema) = apache.look_through(value, schema);
    if matches!(inner, AvroValue::Null) || column.is_null(row) {
        let both = matches!(inner, AvroValue::Null) && column.is_null(row);
        return if both { Ok(()) } else { Err(format!("null or not: {inner:?}, is null: {}", column.is_null(row))) };
    }
    if field.metadata().contains_key(arrow::JSON_TEXT) {
        let found: Json = serde_json::from_str(column.as_string::<i32>().value(row)).map_err(|error| error.to_string())?;
        let expected = apache.json(value, schema, Times::Texts);
        return if found == expected { Ok(()) } else { Err(format!("as JSON {found}, apache-avro has {expected}")) };
    }
    let (found, expected) = match (column.data_type(), inner, inner_schema) {
        (DataType::Struct(fields), AvroValue::Record(values), AvroSchema::Record(record)) => {
            for (index, field) in fields.iter().enumerate() {
                let (position, (_, value)) =
                    values.iter().enumerate().find(|(_, (name, _))| name == field.name()).ok_or("a column of no field")?;
                entry(apache, column.as_struct().column(index), row, field, value, &record.fields[position].schema)?;
            }
            return Ok(());
        }
        (DataType::List(item), AvroValue::Array(items), AvroSchema::Array(array)) => {
            let list = column.as_list::<i32>().value(row);
            if list.len() != items.len() {
                return Err(format!("{} items of {}", list.len(), items.len()));
            }
            return items.iter().enumerate().try_for_each(|(index, value)| entry(apache, &list, index, item, value, &array.items));
        }
        (DataType::Map(entries, _), AvroValue::Map(expected), AvroSchema::Map(map)) => {
            let found = column.as_map().value(row);
            if found.len() != expected.len() {
                return Err(format!("{} entries of {}", found.len(), expected.len()));
            }
            let DataType::Struct(fields) = entries.data_type() else { return Err("a map of no entries".to_owned()) };
            for index in 0..found.len() {
                let name = found.column(0).as_string::<i32>().value(index);
                entry(apache, found.column(1), index, &fields[1], expected.get(name).ok_or("an entry of no name")?, &map.types)?;
            }
            return Ok(());
        }
        (DataType::Boolean, ..) => (column.as_boolean().value(row).into(), None),
        (DataType::Int32, ..) => (column.as_primitive::<Int32Type>().value(row).into(), None),
        (DataType::Int64, ..) => (column.as_primitive::<Int64Type>().value(row).into(), None),
        (DataType::Float32, AvroValue::Float(value), _) => {
            (float(column.as_primitive::<Float32Type>().value(row).into()), Some(float((*value).into())))
        }
        (DataType::Float64, ..) => (float(column.as_primitive::<Float64Type>().value(row)), None),
        (DataType::Date32, AvroValue::Date(days), _) => (column.as_primitive::<Date32Type>().value(row).into(), Some((*days).into())),
        (DataType::Timestamp(..), AvroValue::TimestampMillis(value), _) => (instant(column, row), Some((value * 1000).into())),
        (DataType::Timestamp(..), AvroValue::TimestampMicros(value), _) => (instant(column, row), Some((*value).into())),
        (DataType::Timestamp(..), AvroValue::TimestampNanos(value), _) => {
            (instant(column, row), Some(Unit::Nanos.to_micros(*value).into()))
        }
        (DataType::Decimal128(_, scale), ..) => {
            (digits(&BigInt::from(column.as_primitive::<Decimal128Type>().value(row)), (*scale).into()).into(), None)
        }
        (DataType::Utf8, ..) => (column.as_string::<i32>().value(row).into(), None),
        (DataType::Binary, ..) => {
            use base64::Engine as _;
            (base64::engine::general_purpose::STANDARD.encode(column.as_binary::<i32>().value(row)).into(), None)
        }
        (other, value, _) => return Err(format!("{other} for {value:?}")),
    };
    let expected: Json = expected.unwrap_or_else(|| apache.json(inner, inner_schema, Times::Texts));
    if found == expected { Ok(()) } else { Err(format!("{found}, apache-avro has {expected}")) }
}

fn instant(column: &dyn Array, row: usize) -> Json {
    column.as_primitive::<TimestampMicrosecondType>().value(row).into()
}

/// Whatever the bytes are: a row is there or not, and what was built can be finished.
pub fn never_half(schema: &Schema, value: Value<'_>, valid: bool) -> Result<(), String> {
    let fields = table_fields(schema);
    let (Ok(appender), Ok(mut rows)) = (Appender::new(schema, &fields), Rows::new(&fields)) else {
        return Err("no table of its own".to_owned());
    };
    let appended = rows.append(&appender, value).is_ok();
    if appended && !valid {
        return Err("appended what is not valid".to_owned());
    }
    let rows = rows.finish().map_err(|error| format!("as a batch: {error}"))?.num_rows();
    if rows == usize::from(appended) { Ok(()) } else { Err(format!("{rows} rows")) }
}
