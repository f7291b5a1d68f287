//! Framing, unknown schemas, registries that do not answer.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

struct Scripted(Mutex<Vec<Answer>>, AtomicU32);

impl Ask for Scripted {
    fn ask(&self, _: u32) -> BoxFuture<'_, Answer> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.0.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Box::pin(async { answer })
    }
}

fn found() -> Answer {
    Answer::Found(Arc::new(Schema::avro(r#""string""#, &[]).unwrap()), None)
}

fn resolver(answers: Vec<Answer>) -> (Arc<Resolver>, mpsc::Receiver<WorkerMessage>) {
    let (worker, inbox) = mpsc::channel();
    let registry: Arc<dyn Ask> = Arc::new(Scripted(Mutex::new(answers), AtomicU32::new(0)));
    (Resolver::new(Arc::default(), Some(registry), vec![worker], Duration::from_secs(60), Stop::new()), inbox)
}

fn batch(values: &[&[u8]]) -> Batch {
    let mut entries = Entries::default();
    let mut keys = Entries::default();
    for value in values {
        entries.push(Some(value));
        keys.push(None);
    }
    Batch {
        topic: "t".into(),
        partition: 0,
        offsets: (0..values.len() as i64).collect(),
        timestamps: vec![0; values.len()],
        keys,
        values: entries,
        headers: Default::default(),
        key_schemas: Handles::All(0),
        value_schemas: Handles::All(0),
        permit: None,
    }
}

const AVRO: Formats = Formats { key: Format::Raw, value: Format::Avro };

async fn settled(inbox: &mpsc::Receiver<WorkerMessage>) {
    while inbox.try_recv().is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_registry_is_waited_out_and_loses_nothing() {
    let (resolver, inbox) = resolver(vec![Answer::Unavailable("no answer".into()), Answer::Unavailable("503".into()), found()]);
    let mut records = batch(&[b"\0\0\0\0\x07\x02a"]);
    assert!(resolver.resolve(&mut records, AVRO).is_none());
    settled(&inbox).await;
    let letters = resolver.resolve(&mut records, AVRO).unwrap();
    assert!(letters.is_empty());
    assert_eq!(records.value_schemas, Handles::All(1));
    assert_eq!(records.value(0), Some(&b"\x02a"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_the_registry_has_not_is_given_up_after_the_wait() {
    let (resolver, inbox) = resolver(vec![Answer::NotThere]);
    let mut records = batch(&[b"\0\0\0\0\x07\x02a"]);
    let began = Instant::now();
    assert!(resolver.resolve(&mut records, AVRO).is_none());
    settled(&inbox).await;
    assert!(began.elapsed() >= Duration::from_secs(60));
    let letters = resolver.resolve(&mut records, AVRO).unwrap();
    assert_eq!((letters[0].class, letters[0].message.as_str()), (Class::Schema, "value: the registry has no schema 7"));
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_comes_late_is_found_within_the_wait() {
    let (resolver, inbox) = resolver(vec![Answer::NotThere, Answer::NotThere, found()]);
    let mut records = batch(&[b"\0\0\0\0\x07\x02a"]);
    assert!(resolver.resolve(&mut records, AVRO).is_none());
    settled(&inbox).await;
    assert!(resolver.resolve(&mut records, AVRO).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_magic_byte_is_a_dead_letter_at_once_and_its_neighbours_go_on() {
    let (resolver, inbox) = resolver(vec![found()]);
    let mut records = batch(&[b"\0\0\0\0\x07\x02a", b"{}", b"", b"\0\0", b"\0\0\0\0\x07\x02b"]);
    assert!(resolver.resolve(&mut records, AVRO).is_none());
    settled(&inbox).await;
    let letters = resolver.resolve(&mut records, AVRO).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.record).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(letters[0].message, "value: starts with byte 0x7b, not with the 0x00 of a value with a schema id");
    assert_eq!(records.value_schemas, Handles::Each(vec![1, 0, 0, 0, 1]));
}

#[tokio::test(start_paused = true)]
async fn json_may_be_framed_or_not_from_record_to_record() {
    let (resolver, inbox) = resolver(vec![found()]);
    let mut records = batch(&[b"{}", b"\0\0\0\0\x07{}"]);
    let formats = Formats { key: Format::Raw, value: Format::Json };
    assert!(resolver.resolve(&mut records, formats).is_none());
    settled(&inbox).await;
    assert!(resolver.resolve(&mut records, formats).unwrap().is_empty());
    assert_eq!((records.value(0), records.value(1)), (Some(&b"{}"[..]), Some(&b"{}"[..])));
}
