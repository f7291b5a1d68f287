//! Apache Kafka: one broker with a listener for every way to encrypt and to log in.
//!
//! Invariant: [`Broker::shared`] is one broker for all tests of a process; tests stay apart by the names of their topics and groups.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::artifacts;
use crate::between::Between;
use crate::process::{Process, folder, free_ports, run, tail};
use crate::security::{PLAIN_USER, SCRAM_USER, Security};
use crate::topic::Topic;
use crate::wait::until;

const START_MAX: Duration = Duration::from_secs(120);
/// Somebody else may take a free port before the broker does.
const ATTEMPTS_MAX: u32 = 3;
/// As much as many at a time can have.
const SMALL: &[&str] = &["-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// As `kafka-server-start.sh` of Kafka 4.1 does, with all memory from the start.
const AS_IN_PRODUCTION: &[&str] = &[
    "-Xms1g",
    "-Xmx1g",
    "-XX:+AlwaysPreTouch",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];
const CLUSTER: &str = "anabranchTestCluster00";

/// How clients meet the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listener {
    /// Neither encrypted nor logged in.
    Plaintext,
    /// TLS.
    Ssl,
    /// TLS, and the client shows a certificate too.
    Mtls,
    /// A login without TLS.
    SaslPlaintext,
    /// A login over TLS.
    SaslSsl,
}

impl Listener {
    /// All.
    pub const ALL: [Listener; 5] = [Listener::Plaintext, Listener::Ssl, Listener::Mtls, Listener::SaslPlaintext, Listener::SaslSsl];

    fn name(self) -> &'static str {
        ["INTERNAL", "SSL", "MTLS", "SASL_PLAINTEXT", "SASL_SSL"][self as usize]
    }

    fn protocol(self) -> &'static str {
        ["PLAINTEXT", "SSL", "SSL", "SASL_PLAINTEXT", "SASL_SSL"][self as usize]
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    process: Process,
    folder: PathBuf,
    ports: [u16; Listener::ALL.len()],
    options: &'static [&'static str],
    /// The certificates of its encrypted listeners.
    pub security: Security,
}

impl Broker {
    /// The broker that the tests of this process share.
    pub fn shared() -> &'static Broker {
        static SHARED: LazyLock<Broker> = LazyLock::new(Broker::start);
        &SHARED
    }

    /// Starts a broker and waits until it answers.
    ///
    /// # Panics
    /// With the broker's own last words, where it does not start.
    pub fn start() -> Broker {
        Broker::start_with(None, SMALL)
    }

    /// The same as brokers run in production: for benchmarks.
    pub fn start_for_production() -> Broker {
        Broker::start_with(None, AS_IN_PRODUCTION)
    }

    /// The same, and whoever connects to [`Broker::plaintext`] meets `between`.
    pub fn start_behind(between: &Between) -> Broker {
        Broker::start_with(Some(between), SMALL)
    }

    fn start_with(between: Option<&Between>, options: &'static [&'static str]) -> Broker {
        let security = Security::new();
        for attempt in 1.. {
            let folder = folder("kafka");
            let [controller, ports @ ..] = free_ports::<{ Listener::ALL.len() + 1 }>();
            let mut advertised = ports;
            if let Some(between) = between {
                between.lead_to(ports[Listener::Plaintext as usize]);
                advertised[Listener::Plaintext as usize] = between.port();
            }
            std::fs::write(folder.join("server.properties"), properties(&folder, &ports, &advertised, controller, &security)).unwrap();
            format(&folder);
            let process = launch(&folder, options);
            let ports = advertised;
            let mut broker = Broker { process, folder, ports, options, security: security.clone() };
            match broker.wait_ready() {
                Ok(()) => return broker,
                Err(said) if attempt == ATTEMPTS_MAX => panic!("Apache Kafka does not start; its log ends with:\n{said}"),
                Err(_) => (),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let client: BaseConsumer = self.client().create().unwrap();
        until("Apache Kafka to start", START_MAX, || {
            if self.process.ended().is_some() {
                return Some(Err(tail(&self.process.stdout, 30) + &tail(&self.process.stderr, 10)));
            }
            client.fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|data| !data.brokers().is_empty()).then_some(Ok(()))
        })
    }

    /// Address of a listener, `host:port`.
    pub fn address(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.ports[listener as usize])
    }

    /// Address of the listener that asks for nothing.
    pub fn plaintext(&self) -> String {
        self.address(Listener::Plaintext)
    }

    /// Settings of the tests' own clients.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.plaintext()).set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        client
    }

    /// A new topic, whose name begins with `name` and is no other test's.
    pub fn topic(&self, name: &str, partitions: i32) -> Topic {
        self.topic_with(name, partitions, &[])
    }

    /// The same with settings of its own, such as `cleanup.policy`.
    pub fn topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Topic::create(self.client(), &name, partitions, settings)
    }

    /// Kills the broker (SIGKILL); what it stored stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a broker that was killed, with the same ports and what it stored.
    pub fn restart(&mut self) {
        self.process = launch(&self.folder, self.options);
        self.wait_ready().unwrap_or_else(|said| panic!("Apache Kafka does not start again; its log ends with:\n{said}"));
    }

    /// Process id, for signals such as SIGSTOP.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn java(options: &[&str]) -> Command {
    let mut java = Command::new("java");
    // Without room for classes it would stop for a full collection several times while it starts.
    java.args(options).args(["-XX:MetaspaceSize=128m", "-Dlog4j2.level=WARN", "-cp"]);
    java.arg(artifacts::kafka().join("*"));
    java
}

fn format(folder: &Path) {
    let properties = folder.join("server.properties");
    let (name, password) = SCRAM_USER;
    let users = ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| format!("{mechanism}=[name={name},password={password}]"));
    let mut command = java(SMALL);
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(&properties);
    command.args(users.iter().flat_map(|user| ["--add-scram", user]));
    run("java", command.get_args());
}

fn launch(folder: &Path, options: &[&str]) -> Process {
    Process::start("kafka", java(options).arg("kafka.Kafka").arg(folder.join("server.properties")), folder)
}

fn properties(folder: &Path, ports: &[u16], advertised: &[u16], controller: u16, security: &Security) -> String {
    let listeners = |ports: &[u16], end: &str| {
        let each = Listener::ALL.map(|listener| format!("{}://127.0.0.1:{}", listener.name(), ports[listener as usize]));
        each.join(",") + end
    };
    let protocols = Listener::ALL.map(|listener| format!("{}:{}", listener.name(), listener.protocol())).join(",");
    let (plain_user, plain_password) = PLAIN_USER;
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners={}
advertised.listeners={}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
log.dirs={}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=10485760
log.cleaner.backoff.ms=500
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
",
        listeners(ports, &format!(",CONTROLLER://127.0.0.1:{controller}")),
        listeners(advertised, ""),
        folder.join("data").display(),
        security.server_store().display(),
        security.ca().display(),
    );
    let module = "org.apache.kafka.common.security";
    for listener in ["sasl_plaintext", "sasl_ssl"] {
        let login = format!("listener.name.{listener}");
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            writeln!(text, "{login}.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;").unwrap();
        }
        let plain = format!("{module}.plain.PlainLoginModule required user_{plain_user}=\"{plain_password}\";");
        writeln!(text, "{login}.plain.sasl.jaas.config={plain}").unwrap();
        // Takes unsigned tokens; the login is the broker's own, which it never uses.
        let bearer = format!("{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";");
        writeln!(text, "{login}.oauthbearer.sasl.jaas.config={bearer}").unwrap();
    }
    text
}
