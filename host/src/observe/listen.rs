//! The listener: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever runs the process.
//!
//! Invariant: it only reads. It listens where the configuration says and nowhere else, and takes no bodies.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::Metrics;

/// Content type of the OpenMetrics text format, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A listener that has its address and answers nobody yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    metrics: Metrics,
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// Where somebody else has it, or it is not one of this machine.
    pub async fn bind(address: SocketAddr, metrics: Metrics) -> std::io::Result<Self> {
        Ok(Listener { listener: TcpListener::bind(address).await?, metrics })
    }

    /// Where it listens; a port 0 of the configuration is a real one here.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    ///
    /// # Errors
    /// What the system says.
    pub async fn run(self) -> std::io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(self.metrics);
        axum::serve(self.listener, router).await
    }
}

async fn metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text())
}

/// 200 when every part works; else 503 and a line for each that does not.
async fn ready(State(metrics): State<Metrics>) -> impl IntoResponse {
    let waiting = metrics.not_ready();
    if waiting.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    // One line each, whatever a server put into its answer.
    let line = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let lines: String = waiting.iter().map(|(part, reason)| format!("{}: {}\n", line(part), line(reason))).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn start(metrics: &Metrics) -> impl AsyncFn(&str) -> (u16, String, String) {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), metrics.clone()).await.unwrap();
        let address = listener.address().unwrap();
        tokio::spawn(listener.run());
        async move |path: &str| {
            let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
            let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
            (response.status().as_u16(), kind, response.text().await.unwrap())
        }
    }

    #[tokio::test]
    async fn readiness_names_every_part_that_is_waited_for() {
        let metrics = Metrics::new();
        let sink = metrics.route(&"orders".into()).sink("live");
        let ask = start(&metrics).await;
        assert_eq!(ask("/readyz").await.0, 200);
        sink.down("the host answered 503:\nbusy");
        let (status, _, text) = ask("/readyz").await;
        assert_eq!((status, text.as_str()), (503, "sink \"live\" of route \"orders\": the host answered 503: busy\n"));
        assert_eq!(ask("/healthz").await.0, 200, "alive all the same");
        sink.up();
        assert_eq!(ask("/readyz").await.0, 200);
        assert_eq!(ask("/other").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_with_the_labels_of_route_and_sink() {
        let metrics = Metrics::new();
        let route = metrics.route(&"orders".into());
        route.sink("live").outputs.inc_by(7);
        let (status, kind, text) = start(&metrics).await("/metrics").await;
        assert_eq!((status, kind.as_str()), (200, OPEN_METRICS));
        assert!(text.contains("anabranch_sink_outputs_total{route=\"orders\",sink=\"live\"} 7\n"), "{text}");
        assert!(text.contains("anabranch_sink_up{route=\"orders\",sink=\"live\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error_at_once() {
        let first = Listener::bind(([127, 0, 0, 1], 0).into(), Metrics::new()).await.unwrap();
        assert!(Listener::bind(first.address().unwrap(), Metrics::new()).await.is_err());
    }
}
