//! The demo's records: orders of a shop, in Avro with the registry's prefix, and now and then one that nobody can read.
//!
//! Invariant: the same seed makes the same orders in the same sequence, so that a run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// The schema of an order: twelve fields, of the types that shops have.
pub const SCHEMA: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
{"name":"order_id","type":"long"},
{"name":"customer","type":"string"},
{"name":"status","type":{"type":"enum","name":"Status","symbols":["NEW","PAID","SHIPPED","RETURNED","CANCELLED"]}},
{"name":"country","type":"string"},
{"name":"currency","type":"string"},
{"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
{"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
{"name":"sku","type":"string"},{"name":"quantity","type":"int"},
{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}]}}},
{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-millis"}},
{"name":"paid_at","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
{"name":"delivery","type":{"type":"int","logicalType":"date"}},
{"name":"address","type":{"type":"record","name":"Address","fields":[
{"name":"street","type":"string"},{"name":"zip","type":"string"},{"name":"city","type":"string"}]}},
{"name":"coupon","type":["null","string"],"default":null}]}"#;

/// Country, currency, cities.
const PLACES: [(&str, &str, [&str; 3]); 6] = [
    ("DE", "EUR", ["Hamburg", "Leipzig", "Köln"]),
    ("AT", "EUR", ["Wien", "Graz", "Linz"]),
    ("CH", "CHF", ["Zürich", "Basel", "Chur"]),
    ("GB", "GBP", ["Leeds", "Bristol", "Glasgow"]),
    ("US", "USD", ["Portland", "Austin", "Boston"]),
    ("NZ", "NZD", ["Dunedin", "Napier", "Nelson"]),
];
const STREETS: [&str; 6] = ["High Street", "Mill Lane", "River Road", "Am Markt", "Station Road", "Ringstrasse"];
const PRODUCTS: [(&str, u64); 8] = [
    ("PADDLE-2", 4_990),
    ("KAYAK-1", 89_900),
    ("ROPE-10M", 1_250),
    ("DRYBAG-L", 2_475),
    ("VEST-M", 7_900),
    ("MAP-EAST", 995),
    ("LAMP-3", 3_499),
    ("TENT-2P", 24_900),
];
const CUSTOMERS: u64 = 5_000;
const DAY_MS: i64 = 86_400_000;

/// One of so many records is one that nobody can read.
pub const POISON_EVERY: u64 = 2_500;
/// The first of them, so that short runs have one too.
const POISON_FIRST: u64 = 42;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// An order.
    Order,
    /// Bytes that are none.
    Poison,
}

/// Makes orders.
#[derive(Debug)]
pub struct Orders {
    schema: u32,
    dice: fastrand::Rng,
    made: u64,
}

impl Orders {
    /// Orders whose values carry `schema`, the registry's id of [`SCHEMA`].
    pub fn new(schema: u32, seed: u64) -> Self {
        Orders { schema, dice: fastrand::Rng::with_seed(seed), made: 0 }
    }

    /// Makes the next record at `now_ms` (since 1970): its key is the customer. Both vectors are overwritten.
    pub fn next(&mut self, now_ms: i64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Made {
        key.clear();
        value.clear();
        let number = self.made;
        self.made += 1;
        let customer = format!("C{:05}", self.dice.u64(0..CUSTOMERS));
        key.extend_from_slice(customer.as_bytes());
        value.push(0);
        value.extend_from_slice(&self.schema.to_be_bytes());
        self.order(number, &customer, now_ms, value);
        if number % POISON_EVERY != POISON_FIRST {
            return Made::Order;
        }
        // Both happen in real topics: a producer without the registry, and a value that was cut off.
        if (number / POISON_EVERY).is_multiple_of(2) {
            value.clear();
            value.extend_from_slice(b"{\"oops\": \"this producer writes JSON\"}");
        } else {
            // Within the customer, so that no field behind it can be read.
            value.truncate(10);
        }
        Made::Poison
    }

    fn order(&mut self, number: u64, customer: &str, now_ms: i64, out: &mut Vec<u8>) {
        let dice = &mut self.dice;
        let (country, currency, cities) = PLACES[dice.usize(..PLACES.len())];
        // NEW, PAID, SHIPPED, RETURNED, CANCELLED.
        let status = [0, 0, 1, 1, 1, 1, 2, 2, 3, 4][dice.usize(..10)];
        let items: Vec<(&str, u64, u64)> = (0..dice.usize(1..=3))
            .map(|_| {
                let (sku, cents) = PRODUCTS[dice.usize(..PRODUCTS.len())];
                (sku, dice.u64(1..=3), cents)
            })
            .collect();
        let total: u64 = items.iter().map(|(_, quantity, cents)| quantity * cents).sum();

        long(out, 100_000 + number as i64);
        text(out, customer);
        long(out, status);
        text(out, country);
        text(out, currency);
        decimal(out, total);
        long(out, items.len() as i64);
        for (sku, quantity, cents) in items {
            text(out, sku);
            long(out, quantity as i64);
            decimal(out, cents);
        }
        long(out, 0);
        long(out, now_ms);
        match status {
            1..=3 => {
                long(out, 1);
                long(out, (now_ms + dice.i64(1_000..600_000)) * 1_000);
            }
            _ => long(out, 0),
        }
        long(out, now_ms.div_euclid(DAY_MS) + dice.i64(1..=7));
        text(out, &format!("{} {}", STREETS[dice.usize(..STREETS.len())], dice.u32(1..200)));
        text(out, &format!("{:05}", dice.u32(1_000..99_999)));
        text(out, cities[dice.usize(..cities.len())]);
        if dice.u8(..10) == 0 {
            long(out, 1);
            text(out, "SPRING");
        } else {
            long(out, 0);
        }
    }
}

/// Milliseconds since 1970 now.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Appends a long: variable-length zig-zag (Avro 1.12, "Binary encoding").
pub fn long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string: its length in bytes and its UTF-8 (Avro 1.12, "Binary encoding").
pub fn text(out: &mut Vec<u8>, text: &str) {
    long(out, text.len() as i64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a decimal of logical type on bytes: the unscaled number in two's complement, big endian, as short as it gets. At most 2^63 - 1.
pub fn decimal(out: &mut Vec<u8>, unscaled: u64) {
    let bytes = (unscaled as i64).to_be_bytes();
    let short = bytes.windows(2).take_while(|pair| pair[0] == 0 && pair[1] < 0x80).count();
    long(out, (bytes.len() - short) as i64);
    out.extend_from_slice(&bytes[short..]);
}

#[cfg(test)]
mod tests {
    use apache_avro::types::Value;

    use super::*;

    #[test]
    fn another_decoder_reads_every_order_to_its_last_byte() {
        let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
        let mut orders = Orders::new(7, 1);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut poisons = 0;
        for number in 0..3 * POISON_EVERY {
            if orders.next(1_790_000_000_000, &mut key, &mut value) == Made::Poison {
                poisons += 1;
                continue;
            }
            assert_eq!(value[..5], [0, 0, 0, 0, 7]);
            let mut rest = &value[5..];
            let read = apache_avro::from_avro_datum(&schema, &mut rest, None).unwrap();
            assert!(rest.is_empty(), "order {number}");
            let Value::Record(fields) = read else { panic!("order {number}") };
            assert_eq!(fields[0].1, Value::Long(100_000 + number as i64));
            assert_eq!(fields[1].1, Value::String(String::from_utf8(key.clone()).unwrap()));
            let amount = |value: &Value| {
                let Value::Decimal(decimal) = value else { panic!("{value:?}") };
                i64::try_from(num_bigint::BigInt::from(decimal.clone())).unwrap()
            };
            let Value::Array(items) = &fields[6].1 else { panic!("order {number}") };
            let total: i64 = items
                .iter()
                .map(|item| {
                    let Value::Record(item) = item else { panic!("{item:?}") };
                    let Value::Int(quantity) = item[1].1 else { panic!("{item:?}") };
                    i64::from(quantity) * amount(&item[2].1)
                })
                .sum();
            assert_eq!(amount(&fields[5].1), total);
        }
        assert_eq!(poisons, 3);
    }

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        let (mut one, mut other) = (Orders::new(1, 5), Orders::new(1, 5));
        let (mut key, mut value, mut other_key, mut other_value) = Default::default();
        for _ in 0..100 {
            one.next(0, &mut key, &mut value);
            other.next(0, &mut other_key, &mut other_value);
            assert_eq!((&key, &value), (&other_key, &other_value));
        }
    }
}
