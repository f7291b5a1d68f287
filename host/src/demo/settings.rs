//! The demo's configuration: a file like any other, so that it is an example too.
//!
//! Invariant: what the file says is what runs; the demo sets nothing past it.

use std::path::Path;

use serde_json::Value as Json;

use super::shop::TOPIC;
use super::summary::{HTTP, LAKE, LIVE};
use super::{DEAD_LETTERS, TABLE};

/// What the plugins of the route do, in a few words.
pub const RULE: &str = "not paid for";

/// The sink of the dead letters.
pub const LETTERS: &str = "letters";
/// The route.
pub const ROUTE: &str = "orders";

/// Where the demo's servers are.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Host and port of Kafka.
    pub brokers: String,
    /// URL of the schema registry.
    pub registry: String,
    /// URL of the HTTP receiver.
    pub receiver: String,
    /// URL of the Diffusion server.
    pub diffusion: String,
}

/// The text of the configuration for the demo in `folder`, an absolute path.
pub fn text(servers: &Servers, folder: &Path) -> String {
    let Servers { brokers, registry, receiver, diffusion } = servers;
    // TOML's strings are JSON's, but for what no path has.
    let table = Json::from(folder.join(TABLE).to_string_lossy()).to_string();
    format!(
        r#"# What `anabranch demo` runs. The four servers below live as long as the demo does; with your own in their
# place the same file works for `anabranch run`.

[source.shop.kafka]
brokers = ["{brokers}"]

[registry.main]
url = "{registry}"

# Rows of one Delta table; a table commit every second.
[sink.{LAKE}.delta]
uri = {table}
batch = {{ age_max = "1 s" }}

# Requests with one order a line, to the path of its country.
[sink.{HTTP}.http]
url = "{receiver}/${{destination}}"
batch = {{ form = "lines" }}

# The last order of each country, as the value of a topic. There are few topics, so each may have several updates on their way.
[sink.{LIVE}.diffusion]
url = "{diffusion}"
path_in_flight_max = 64

# Records that nobody can read, with the reason.
[sink.{LETTERS}.file]
path = "{DEAD_LETTERS}"

[route.{ROUTE}]
topics = ["{TOPIC}"]
key = "string"
value = "avro"
start = "earliest"
through = [
  # Orders that are not paid for go no further.
  {{ plugin = "filter", config = {{ where = "status in ('PAID', 'SHIPPED')" }} }},
  # The others become events: an id, the columns, and where the record stood.
  {{ plugin = "row-to-event", config = {{
    id = "order_id",
    payload = {{ all_except = ["order_id"], inline = true }},
    meta = {{ source = {{ const = "shop" }}, partition = {{ record = "partition" }}, offset = {{ record = "offset" }} }},
  }} }},
  # Each has a destination of its own; the table does not ask for one.
  {{ plugin = "destination-pattern", config = {{ pattern = "orders/${{value.country}}" }} }},
]
to = ["{LAKE}", "{HTTP}", "{LIVE}"]
dead_letters = "{LETTERS}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_no_problems() {
        let servers = Servers {
            brokers: "127.0.0.1:9092".to_owned(),
            registry: "http://127.0.0.1:8081".to_owned(),
            receiver: "http://127.0.0.1:8080".to_owned(),
            diffusion: "ws://127.0.0.1:8082".to_owned(),
        };
        let folder = tempfile::tempdir().unwrap();
        let loaded = crate::config::parse(&text(&servers, folder.path()), Path::new("anabranch.toml"), folder.path());
        let loaded = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert!(loaded.report.problems.is_empty(), "{}", loaded.report.render(false));
    }
}
