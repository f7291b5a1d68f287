//! Looking whether a source can work, without running it.
//!
//! Invariant: nothing is changed at the server, and the session is ended again.

use std::time::Duration;

use crate::config::DiffusionSource;
use crate::diffusion::service::Request;
use crate::diffusion::session::{Event, Session};

/// Looks whether the server takes the login and the topic selectors; what it has not answered within `patience` counts as taken, since
/// values may come first.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(source: &DiffusionSource, selectors: Vec<&str>, patience: Duration) -> Result<(), Vec<String>> {
    let settings = source.settings().map_err(|reason| vec![reason])?;
    let connected = Session::<&str>::connect(&settings).await;
    let mut session = connected.map_err(|error| vec![format!("{}: {error}", settings.url)])?;
    let mut problems = Vec::new();
    for selector in selectors {
        if let Err((_, too_long)) = session.request(&Request::Subscribe { selector }, selector) {
            problems.push(format!("the topic selector {selector:?}: {too_long}"));
        }
    }
    let answers = async {
        let mut events = Vec::new();
        while session.in_flight() > 0 && session.events(&mut events).await.is_ok() {
            for event in events.drain(..) {
                if let Event::Answer { of, answer: Err(refused), .. } = event {
                    problems.push(format!("the topic selector {of:?}: {refused}"));
                }
            }
        }
    };
    let _ = tokio::time::timeout(patience, answers).await;
    session.close().await;
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
