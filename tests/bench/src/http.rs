//! The receiver of the HTTP rows, and a bare client that sends to it: each in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Serves until it is killed: reads every body and answers 200. Prints its URL.
pub async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    println!("http://{}/", listener.local_addr().expect("it is bound"));
    let service = Router::new().fallback(|_: Bytes| async {}).layer(axum::extract::DefaultBodyLimit::disable());
    axum::serve(listener, service).await.expect("the socket stays");
}

/// Arguments of the bare client.
#[derive(Debug, clap::Args)]
pub struct Bare {
    #[arg(long)]
    url: String,
    /// How many requests
    #[arg(long)]
    requests: u64,
    /// Bytes of each body
    #[arg(long)]
    bytes: usize,
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
}

/// Sends requests, so many at a time. Prints the seconds that it took.
pub async fn bare(arguments: &Bare) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(arguments.in_flight).build().expect("the settings are good");
    let body = Bytes::from(vec![b'x'; arguments.bytes]);
    let left = Arc::new(AtomicU64::new(arguments.requests));
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..arguments.in_flight {
        let (client, body, left, url) = (client.clone(), body.clone(), left.clone(), arguments.url.clone());
        loops.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let answer = client.post(&url).header("content-type", "application/json").body(body.clone()).send().await;
                assert!(answer.expect("the receiver answers").status().is_success());
            }
        });
    }
    loops.join_all().await;
    println!("{} 0", started.elapsed().as_secs_f64());
}
