//! Columns of a table and of what is to be written: how they meet, and what is in the way where they cannot.
//!
//! Invariant: a table's own columns never change; columns are only added, behind the others and nullable, so what is there already
//! stays readable.

use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::kernel::{ArrayType, DataType, MapType, StructField, StructType};

use super::table::chain;

/// How many columns a table may have: more of them are keys that were taken for columns.
pub const COLUMNS_MAX: usize = 2_000;

/// Arrow fields as columns of a Delta table, all nullable, those within structs, lists and maps too: rows of a schema that lacks a
/// field must still fit.
///
/// # Errors
/// Names the field whose type a Delta table cannot hold.
pub fn columns(fields: &[Field]) -> Result<StructType, String> {
    let mut converted = Vec::with_capacity(fields.len());
    for field in fields {
        let nullable = nullable(field);
        let column: StructField = (&nullable).try_into_kernel().map_err(|error| {
            format!("column {:?} of type {} does not fit a Delta table: {}", field.name(), field.data_type(), chain(&error))
        })?;
        converted.push(column);
    }
    StructType::try_new(converted).map_err(|error| chain(&error))
}

fn nullable(field: &Field) -> Field {
    let data_type = match field.data_type() {
        ArrowType::Struct(fields) => ArrowType::Struct(fields.iter().map(|field| Arc::new(nullable(field))).collect()),
        ArrowType::List(element) => ArrowType::List(Arc::new(nullable(element))),
        ArrowType::Map(entries, sorted) => match entries.data_type() {
            // The key of a map is never null.
            ArrowType::Struct(fields) if fields.len() == 2 => {
                let entry = ArrowType::Struct([fields[0].clone(), Arc::new(nullable(&fields[1]))].into_iter().collect());
                ArrowType::Map(Arc::new(entries.as_ref().clone().with_data_type(entry)), *sorted)
            }
            _ => field.data_type().clone(),
        },
        other => other.clone(),
    };
    field.clone().with_data_type(data_type).with_nullable(true)
}

/// Columns of a table as an Arrow schema.
///
/// # Errors
/// Where a column's type has no counterpart.
pub fn arrow_schema(columns: &StructType) -> Result<SchemaRef, String> {
    let schema: Schema = columns.try_into_arrow().map_err(|error: arrow::error::ArrowError| chain(&error))?;
    Ok(Arc::new(schema))
}

/// The table's columns with those of `wanted` that it lacks; `None`: it lacks none. Columns that both have are left as the table
/// has them: whether they can hold the values is for whoever makes the rows to say.
///
/// # Errors
/// Where names differ in case only, or there would be too many.
pub fn extend(table: &StructType, wanted: &StructType) -> Result<Option<StructType>, String> {
    merge_within(table, wanted, Types::MayDiffer)
}

/// The table's columns with those of files that it lacks; `None`: it lacks none.
///
/// # Errors
/// Names the column that has another type, and both types.
pub fn merge(table: &StructType, files: &StructType) -> Result<Option<StructType>, String> {
    merge_within(table, files, Types::MustBeSame)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Types {
    MayDiffer,
    MustBeSame,
}

fn merge_within(table: &StructType, wanted: &StructType, types: Types) -> Result<Option<StructType>, String> {
    let merged = merge_fields(table, wanted, types, "")?;
    if let Some(merged) = &merged
        && merged.fields().len() > COLUMNS_MAX
    {
        return Err(format!("the table would have more than {COLUMNS_MAX} columns; map changing keys to one column of type map"));
    }
    Ok(merged)
}

fn merge_fields(table: &StructType, wanted: &StructType, types: Types, place: &str) -> Result<Option<StructType>, String> {
    let mut fields: Vec<StructField> = table.fields().cloned().collect();
    let mut changed = false;
    for want in wanted.fields() {
        let path = if place.is_empty() { want.name().clone() } else { format!("{place}.{}", want.name()) };
        // Delta tells columns apart without regard to case.
        let Some(have) = fields.iter_mut().find(|have| have.name().eq_ignore_ascii_case(want.name())) else {
            let mut added = want.clone();
            added.nullable = true;
            fields.push(added);
            changed = true;
            continue;
        };
        if have.name() != want.name() {
            return Err(format!("column {path:?} differs from the table's column {:?} in case only", have.name()));
        }
        if let Some(data_type) = merge_types(&have.data_type, &want.data_type, types, &path)? {
            have.data_type = data_type;
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    StructType::try_new(fields).map(Some).map_err(|error| chain(&error))
}

fn merge_types(table: &DataType, wanted: &DataType, types: Types, path: &str) -> Result<Option<DataType>, String> {
    match (table, wanted) {
        (DataType::Struct(table), DataType::Struct(wanted)) => Ok(merge_fields(table, wanted, types, path)?.map(DataType::from)),
        (DataType::Array(table), DataType::Array(wanted)) => {
            let element = merge_types(table.element_type(), wanted.element_type(), types, &format!("{path}[]"))?;
            Ok(element.map(|element| ArrayType::new(element, table.contains_null()).into()))
        }
        (DataType::Map(table), DataType::Map(wanted)) => {
            let value = merge_types(table.value_type(), wanted.value_type(), types, &format!("{path}{{}}"))?;
            Ok(value.map(|value| MapType::new(table.key_type().clone(), value, table.value_contains_null()).into()))
        }
        (table, wanted) if table == wanted || types == Types::MayDiffer => Ok(None),
        (table, wanted) => Err(format!("column {path:?} is {table} in the table, the rows have {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &[(&str, DataType)]) -> StructType {
        let fields = fields.iter().map(|(name, data_type)| StructField::not_null(*name, data_type.clone()));
        StructType::try_new(fields).expect("distinct names")
    }

    #[test]
    fn a_new_column_stands_last_and_is_nullable() {
        let merged = merge(&table(&[("id", DataType::LONG)]), &table(&[("name", DataType::STRING), ("id", DataType::LONG)]));
        let merged = merged.expect("fits").expect("changes");
        let names: Vec<_> = merged.fields().map(|field| (field.name().as_str(), field.is_nullable())).collect();
        assert_eq!(names, [("id", false), ("name", true)]);
    }

    #[test]
    fn fewer_columns_change_nothing() {
        let have = table(&[("id", DataType::LONG), ("name", DataType::STRING)]);
        assert_eq!(merge(&have, &table(&[("id", DataType::LONG)])), Ok(None));
    }

    #[test]
    fn a_column_keeps_its_type_and_files_of_another_are_refused() {
        let long = table(&[("n", DataType::LONG)]);
        let int = table(&[("n", DataType::INTEGER)]);
        assert_eq!(extend(&int, &long), Ok(None));
        assert_eq!(merge(&int, &long), Err("column \"n\" is integer in the table, the rows have long".into()));
    }

    #[test]
    fn a_field_within_a_struct_is_added_and_named_by_its_path() {
        let inner = |fields: &[(&str, DataType)]| DataType::from(table(fields));
        let have = table(&[("at", inner(&[("x", DataType::LONG)]))]);
        let merged = merge(&have, &table(&[("at", inner(&[("y", DataType::LONG)]))])).expect("fits").expect("changes");
        assert_eq!(merged.field("at").map(|field| field.data_type().to_string().contains('y')), Some(true));
        let refused = merge(&have, &table(&[("at", inner(&[("x", DataType::STRING)]))]));
        assert_eq!(refused, Err("column \"at.x\" is long in the table, the rows have string".into()));
    }

    #[test]
    fn every_field_within_a_column_is_nullable() {
        let number = |name: &str| Arc::new(Field::new(name, ArrowType::Int64, false));
        let entry = ArrowType::Struct([Arc::new(Field::new("key", ArrowType::Utf8, false)), number("value")].into_iter().collect());
        let fields = [
            Field::new("at", ArrowType::Struct([number("x")].into_iter().collect()), false),
            Field::new("list", ArrowType::List(number("element")), false),
            Field::new("map", ArrowType::Map(Arc::new(Field::new("key_value", entry, false)), false), false),
        ];
        let made = columns(&fields).expect("a table can hold these");
        let nullable = made.fields().map(|field| match field.data_type() {
            DataType::Struct(inner) => inner.fields().all(StructField::is_nullable),
            DataType::Array(array) => array.contains_null(),
            DataType::Map(map) => map.value_contains_null(),
            other => panic!("{other} was not asked for"),
        });
        assert!(nullable.zip(made.fields()).all(|(within, field)| within && field.is_nullable()));
    }

    #[test]
    fn names_that_differ_in_case_only_are_refused() {
        let refused = merge(&table(&[("Id", DataType::LONG)]), &table(&[("id", DataType::LONG)]));
        assert_eq!(refused, Err("column \"id\" differs from the table's column \"Id\" in case only".into()));
    }
}
