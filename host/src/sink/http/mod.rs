//! `http`: POST or PUT of one record or of a batch.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Auth, ByteSize, DurationText, Fault, Tls};

/// `[sink.NAME.http]`: requests to an HTTP server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where requests go; `${destination}` in its path is replaced by each record's destination, percent-encoded.
    pub url: String,
    /// The method of the requests.
    #[serde(default)]
    pub method: Method,
    /// Headers of every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: Tls,
    /// How records become requests.
    #[serde(default)]
    pub batch: Batch,
    /// How long a request may take before it is tried again.
    #[serde(default = "Config::timeout")]
    pub timeout: DurationText,
    /// Requests at a time.
    #[serde(default = "Config::in_flight_max")]
    pub in_flight_max: u32,
    /// Which records wait for each other.
    #[serde(default)]
    pub order: Order,
    /// How refused and unanswered requests are tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// `POST`
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// `PUT`
    #[serde(rename = "PUT")]
    Put,
    /// `PATCH`
    #[serde(rename = "PATCH")]
    Patch,
}

/// How records become requests.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// The shape of a body.
    pub form: Form,
    /// Records in a request; only with `array` and `lines`.
    pub records_max: u32,
    /// Bytes of a body.
    pub bytes_max: ByteSize,
    /// How long the first record of a request waits for others.
    pub linger: DurationText,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { form: Form::Single, records_max: 500, bytes_max: ByteSize::mib(1), linger: DurationText::ms(5) }
    }
}

/// The shape of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One record.
    #[default]
    Single,
    /// A JSON array of records.
    Array,
    /// Lines of JSON, one for each record.
    Lines,
}

/// Which records wait for each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Those of one key; records without a key as with `partition`.
    #[default]
    Key,
    /// Those of one partition.
    Partition,
    /// None.
    None,
}

/// How refused and unanswered requests are tried again, with full jitter between the delays.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries before the records become dead letters; 0: without end.
    pub attempts_max: u32,
    /// The first delay.
    pub delay_min: DurationText,
    /// The longest delay.
    pub delay_max: DurationText,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts_max: 0, delay_min: DurationText::ms(100), delay_max: DurationText::s(30) }
    }
}

const DESTINATION: &str = "${destination}";

impl Config {
    const fn timeout() -> DurationText {
        DurationText::s(30)
    }

    const fn in_flight_max() -> u32 {
        16
    }

    /// Whether the URL takes the record's destination.
    pub fn takes_destination(&self) -> bool {
        self.url.contains(DESTINATION)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.tls.check();
        let plain = self.url.replace(DESTINATION, "destination");
        let host_end = self.url.find("://").map_or(0, |at| at + 3 + self.url[at + 3..].find('/').unwrap_or(self.url.len() - at - 3));
        if let Err(error) = plain.parse::<crate::config::HttpUrl>() {
            faults.push(Fault::new("url", error.wrong, error.remedy));
        } else if self.url[..host_end].contains("${") {
            let remedy = "put ${destination} into the path: a record must not choose the server";
            faults.push(Fault::new("url", "the URL's host comes from the record", remedy));
        } else if let Some(unknown) = plain.find("${") {
            let wrong = format!("\"{}\" is not replaced", plain[unknown..].split_inclusive('}').next().unwrap_or_default());
            faults.push(Fault::new(
                "url",
                wrong,
                "only ${destination} is; what it holds is decided by a plugin such as destination-pattern",
            ));
        }
        if self.in_flight_max == 0 {
            faults.push(Fault::new("in_flight_max", "in_flight_max is 0", "at least one request has to be in flight"));
        }
        if self.batch.records_max == 0 {
            faults.push(Fault::new("batch.records_max", "records_max is 0", "a request holds at least one record"));
        }
        if self.retry.delay_min > self.retry.delay_max {
            faults.push(Fault::new("retry.delay_min", "delay_min is longer than delay_max", "swap them"));
        }
        if self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
            let fault = Fault::new("headers", "a login stands in the file in plain text", "use `auth`, whose secrets are never printed");
            faults.push(fault.warning());
        }
        faults
    }
}
