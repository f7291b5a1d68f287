//! Maps the twelve fields of the benchmark's orders to JSON text.

use std::io::Write as _;

use anabranch_guest::{
    Batch, BooleanField, Context, DecimalField, Encoding, Failure, IntegerField, Outputs, Plan, Problem, TextField, TimestampField,
    Transform,
};

/// The plugin: the planned columns, and one buffer for all values.
pub struct MapJson {
    integers: [(&'static str, IntegerField); 2],
    texts: [(&'static str, TextField); 6],
    amount: DecimalField,
    paid: BooleanField,
    times: [(&'static str, TimestampField); 2],
    text: Vec<u8>,
}

/// Nothing can be configured.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Transform for MapJson {
    type Config = Config;

    fn plan(_: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        plan.sets_values(Encoding::Json);
        let mut integer = |name| (name, plan.integer(name));
        let integers = [integer("order_id"), integer("quantity")];
        let mut text = |name| (name, plan.text(name));
        let texts = [text("customer"), text("status"), text("country"), text("currency"), text("city"), text("coupon")];
        let amount = plan.decimal("amount");
        let paid = plan.boolean("paid");
        let mut time = |name| (name, plan.timestamp(name));
        let times = [time("ordered_at"), time("changed_at")];
        Ok(MapJson { integers, texts, amount, paid, times, text: Vec::new() })
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        let integers = self.integers.map(|(name, field)| (name, batch.integers(field)));
        let texts = self.texts.map(|(name, field)| (name, batch.texts(field)));
        let times = self.times.map(|(name, field)| (name, batch.timestamps(field)));
        let (amounts, paid) = (batch.decimals(self.amount), batch.booleans(self.paid));
        let json = &mut self.text;
        for row in 0..batch.len() {
            json.clear();
            json.push(b'{');
            for (name, column) in integers.iter().chain(&times) {
                member(json, name);
                match column.get(row) {
                    Some(number) => integer(json, number),
                    None => json.extend_from_slice(b"null"),
                }
            }
            for (name, column) in &texts {
                member(json, name);
                match column.get(row) {
                    Some(content) => string(json, content),
                    None => json.extend_from_slice(b"null"),
                }
            }
            member(json, "amount");
            json.extend_from_slice(amounts.get(row).unwrap_or("null").as_bytes());
            member(json, "paid");
            json.extend_from_slice(if paid.get(row) == Some(true) { b"true" } else { b"false" });
            json.push(b'}');
            out.keep(row).value(Some(json));
        }
        Ok(())
    }
}

fn member(json: &mut Vec<u8>, name: &str) {
    json.extend_from_slice(if json.len() == 1 { b"\"" } else { b",\"" });
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
}

fn integer(json: &mut Vec<u8>, number: i64) {
    write!(json, "{number}").expect("writing into a Vec");
}

fn string(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        json.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
                0..0x20 => write!(json, "\\u{byte:04x}").expect("writing into a Vec"),
                _ => json.push(byte),
            }
        }
    }
    json.push(b'"');
}

anabranch_guest::export!(MapJson);
