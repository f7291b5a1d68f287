//! Client and server over real sockets.

use super::*;
use crate::diffusion::connect::{ConnectError, Settings};
use crate::diffusion::handshake::Refusal;
use crate::diffusion::service::{Constraint, Reason, Request, TopicType, read_created, read_removed};
use crate::diffusion::session::{Event, Session};
use crate::diffusion::subscriptions::{Subscriptions, Update};

const PATIENCE: Duration = Duration::from_secs(10);

fn settings(server: &Server) -> Settings {
    Settings {
        url: server.url().parse().unwrap(),
        username: "admin".into(),
        password: Some("hunter2".into()),
        tls: None,
        timeout: PATIENCE,
    }
}

struct Client {
    session: Session<u32>,
    answers: HashMap<u32, Result<Bytes, i32>>,
    subscriptions: Subscriptions,
    updates: Vec<Update>,
    asked: u32,
}

impl Client {
    async fn connect(server: &Server) -> Client {
        let session = Session::connect(&settings(server)).await.unwrap();
        Client { session, answers: HashMap::new(), subscriptions: Subscriptions::default(), updates: Vec::new(), asked: 0 }
    }

    async fn wait(&mut self) -> Result<(), String> {
        let mut events = Vec::new();
        let waited = tokio::time::timeout(PATIENCE, self.session.events(&mut events)).await.expect("something in time");
        for event in events {
            match event {
                Event::Answer { of, answer, .. } => {
                    assert!(self.answers.insert(of, answer.map_err(|refused| refused.code)).is_none(), "answered twice");
                }
                event => self.updates.extend(self.subscriptions.take(event).unwrap()),
            }
        }
        waited.map_err(|lost| lost.to_string())
    }

    async fn ask(&mut self, request: Request<'_>) -> Result<Bytes, i32> {
        self.asked += 1;
        let number = self.asked;
        self.session.request(&request, number).unwrap();
        while !self.answers.contains_key(&number) {
            self.wait().await.unwrap();
        }
        self.answers.remove(&number).unwrap()
    }

    async fn update(&mut self) -> Update {
        while self.updates.is_empty() {
            self.wait().await.unwrap();
        }
        self.updates.remove(0)
    }
}

fn set<'a>(path: &'a str, value: &'a [u8]) -> Request<'a> {
    Request::Set { path, kind: TopicType::JSON, value, constraint: Constraint::None }
}

fn add_and_set<'a>(path: &'a str, value: &'a [u8]) -> Request<'a> {
    Request::AddAndSet { path, specification: Specification::new(TopicType::JSON), value, constraint: Constraint::None }
}

#[tokio::test]
async fn topics_are_created_set_and_removed() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut client = Client::connect(&server).await;
    assert_eq!(client.session.server().message_bytes_max, 256 << 10);
    assert_eq!(client.ask(Request::UserPing).await, Ok(Bytes::new()));
    assert_eq!(client.ask(set("a/b", b"\x01")).await, Err(503));
    let created = client.ask(add_and_set("a/b", b"\x01")).await.unwrap();
    assert_eq!(read_created(&created), Ok(true));
    let created = client.ask(add_and_set("a/b", b"\x02")).await.unwrap();
    assert_eq!(read_created(&created), Ok(false));
    assert_eq!(client.ask(set("a/b", b"\x03")).await, Ok(Bytes::new()));
    assert_eq!(server.value("a/b").as_deref(), Some(&b"\x03"[..]));
    assert_eq!(client.ask(add_and_set("/a", b"\x01")).await, Err(9005));
    let string = Specification::new(TopicType::STRING);
    assert_eq!(client.ask(Request::Add { path: "a/b", specification: string }).await, Err(9004));
    let constraint = Constraint::Value(b"\x02");
    let conditional = Request::Set { path: "a/b", kind: TopicType::JSON, value: b"\x04", constraint };
    assert_eq!(client.ask(conditional).await, Err(9012));
    assert_eq!(client.ask(Request::Remove { selector: ">a" }).await.map(|count| read_removed(&count)), Ok(Ok(0)));
    assert_eq!(client.ask(Request::Remove { selector: ">a/b" }).await.map(|count| read_removed(&count)), Ok(Ok(1)));
    assert_eq!(server.topics(), 0);
    client.session.close().await;
    while server.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_subscriber_sees_every_update_in_order_mostly_as_deltas() {
    let server = Server::start(Options::default()).await.unwrap();
    let (mut writer, mut reader) = (Client::connect(&server).await, Client::connect(&server).await);
    let value = |number: u8| [&b"\x78\x30"[..], &[b'x'; 40], &[b'0' + number; 8]].concat();
    writer.ask(add_and_set("a/first", &value(0))).await.unwrap();
    reader.ask(Request::Subscribe { selector: "?a/" }).await.unwrap();
    let specification = Arc::new(Specification::new(TopicType::JSON));
    let (first, second): (Arc<str>, Arc<str>) = ("a/first".into(), "a/second".into());
    assert_eq!(reader.update().await, Update::Subscribed(first.clone(), specification.clone()));
    assert_eq!(reader.update().await, Update::Value(first.clone(), specification.clone(), value(0).into()));
    for number in 1..9 {
        writer.ask(set("a/first", &value(number))).await.unwrap();
        // An unchanged value is no update.
        writer.ask(set("a/first", &value(number))).await.unwrap();
        assert_eq!(reader.update().await, Update::Value(first.clone(), specification.clone(), value(number).into()));
    }
    writer.ask(add_and_set("a/second", b"\xf6")).await.unwrap();
    assert_eq!(reader.update().await, Update::Subscribed(second.clone(), specification.clone()));
    assert_eq!(reader.update().await, Update::Value(second.clone(), specification.clone(), (&b"\xf6"[..]).into()));
    writer.ask(Request::Remove { selector: "?a//" }).await.unwrap();
    assert_eq!(reader.update().await, Update::Unsubscribed(first, Reason::Removed));
    assert_eq!(reader.update().await, Update::Unsubscribed(second, Reason::Removed));
    writer.ask(add_and_set("b", b"\xf6")).await.unwrap();
    reader.ask(Request::Unsubscribe { selector: "?a/" }).await.unwrap();
    writer.ask(add_and_set("a/third", b"\xf6")).await.unwrap();
    reader.ask(Request::UserPing).await.unwrap();
    assert_eq!(reader.updates, [], "neither another branch nor one that is not wanted any more");
}

#[tokio::test]
async fn answers_in_any_order_find_their_requests() {
    let server = Server::start(Options { journal_max: 1000, ..Options::default() }).await.unwrap();
    server.delay(Some(Duration::from_millis(20)));
    let mut client = Client::connect(&server).await;
    let paths: Vec<String> = (0..200).map(|number| format!("t/{number}")).collect();
    for (number, path) in (0..).zip(&paths) {
        let request = if number % 3 == 0 { set(path, b"\x01") } else { add_and_set(path, b"\x01") };
        client.session.request(&request, number).unwrap();
    }
    assert_eq!(client.session.in_flight(), 200);
    while client.answers.len() < 200 {
        client.wait().await.unwrap();
        assert_eq!(client.session.in_flight(), 200 - client.answers.len());
        assert!(client.session.window() >= client.session.in_flight());
    }
    for number in 0..200 {
        let expected = if number % 3 == 0 { Err(503) } else { Ok(Bytes::from_static(&[0])) };
        assert_eq!(client.answers[&number], expected, "{number}");
    }
    assert_eq!(client.session.waits_since(), None);
    let made: Vec<String> = server.journal().into_iter().map(|(path, _)| path).collect();
    let expected: Vec<String> = (0..200).filter(|number| number % 3 != 0).map(|number| format!("t/{number}")).collect();
    assert_eq!(made, expected, "done in the order in which they came");
}

#[tokio::test]
async fn refused_logins_say_why() {
    let users = HashMap::from([("admin".to_owned(), "secret".to_owned())]);
    let server = Server::start(Options { users, ..Options::default() }).await.unwrap();
    let refused = async |settings: &Settings| Session::<()>::connect(settings).await.err().unwrap();
    let error = refused(&settings(&server)).await;
    assert!(error.is_permanent() && error.to_string().contains("user name and the password"), "{error}");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    let good = Settings { password: Some("secret".into()), ..settings(&server) };
    assert!(Session::<()>::connect(&good).await.is_ok());
    for (code, is_permanent) in [(102, true), (113, true), (115, true), (119, false), (50, false)] {
        server.refuse_connections(Some(code));
        let error = refused(&good).await;
        assert!(matches!(error, ConnectError::Refused(Refusal::Code(found)) if found == code), "{error}");
        assert_eq!(error.is_permanent(), is_permanent, "{code}");
    }
    server.refuse_connections(None);
    let elsewhere = Settings { url: format!("{}/x/diffusion", server.url()).parse().unwrap(), ..good.clone() };
    assert!(Session::<()>::connect(&elsewhere).await.is_ok(), "behind a gateway");
    drop(server);
    let error = refused(&good).await;
    assert!(!error.is_permanent(), "{error}");
}

#[tokio::test]
async fn whatever_else_listens_there_is_named() {
    use tokio::io::AsyncWriteExt;
    for (answer, expected) in
        [("HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"), ("SSH-2.0-OpenSSH\r\n", "does not speak HTTP"), ("", "broke off")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // What is not read before the end would reset the connection and with it the answer.
            let mut request = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let settings = Settings { url, username: String::new(), password: None, tls: None, timeout: PATIENCE };
        let error = Session::<()>::connect(&settings).await.err().unwrap();
        assert!(error.to_string().contains(expected) && !error.is_permanent(), "{error}");
        answering.await.unwrap();
    }
}

#[tokio::test]
async fn pings_are_answered_and_a_silent_server_is_noticed() {
    let period = Some(Duration::from_millis(400));
    let server = Server::start(Options { ping_period: period, ..Options::default() }).await.unwrap();
    let mut client = Client::connect(&server).await;
    // Nothing but pings for four periods.
    let mut events = Vec::new();
    let waited = tokio::time::timeout(Duration::from_millis(1700), client.session.events(&mut events)).await;
    assert!(waited.is_err(), "the session lives: {waited:?}");
    assert_eq!(server.connections(), 1);

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap()).parse().unwrap();
    let connected = handshake_only(silent);
    let settings = Settings { url, ..settings(&server) };
    let mut session = Session::<()>::connect(&settings).await.unwrap();
    let lost = tokio::time::timeout(PATIENCE, session.events(&mut Vec::new())).await.unwrap().unwrap_err();
    assert!(lost.to_string().contains("sent nothing"), "{lost}");
    connected.abort();
}

/// Takes one client, promises pings every 30 ms, and sends none.
fn handshake_only(listener: TcpListener) -> tokio::task::JoinHandle<()> {
    use crate::diffusion::handshake::{Connected, write};
    use crate::diffusion::link::Link;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream: Box<dyn crate::diffusion::link::Transport> = Box::new(stream);
        let mut link = Link::over(tokio_tungstenite::accept_async(stream).await.unwrap());
        let ping_period = Some(Duration::from_millis(30));
        link.send(write(&Connected { session: (1, 2), token: [b'x'; 24], ping_period, message_bytes_max: 1000 }));
        let _ = link.receive(&mut Vec::new()).await;
    })
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_sent_and_the_session_lives() {
    let server = Server::start(Options { message_bytes_max: 1000, ..Options::default() }).await.unwrap();
    let mut client = Client::connect(&server).await;
    let value = vec![0x20; 2000];
    let (of, error) = client.session.request(&set("a", &value), 7).unwrap_err();
    assert_eq!((of, error.bytes_max), (7, 1000));
    assert!(error.to_string().contains("at most 1000"), "{error}");
    assert_eq!(client.ask(Request::UserPing).await, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_cut_connection_hands_back_what_has_no_answer() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut client = Client::connect(&server).await;
    client.ask(add_and_set("a", b"\x00")).await.unwrap();
    server.cut_in(3);
    for number in 10..20 {
        client.session.request(&set("a", &[number as u8]), number).unwrap();
    }
    while client.wait().await.is_ok() {}
    assert_eq!(server.value("a").as_deref(), Some(&[12][..]), "the last one was made and not answered");
    let mut answered: Vec<u32> = client.answers.keys().copied().collect();
    answered.sort_unstable();
    assert_eq!(answered, [10, 11]);
    assert_eq!(client.session.unanswered().collect::<Vec<_>>(), (12..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_comes_back_at_its_address_with_or_without_its_topics() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut client = Client::connect(&server).await;
    client.ask(add_and_set("a", b"\x01")).await.unwrap();
    let address = server.address();
    let server = server.restart(Duration::ZERO, true).await.unwrap();
    while client.wait().await.is_ok() {}
    assert_eq!((server.address(), server.topics()), (address, 1));
    let server = server.restart(Duration::from_millis(10), false).await.unwrap();
    let mut client = Client::connect(&server).await;
    assert_eq!(client.ask(set("a", b"\x01")).await, Err(503));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_of_more_than_the_server_writes_at_once() {
    let server = Server::start(Options { ping_period: None, ..Options::default() }).await.unwrap();
    for number in 0..500 {
        server.set(&format!("p/{number}"), &Specification::new(TopicType::BINARY), &[7; 10_000]).unwrap();
    }
    let mut client = Client::connect(&server).await;
    client.ask(Request::Subscribe { selector: "?p//" }).await.unwrap();
    while client.updates.iter().filter(|update| matches!(update, Update::Value(..))).count() < 500 {
        client.wait().await.unwrap();
    }
    assert!(client.subscriptions.bytes() > 5_000_000);
}
