//! Uses every part of the contract once: a component of it, kept, shows whether a later router still runs what users have built.
#![cfg(target_arch = "wasm32")]

use anabranch_guest::*;

struct Everything {
    fields: Fields,
    reads: Header,
    sets: SetHeader,
    lake: SinkSet,
    records: Counter,
    last: Gauge,
    sizes: Histogram,
    schema: u32,
}

struct Fields {
    integer: IntegerField,
    float: FloatField,
    boolean: BooleanField,
    text: TextField,
    binary: BinaryField,
    date: DateField,
    time: TimeField,
    timestamp: TimestampField,
    decimal: DecimalField,
    document: DocumentField,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    prefix: String,
}

impl Transform for Everything {
    type Config = Config;

    fn plan(config: Config, context: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        if config.prefix != "p" {
            return Err(vec![Problem::at(&["prefix"], "only p will do").within(0..config.prefix.len())]);
        }
        if enabled(Level::Info) {
            log(Level::Info, &format!("{} on {} with {:?}", context.name(), context.route(), context.sinks()));
        }
        plan.keys(Encoding::Raw);
        plan.values(Encoding::Cbor);
        plan.sets_keys(Encoding::Json);
        plan.sets_values(Encoding::Avro);
        plan.versions();
        plan.max_records(100);
        let schema = register_schema(r#"{"type":"record","name":"Out","fields":[{"name":"n","type":"long"}]}"#).map_err(|_| Vec::new())?;
        Ok(Everything {
            fields: Fields {
                integer: plan.integer("n"),
                float: plan.float("n"),
                boolean: plan.boolean("flag"),
                text: plan.text("s"),
                binary: plan.binary("s"),
                date: plan.date("day"),
                time: plan.time("time"),
                timestamp: plan.timestamp("at"),
                decimal: plan.decimal("price"),
                document: plan.document("list"),
            },
            reads: plan.header("kind"),
            sets: plan.sets_header("seen"),
            lake: plan.sink_set(&["lake"]),
            records: Counter::new("records", "records seen"),
            last: Gauge::new("last", "the last n"),
            sizes: Histogram::new("sizes", "bytes of values"),
            schema,
        })
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        let f = &self.fields;
        for row in 0..batch.len() {
            self.records.add(1.0);
            let n = batch.integers(f.integer).get(row);
            match n {
                Some(0) => continue,
                Some(1) => {
                    out.reject(row, "one", "one is not welcome");
                    continue;
                }
                Some(2) => return Err(Failure { message: "two stops".to_owned(), input: Some(row as u32), retry: false }),
                _ => (),
            }
            self.last.set(n.unwrap_or(0) as f64);
            self.sizes.observe(batch.value(row).map_or(0, <[u8]>::len) as f64);
            let told = format!(
                "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {} {} {} {} {} {}",
                n,
                batch.floats(f.float).get(row),
                batch.booleans(f.boolean).get(row),
                batch.texts(f.text).get(row),
                batch.binaries(f.binary).get(row).map(<[u8]>::len),
                batch.dates(f.date).get(row),
                batch.times(f.time).get(row),
                batch.timestamps(f.timestamp).get(row),
                batch.decimals(f.decimal).get(row),
                batch.documents(f.document).get(row),
                batch.header(self.reads, row),
                batch.topic(),
                batch.partition(row),
                batch.offset(row),
                batch.timestamp(row),
                batch.key(row).is_none(),
                now_ms() > 1_600_000_000_000,
                schema(batch.value_schema(row)).is_none() && find_field(self.schema, Part::Value, &["n".to_owned()]).is_some(),
            );
            let value = [(n.unwrap_or(0) as u8) << 1];
            let output = out.keep(row).destination("p/1").sinks(self.lake).key(Some(b"\"k\"")).key_schema(0);
            output.value(Some(&value)).value_schema(self.schema).change(Change::Upsert).header(self.sets, Some(told.as_bytes()));
            out.keep(row).default_destination().key(None).value(None).header(self.sets, None);
        }
        Ok(())
    }
}

export!(Everything);
