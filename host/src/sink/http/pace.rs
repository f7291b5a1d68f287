//! How the host behaves: whether it answers at all, and until when it wants to be left alone.
//!
//! Invariant: no request starts before the moment that the host named; one log line per change of state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::observe::SinkMetrics;

/// A host that names a time further away is asked again after so long.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Requests that waited for the same moment start within a quarter of the wait, at most within so long.
const SPREAD_MAX: Duration = Duration::from_secs(1);
/// A host that fails for less than so long is not told to be down.
const BLIP_MAX: Duration = Duration::from_millis(100);

/// The state of the host that a sink writes to, shared by its requests.
#[derive(Debug)]
pub struct Pace {
    metrics: SinkMetrics,
    /// Until when the host wants no request, and how long the requests then spread.
    hold: Mutex<Option<(Instant, Duration)>>,
    /// When the first request failed since one succeeded.
    failing: Mutex<Option<Instant>>,
    is_down: AtomicBool,
}

impl Pace {
    /// A host that is believed to answer.
    pub fn new(metrics: SinkMetrics) -> Self {
        Pace { metrics, hold: Mutex::new(None), failing: Mutex::new(None), is_down: AtomicBool::new(false) }
    }

    /// Waits until the host may be asked. Cancel safe.
    pub async fn wait(&self) {
        loop {
            let Some((until, spread)) = *self.hold.lock() else { return };
            if Instant::now() >= until {
                *self.hold.lock() = None;
                return;
            }
            tokio::time::sleep_until(until + spread.mul_f64(fastrand::f64())).await;
        }
    }

    /// The host wants no request for `after`.
    pub fn hold(&self, after: Duration) {
        let after = after.min(RETRY_AFTER_MAX);
        let until = Instant::now() + after;
        let mut hold = self.hold.lock();
        if hold.is_none_or(|(kept, _)| until > kept) {
            *hold = Some((until, (after / 4).min(SPREAD_MAX)));
        }
    }

    /// Whether no request got through lately.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// A request got an answer that settles it.
    pub fn succeeded(&self) {
        *self.failing.lock() = None;
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.metrics.up();
        }
    }

    /// A try of a request failed that began at `started`. The host counts as down when a try fails that began a while after another had
    /// failed, and none succeeded meanwhile: a single record that it cannot digest does not make it so. It may be another request's
    /// try: where the host asks all to wait, each may have failed once only.
    pub fn failed(&self, started: Instant, reason: &str) {
        let since = *self.failing.lock().get_or_insert_with(Instant::now);
        if started > since + BLIP_MAX && !self.is_down.swap(true, Ordering::Relaxed) {
            self.metrics.down(reason);
        }
    }
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): seconds or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO), "a date that is over");
        assert_eq!(retry_after("soon", now), None);
    }

    #[tokio::test]
    async fn nobody_asks_before_the_latest_moment_that_the_host_named() {
        let pace = Pace::new(SinkMetrics::detached());
        let start = Instant::now();
        pace.hold(Duration::from_millis(80));
        pace.hold(Duration::from_millis(20));
        pace.wait().await;
        assert!(start.elapsed() >= Duration::from_millis(80));
        assert!(pace.hold.lock().is_none());
    }

    #[test]
    fn an_absurd_moment_does_not_stop_the_sink_for_ever() {
        let pace = Pace::new(SinkMetrics::detached());
        pace.hold(Duration::from_secs(u64::MAX));
        let held = pace.hold.lock().map(|(until, _)| until - Instant::now());
        assert!(held.is_some_and(|held| held <= RETRY_AFTER_MAX));
    }

    #[test]
    fn a_host_is_down_only_when_nobody_succeeds() {
        let metrics = SinkMetrics::detached();
        let pace = Pace::new(metrics);
        let is_down = || pace.is_down();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        pace.failed(now, "503");
        pace.failed(now, "503");
        assert!(!is_down(), "requests that failed together are no outage");
        pace.succeeded();
        pace.failed(now, "503");
        assert!(!is_down(), "another request succeeded");
        pace.failed(later, "503");
        assert!(is_down());
        pace.succeeded();
        assert!(!is_down());
    }
}
