//! The baselines: what the same job costs without a router. Each runs in a process of its own, so that its cost is the kernel's count.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::source::kafka::queue::{Item, Queue};
use anabranch::value::{Format, JsonOptions, Schema, Value, write_json};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::orders::native;

/// What is done with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Nothing: the limit of the library.
    None,
    /// Is the Avro field `status` PAID?
    FilterAvro,
    /// Is the JSON field `status` PAID?
    FilterJson,
    /// A destination out of two Avro fields.
    Pattern,
    /// JSON text of all Avro fields, by the router's own writer.
    Map,
}

/// Arguments of a baseline.
#[derive(Debug, clap::Args)]
pub struct Raw {
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: i32,
    #[arg(long)]
    records: u64,
    #[arg(long, value_enum, default_value = "none")]
    work: Work,
    /// Avro schema, for `map`
    #[arg(long)]
    schema: Option<String>,
    /// Join this consumer group, and end at the first record
    #[arg(long)]
    group: Option<String>,
}

/// Reads the topic by batches and works on each record. Prints the seconds from the first record to the last.
pub fn read(arguments: &Raw) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &arguments.brokers).set("group.id", arguments.group.as_deref().unwrap_or("bench-raw"));
    client.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest").set("fetch.queue.backoff.ms", "2");
    client.set("fetch.message.max.bytes", (256 << 10).to_string()).set("queued.max.messages.kbytes", (16 << 10).to_string());
    client.set("queued.min.messages", "20000");
    client.set("heartbeat.interval.ms", "500").set("partition.assignment.strategy", "cooperative-sticky");
    let consumer: Arc<BaseConsumer> = Arc::new(client.create().expect("the settings are good"));
    if arguments.group.is_some() {
        consumer.subscribe(&[&arguments.topic]).expect("the topic's name is good");
        while !matches!(consumer.poll(Duration::from_millis(100)), Some(Ok(_))) {}
        println!("first record");
        return;
    }
    let queue = Queue::new(consumer.clone());
    let mut list = TopicPartitionList::new();
    for partition in 0..arguments.partitions {
        list.add_partition_offset(&arguments.topic, partition, Offset::Beginning).expect("offsets are good");
        queue.forward(&arguments.topic, partition);
    }
    consumer.assign(&list).expect("the topic is there");
    let schema = arguments.schema.as_deref().map(|text| Schema::avro(text, &[]).expect("the schema is good"));
    let (mut text, mut json) = (String::new(), Vec::new());
    let (mut read, mut kept) = (0, 0_u64);
    let mut first = None;
    while read < arguments.records {
        consumer.poll(Duration::ZERO);
        queue.read(1024, Duration::from_millis(100), |_, item| {
            let Item::Record(record) = item else { return };
            first.get_or_insert_with(Instant::now);
            read += 1;
            let Some(value) = record.value() else { return };
            match arguments.work {
                Work::None => kept += black_box(value).len() as u64,
                Work::FilterAvro => kept += u64::from(native::read(&value[5..]).is_some_and(|order| order.status == 1)),
                Work::FilterJson => {
                    let status = sonic_rs::get(value, &["status"]).expect("the order is JSON");
                    kept += u64::from(status.as_raw_str() == "\"PAID\"");
                }
                Work::Pattern => {
                    let order = native::read(&value[5..]).expect("the order is whole");
                    text.clear();
                    let (country, customer) = (std::str::from_utf8(order.country), std::str::from_utf8(order.customer));
                    write!(text, "shop/{}/{}", country.expect("text"), customer.expect("text")).expect("writing into a String");
                    kept += black_box(&text).len() as u64;
                }
                Work::Map => {
                    json.clear();
                    let value = Value { format: Format::Avro, schema: schema.as_ref(), bytes: &value[5..] };
                    write_json(value, &JsonOptions::default(), &mut json).expect("the order is whole");
                    kept += black_box(&json).len() as u64;
                }
            }
        });
    }
    let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    drop(queue);
    let _ = writeln!(std::io::stdout(), "{seconds} {kept}");
    // The client's orderly end waits for the broker, which is not what is measured.
    std::process::exit(0);
}
